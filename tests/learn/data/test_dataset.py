"""A history as examples: what is left out and why, what an example may know, and the replay of the hook."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gitpeft.config import Config
from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.prompt import PROMPT_BUDGET
from gitpeft.diff.render import TokenBudget, render_change
from gitpeft.diff.stored import shorten_change
from gitpeft.git.repository import Repository
from gitpeft.history import pool, step_share
from gitpeft.history.store import CommitRecord, History
from gitpeft.lazy import replace_fields
from gitpeft.learn.data import dataset, example_index
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.evaluation import trial
from gitpeft.runtime import tokenizer
from gitpeft.runtime.tokenizer import TokenCodec
from gitpeft.suggest import service
from tests.support import generated, tinymodel
from tests.support.generated import AUTHORS, Step
from tests.support.gitrepo import Repo

CODE = compact_change([FileChange("src/a.py", "M", added=1, hunks=[Hunk("", ["+x = 1"])])])
LOCK = compact_change([FileChange("yarn.lock", "M", added=9), FileChange("vendor/x.go", "M", added=9)])


def record(subject: str, **changes: Any) -> CommitRecord:
    number = changes.pop("number", abs(hash(subject)) % 10**6)
    given = {
        "sha": f"{number:040x}", "parents": 1, "time": number, "commit_time": number, "author": "ada",
        "bot": False, "subject": subject, "body": "", "change": CODE, "files": 1, "added": 1, "removed": 0,
        "_paths": "",
    }  # fmt: skip
    return CommitRecord(**{**given, **changes})


def history(count: int) -> list[CommitRecord]:
    """Records with different changes and authors."""
    return [
        record(
            f"change number {i}", number=i, author="ab"[i % 2],
            change=compact_change(
                [FileChange(f"src/m{i % 7}.py", "M", added=i, hunks=[Hunk("", [f"+v{i % 5}"])])]
            ),
        )
        for i in range(count)
    ]  # fmt: skip


def mined(repo: Repo, tip: str = "HEAD") -> list[CommitRecord]:
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as cache:
        cache.mine_commits(repository, tip, jobs=1)
        return cache.load_records(repository, tip)


# --- what is left out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (record("Merge branch 'x'", parents=2), "merge"),
        (record("bump x", bot=True), "bot"),
        (record("Revert \"add x\""), "revert"),
        (record("reapply: add x"), "revert"),
        (record("fixup! add x"), "fixup"),
        (record("squash! add x"), "fixup"),
        (record("add x", body="Co-Authored-By: Claude <noreply@example.org>"), "written by an assistant"),
        (record("add x", body="text\n\nAssisted-by: GitHub Copilot"), "written by an assistant"),
        (record("add x", body="🤖 Generated with [Claude Code](x)"), "written by an assistant"),
        (record("(#12)"), "no message"),
        (record("add x", change=""), "no change"),
        (record("update dependencies", change=LOCK), "generated files only"),
    ],
)  # fmt: skip
def test_what_teaches_nothing_is_left_out_and_counted(one: CommitRecord, reason: str) -> None:
    made = dataset.build_dataset([record("add a", number=1), one, record("add b", number=2)], 3)
    assert [e.message for e in made.examples] == ["add a", "add b"]
    assert made.left_out == {reason: 1}


@pytest.mark.parametrize(
    "one",
    [
        record("revertible transactions"),
        record("add x", body="Co-authored-by: Grace <grace@example.org>"),
        record("mention copilot in the docs", body="It works beside Copilot and Cursor."),
        record("lock and code", change=f"{LOCK}\n src/a.py +1 -0"),
        record("amend the docs"),
    ],
)
def test_what_only_looks_like_it_stays(one: CommitRecord) -> None:
    assert dataset.build_dataset([one], 3).left_out == {}


def test_a_message_is_learnt_once_whatever_its_number_and_case() -> None:
    subjects = ["Fix typo (#1)", "fix typo (#2)", "FIX TYPO", "fix another typo"]
    made = dataset.build_dataset([record(s, number=i) for i, s in enumerate(subjects)], 3)
    assert [e.message for e in made.examples] == ["Fix typo", "fix another typo"]
    assert made.left_out == {"repeated message": 2}


def test_nothing_at_all() -> None:
    made = dataset.build_dataset([], 3)
    assert made.examples == made.train == made.valid == made.test == () and len(made.index) == 0
    assert dataset.build_dataset([record("one")], 3).examples[0].like == ()


# --- what an example may know -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 9, 10, 57, 100])
def test_three_parts_in_the_order_of_time(count: int) -> None:
    made = dataset.build_dataset(history(count), 3)
    assert made.train + made.valid + made.test == made.examples
    assert [e.message for e in made.examples] == [f"change number {i}" for i in range(count)]
    assert len(made.test) - count / 10 < 1 and len(made.valid) - count / 10 <= 1
    assert [made.index.get_commit(i) for i in range(count)] == [(e.sha, e.message) for e in made.examples]


def test_exemplars_are_earlier_than_their_example_and_than_its_part() -> None:
    made = dataset.build_dataset(history(100), 3)
    place = {e.message: i for i, e in enumerate(made.examples)}
    starts = [0, made.first_valid, made.first_test]
    for i, example in enumerate(made.examples):
        limit = max(start for start in starts if start <= i) or i
        assert all(place[subject] < limit for subject in example.like)
        assert len(example.like) == min(3, len(example.like)) == len(set(example.like))
    assert all(len(e.like) == 3 for e in made.valid + made.test)


def test_nothing_later_changes_an_example() -> None:
    records = history(100)
    made = dataset.build_dataset(records, 3)
    end = made.first_test
    later = [replace(r, change=CODE, subject=f"other {i}") for i, r in enumerate(records[end:])]
    other = dataset.build_dataset(records[:end] + later, 3)
    assert other.train == made.train and other.valid == made.valid
    assert made.index_before(end).find_nearest(CODE, 3) == other.index_before(end).find_nearest(CODE, 3)
    assert len(made.index_before(end)) == end


def test_the_previous_subject_is_that_of_the_same_author() -> None:
    records = [
        record("one (#1)", number=1),
        record("two", number=2, author="ben"),
        record("merged", number=3, parents=2),
        record("bot", number=4, author="bot", bot=True),
        record("three", number=5),
        record("four", number=6, author="ben"),
    ]
    found = [before for _, before in dataset.iterate_with_previous(records)]
    assert found == ["", "", "one (#1)", "", "one (#1)", "two"]
    assert [e.previous for e in dataset.build_dataset(records, 3).examples] == ["", "", "one", "two"]


def test_previous_subjects_are_those_that_git_finds(repo: Repo) -> None:
    """At the edge of the window of 200 commits, too."""
    steps = [Step(f"ada {i}", AUTHORS[0], {"a": b"%d" % i}) for i in range(2)]
    steps += [Step(f"ben {i}", AUTHORS[1], {"a": b"b%d" % i}) for i in range(203)]
    shas = generated.put(repo, steps)
    found = [one for _, one in dataset.iterate_with_previous([*mined(repo), record("next", author="nobody")])]
    assert found[:4] == ["", "ada 0", "", "ben 0"] and found[-1] == ""
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as cache:
        ada = cache.hash_author("ada@example.org")
    records = mined(repo)
    for place in (199, 200, 201, 202):
        *_, (_, then) = dataset.iterate_with_previous([*records[:place], record("x", author=ada)])
        assert then == repository.find_previous_subject("ada@example.org", shas[place - 1])


def test_a_previous_subject_in_latin_1_is_read_alike(repo: Repo) -> None:
    generated.put(repo, [Step("caf\xe9: start".encode("latin-1"), AUTHORS[0], {"a": b"1"})])
    [only] = mined(repo)
    assert only.subject == "café: start"
    assert Repository.open(repo.path).find_previous_subject("ada@example.org") == only.subject


# --- the replay ---------------------------------------------------------------------------------------------


def odd_steps() -> list[Step]:
    """What histories hold beside ordinary edits."""
    text = b"".join(b"line %d\n" % i for i in range(30))
    key = b"AKIA" + b"QWERTYUIOPASDFGH"
    return [
        Step("docs: describe the parser (#12) (#13)", AUTHORS[1], {"docs/parser guide.md": text}),
        Step("docs: move the guide", AUTHORS[1],
             {"docs/parser guide.md": None, 'docs/"guide".md': text + b"x\n"}),
        Step("café: say it in UTF-8", AUTHORS[2], {"latin.txt": b"caf\xe9\r\n-- x\n"}),
        Step("latin: more of it", AUTHORS[2], {"latin.txt": b"caf\xe8\r\n++ x\n"}),
        Step("config: keep the key out", AUTHORS[0], {"src/config.py": b'key = "' + key + b'"\n'}),
        Step(b"config: replace " + key, AUTHORS[0], {"src/config.py": b'token = "' + key + b'"\nx = 1\n'}),
        Step("config: no key any more", AUTHORS[0], {"src/config.py": b"x = 2\n"}),
        Step("make it executable", AUTHORS[1], {"src/config.py": ("100755", b"x = 2\n")}),
        Step("link the guide", AUTHORS[2], {"guide.md": ("120000", b'docs/"guide".md')}),
        Step("the guide is a file", AUTHORS[2], {"guide.md": text}),
        Step("add a logo", AUTHORS[1], {"logo.png": bytes(range(256)), "empty.txt": b""}),
        Step("update dependencies", AUTHORS[0], {"yarn.lock": text}),
        Step("nothing to see", AUTHORS[0]),
        Step("drop what nobody reads", AUTHORS[1], {"latin.txt": None, "empty.txt": None}),
        Step("  session:   many  files at once\n\nwith a body\n", AUTHORS[2],
             {f"many/{'deep/' * (i % 9)}f{i}.py": text[: 40 * i] for i in range(40)}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, Dataset]:
    repo = Repo.create(tmp_path_factory.mktemp("replay") / "repo")
    team, odd = generated.team(66), odd_steps()
    steps = [*team[:20], *odd[:8], *team[20:40], *odd[8:], *team[40:]]
    generated.put(repo, steps)
    return repo, dataset.build_dataset(mined(repo), TokenBudget().exemplars)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An exported tiny model, and the settings of its decoding."""
    folder = tmp_path_factory.mktemp("model")
    return folder, tinymodel.fill(folder, tinymodel.pointer_t5())


