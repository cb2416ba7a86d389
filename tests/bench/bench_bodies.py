"""How close the body of a similar commit comes to the real one: why only subjects are suggested.

    python tests/bench/bench_bodies.py flask=histories/flask.git gin=histories/gin.git …

On the newest tenth of each history, each commit with those before it in the index: how many messages have a
body in prose (trailers and the lists of squashed commits aside), how near the body of the most similar
earlier commit comes, and that of the most similar one that has a body; then how often the most similar one
has none where there should be none. B-Norm with 95 % intervals, beside that of the nearest subjects.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation import text_metrics, trial
from gitpeft.suggest.retrieval import CommitIndex
from tests.bench import histories

TRAILER = re.compile(r"[A-Z][\w-]*: \S|\(cherry picked from|\* ")
LEAST = 4
LOOKED_AT = 200


def main() -> None:
    arguments = histories.options(__doc__).parse_args()
    print("| history | test commits | with a body in prose | words in it (median) | nearest commit's body "
          "| body of the nearest commit that has one | correctly none "
          "| nearest subject, same commits |")  # fmt: skip
    print("|---" * 8 + "|")
    for item in arguments.histories:
        name, _, path = item.partition("=")
        records = histories.read(path)
        bodies = {one.sha: prose(one.body) for one in records}
        print(row(name, dataset.build_dataset(records, 0), bodies), flush=True)


def prose(body: str) -> str:
    """A body without trailers and squashed subjects; "" where less than a sentence is left."""
    lines = [line for line in body.splitlines() if not TRAILER.match(line.strip())]
    text = " ".join(" ".join(lines).split())
    return text if len(text.split()) >= LEAST else ""


def row(name: str, data: dataset.Dataset, bodies: dict[str, str]) -> str:
    index = data.index_before(data.first_test)
    nearest, any_body, subjects, references, wrong = [], [], [], [], 0
    for one, since in zip(data.test, trial.entries_known_before(data.test, data.test), strict=True):
        first, some = found(index.with_later_commits(since), one.change, bodies)
        if not bodies[one.sha]:
            wrong += bool(bodies.get(first[0], ""))
            continue
        nearest.append(bodies.get(first[0], ""))
        any_body.append(some)
        subjects.append((first[1], one.message))
        references.append(bodies[one.sha])
    without = len(data.test) - len(references)
    words = sorted(len(body.split()) for body in references)
    cells = [cell(nearest, references), cell(any_body, references), f"{1 - wrong / max(1, without):.0%}"]
    cells.append(cell(*map(list, zip(*subjects, strict=True))))
    return (
        f"| {name} | {len(data.test)} | {len(references)} ({len(references) / len(data.test):.0%}) "
        f"| {words[len(words) // 2]} | {' | '.join(cells)} |"
    )


def found(index: CommitIndex, change: str, bodies: dict[str, str]) -> tuple[tuple[str, str], str]:
    """The most similar commit (id, subject), and the body of the most similar one that has one."""
    near = index.find_nearest(change, LOOKED_AT, recency_weight=0)
    some = next((bodies[one.sha] for one in near if bodies.get(one.sha)), "")
    return ((near[0].sha, near[0].subject) if near else ("", "")), some


def cell(offered: list[str], references: list[str]) -> str:
    return histories.cell(text_metrics.b_norm(offered, references))


if __name__ == "__main__":
    main()