@pytest.mark.parametrize("layout", ["marks", "prompt"])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_the_hook_reads_what_training_read(
    replayed: tuple[Repo, Dataset],
    model: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    layout: str,
) -> None:
    """Each commit's change, staged on its parent, gives the very tokens that its example gave."""
    repo, data = replayed
    codec = TokenCodec.load(model[0] / "tokenizer.json")
    asked: list[list[int]] = []

    def spy(*arguments: Any) -> list[int]:
        asked.append(render_change(*arguments))
        return asked[-1]

    monkeypatch.setattr(tokenizer, "render_change", spy)
    known = {"train": data.first_valid, "valid": data.first_valid, "test": data.first_test}[part]
    budget = TokenBudget() if layout == "marks" else replace_fields(PROMPT_BUDGET, total=150)
    manifest = _manifest(model[1], budget)
    monkeypatch.setattr(service, "open_active_bundle", lambda _: SimpleNamespace(manifest=manifest))
    fit = shorten_change if layout == "marks" else str
    with trial.open_trial_suggester(manifest, model[0], data.index_before(known), {}) as suggester:
        for example in _examples(data, part):
            before = example.sha if part == "train" else None
            for question in _staged(repo, example.sha):
                suggester.collect_candidates(question.change, question.previous, before=before)
                assert (question.change, asked[-1]) == (
                    fit(example.change),
                    render_change(example.change, example.like, example.previous, budget, codec),
                )
    assert len(asked) == len(_examples(data, part)) > 5


def _manifest(settings: dict[str, Any], budget: TokenBudget) -> Any:
    from gitpeft.bundle.bundle import Manifest

    return Manifest("model", "", budget=asdict(budget), settings=settings)


def _examples(data: Dataset, part: str) -> tuple[Example, ...]:
    found: tuple[Example, ...] = getattr(data, part)
    return found[1:] if part == "train" else found  # the first commit has no parent


def _staged(repo: Repo, sha: str) -> Iterator[service.SuggestionRequest]:
    """The hook's question, asked by the author of a commit when its tree is staged on its parent."""
    parent, mail = repo.git("log", "-1", "--format=%P %ae", sha).split()
    repo.git("checkout", "-q", "--detach", "-f", parent)
    repo.git("read-tree", sha)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_AUTHOR_EMAIL", mail)
        yield service.build_staged_request(Repository.open(repo.path), Config(), 1)


def test_the_replay_covers_what_is_odd(replayed: tuple[Repo, Dataset]) -> None:
    _, data = replayed
    text = "\n".join(shorten_change(e.change) for e in data.examples)
    for needed in ("<secret>", "(binary)", "(mode)", "(symlink)", "Rdocs", "Dlatin.txt", "~16", "Tguide.md"):
        assert needed in text, needed
    assert any("<secret>" in e.message for e in data.examples)
    assert any(e.previous == "docs: describe the parser" for e in data.examples)
    assert data.left_out == {"no change": 1, "generated files only": 1}


def test_of_a_long_history_the_newest_are_taken() -> None:
    asked: list[int] = []

    def limit(count: int) -> int:
        asked.append(count)
        return 20

    made = dataset.build_dataset(history(50), 3, limit=limit)
    whole = dataset.build_dataset(history(50), 3)
    assert asked == [50] and [e.sha for e in made.examples] == [e.sha for e in whole.examples[30:]]
    assert made.left_out == {dataset.OLDER_COMMITS: 30} and (made.first_valid, made.first_test) == (16, 18)
    bounded = dataset.build_dataset(history(50), 3, limit=lambda count: count - 1, most=20)
    assert bounded.examples == made.examples and bounded.left_out == made.left_out


@pytest.mark.skipif(sys.platform != "linux", reason="no copies of a process here")
def test_many_commits_are_counted_in_processes_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    records, told, shared_out = history(60), list[tuple[float, str]](), list[int]()
    alone = dataset.build_dataset(records, 3)
    run = pool.map_in_processes

    def map_in_processes(shares: Sequence[Any], work: Callable[[Any], Any]) -> Iterator[Any]:
        shared_out.append(len(shares))
        return run(shares, work)

    monkeypatch.setattr(example_index, "_PARALLEL_THRESHOLD", 10)
    monkeypatch.setattr(example_index, "_BATCH_SIZE", 7)
    monkeypatch.setattr(step_share, "_TOLD_EVERY", 25)
    monkeypatch.setattr(pool, "count_cores", lambda: 2)
    monkeypatch.setattr(pool, "can_fork", lambda: True)  # other tests leave idle threads of libraries behind
    monkeypatch.setattr(pool, "map_in_processes", map_in_processes)
    together = dataset.build_dataset(records, 3, listen=lambda *one: told.append(one))
    assert shared_out == [2] and together.examples == alone.examples
    shares, words = [share for share, _ in told], [words for _, words in told]
    assert words[:3] == ["filtering 25/60 commits", "filtering 50/60 commits", "7/60 commits"]
    assert told[-1] == (1.0, "60/60 commits") and shares == sorted(shares)
    assert any(example.like for example in together.examples)
    assert together.index.find_nearest(CODE, 5) == alone.index.find_nearest(CODE, 5)


def test_counting_ends_with_the_newest_when_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_index, "_BATCH_SIZE", 7)
    records, asked = history(50), list[int]()

    def is_enough(counted: int) -> bool:
        asked.append(counted)
        return counted > 20

    made = dataset.build_dataset(records, 3, limit=lambda count: count - 2, is_enough=is_enough)
    whole = dataset.build_dataset(records, 3)
    assert asked == [7, 14, 21] and made.left_out == {dataset.OLDER_COMMITS: 29}
    assert [e.sha for e in made.examples] == [e.sha for e in whole.examples[29:]]
    alone = dataset.build_dataset(records[29:], 3)
    assert [list(e.like) for e in made.examples] == [list(e.like) for e in alone.examples]
    assert made.index.find_nearest(CODE, 5) == alone.index.find_nearest(CODE, 5)
