"""One adapter that several repositories share: its examples, its training, its export.

What is made is in a folder <first repository's state>/org/<key>/, where the key is a hash of all that
determines it: the examples of all repositories, the adapter, and its ONNX files where they are needed. What
is there is not made again. One repository is open at a time, and of each only the examples are kept that
there is time to learn from, so that neither descriptors nor memory grow with the number of repositories.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gitpeft import __version__
from gitpeft.bundle import bundle as bundles
from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError, explain_failure
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.learn import budget as budgets
from gitpeft.learn import pipeline
from gitpeft.learn.budget import RunBudget
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import MIN_TRAINING_EXAMPLES, Dataset, Example
from gitpeft.learn.results import MinedHistory, ModelPlan
from gitpeft.learn.retrain import challenger_data
from gitpeft.learn.retrain import run as retrain_run
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener

SHARED_FOLDER = "org"
"""The folder of shared adapters in the state of the first repository."""

_EXAMPLES_FILE, _KEPT_ADAPTERS = "examples.jsonl", 2
_EXAMPLES_SHARE, _LEAST_TRAINING_SHARE = 0.25, 0.3
"""Of the whole budget for preparing examples at the most; and of its half for the shared adapter, for
training at the least."""

_LEAST_EXAMPLES, _MOST_EXAMPLES, _MARGIN = 2000, 50_000, 2
"""Of all repositories together as many examples are kept as the pace of training allows for, twice over since
a pace may be wrong, but no fewer and no more than these."""


_MAX_NAMED = 3
"""Repositories that cannot be read are named up to this number."""


@dataclass(frozen=True, slots=True)
class Source:
    """A repository, and the commit up to which is learned from it."""

    repo: Repository
    tip: str


def train_shared_adapter(
    sources: Sequence[Source], plan: ModelPlan, budget: RunBudget, listen: ProgressListener
) -> Path:
    """Train on all together, in half of the budget; the folder of the adapter.

    Every process that takes part calls this (see `training.distributed`): the first prepares the examples,
    and all read them. GitpeftError where there are too few.
    """
    from gitpeft.learn.training import distributed

    job = pipeline.make_training_job(plan)
    tips = sorted(one.tip for one in sources)
    decided: list[object] = [asdict(plan), job.base.digest, __version__, RENDERER_VERSION, tips]
    key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
    folder = sources[0].repo.state_dir / SHARED_FOLDER / key
    known = folder / pipeline.MINUTES_FILE
    with distributed.let_writer_go_first():
        if distributed.find_world().writes and not known.exists():
            _prepare_examples(sources, plan, budget, listen, folder)
            half = plan.minutes / 2
            write_json(known, max(half - budget.spent / 60, _LEAST_TRAINING_SHARE * half))
    minutes = float(json.loads(known.read_bytes()))
    trained_before = (folder / bundles.ADAPTER_FOLDER).is_dir()
    _, cost = finetune.tune_base(replace(job, minutes=minutes), read_examples(folder), folder, listen)
    if distributed.find_world().size == 1 and not trained_before:
        seconds, seen = cost.training.seconds, cost.training.examples
        budget.paces.observe(budgets.TRAINING, seconds, seen, job.base.name)
    return folder


def export_shared_adapter(plan: ModelPlan, folder: Path, listen: ProgressListener) -> None:
    """Make the ONNX files of the shared adapter, for repositories that have none of their own."""
    job, data = pipeline.make_training_job(plan), read_examples(folder)
    method, _ = finetune.tune_base(job, data, folder, lambda *_: None)
    listen("export", 0.0, "")
    pipeline.export_tuned_model(job, method, folder, data)
    listen("export", 1.0, "")


def delete_old_adapters(folder: Path) -> None:
    """Keep the newest shared adapters only, and the one in `folder`."""
    found = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest[_KEPT_ADAPTERS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


# --- examples -----------------------------------------------------------------------------------------------


def make_repository_dataset(repo: Repository, mined: MinedHistory, seed: int) -> Dataset:
    """The examples of a repository, split as its own training will split them."""
    champion = retrain_run.find_champion(repo)
    found = challenger_data.split_for_challenger(mined.records, champion, seed).data if champion else None
    return found or dataset.build_dataset(mined.records, TokenBudget().exemplars)


def _prepare_examples(
    sources: Sequence[Source], plan: ModelPlan, budget: RunBudget, listen: ProgressListener, folder: Path
) -> None:
    """Write the examples of one repository after the other, in random order, until their time is spent."""
    folder.mkdir(parents=True, exist_ok=True)
    spare, most = folder / f"{_EXAMPLES_FILE}.new", _count_examples(plan, budget, len(sources))
    read = written = whole = 0
    cut, failed = False, list[str]()
    with spare.open("w", encoding="utf-8") as lines:
        for source in random.Random(plan.seed).sample(sources, len(sources)):
            if budget.spent >= _EXAMPLES_SHARE * budget.seconds and written >= MIN_TRAINING_EXAMPLES:
                break
            try:
                data = _read_source(source, plan, budget, listen, read / len(sources))
            except (GitpeftError, OSError) as error:
                read += 1  # whoever serves this repository says so, too
                failed.append(f"{name_repository(source.repo)} cannot be read: {explain_failure(error)}")
                continue
            for row in select_examples(data, most, str(read)):
                lines.write(json.dumps(row) + "\n")
                written += 1
            read, whole, cut = read + 1, whole + data.first_valid, cut or data.first_valid > most
            del data  # with the connection to its history
    if written < MIN_TRAINING_EXAMPLES:
        shutil.rmtree(folder)
        raise GitpeftError(
            f"only {written} usable commits in all, training needs {MIN_TRAINING_EXAMPLES}",
            "; ".join(failed[:_MAX_NAMED]) or "`gitpeft init` in each",
        )
    spare.replace(folder / _EXAMPLES_FILE)
    _note_left_out(plan, budget, (read, len(sources)), whole, most if cut else None)
    listen("examples", 1.0, f"{written:,} usable commits of {read:,} repositories")


def _note_left_out(
    plan: ModelPlan, budget: RunBudget, read: tuple[int, int], examples: int, most: int | None
) -> None:
    """Note what all would take. `read` is how many repositories of how many were read, `examples` what these
    have together, and `most` how many of each are kept (None: all)."""
    share, base = read[0] / read[1], pipeline.find_budgeted_base(plan)
    pace = budget.paces.get(budgets.TRAINING, base.name, causal=base.causal)
    budget.note_needed(budgets.EXAMPLES, budget.spent / share)
    budget.note_training(examples * pace / share)
    if share < 1:
        what = f"the shared adapter: examples of {read[0]:,} of {read[1]:,} repositories"
        budget.note_left_out(budgets.EXAMPLES, what)
    if most is not None:
        what = f"the shared adapter: training on the newest {most:,} commits of each repository"
        budget.note_left_out(budgets.TRAINING, what)


def _count_examples(plan: ModelPlan, budget: RunBudget, repositories: int) -> int:
    """How many examples of each repository are kept."""
    base = pipeline.find_budgeted_base(plan)
    pace = budget.paces.get(budgets.TRAINING, base.name, causal=base.causal)
    fitting = int(_MARGIN * budget.seconds / 2 / pace)
    return max(1, min(_MOST_EXAMPLES, max(_LEAST_EXAMPLES, fitting)) // repositories)


def _read_source(
    source: Source, plan: ModelPlan, budget: RunBudget, listen: ProgressListener, done: float
) -> Dataset:
    name = name_repository(source.repo)

    def listen_within(_step: str, _done: float, said: str) -> None:
        listen("mine", done, ": ".join(filter(None, (name, said))))

    mined = mine_off_the_clock(source, budget, listen_within)
    return make_repository_dataset(source.repo, mined, plan.seed)


def mine_off_the_clock(source: Source, budget: RunBudget, listen: ProgressListener) -> MinedHistory:
    """Read what is new in a history; a budget begins after that, so its clock stands still meanwhile."""
    begun = budget.clock()
    mined = pipeline.mine_history(source.repo, source.tip, listen)
    budget.started += budget.clock() - begun
    return mined


def name_repository(repo: Repository) -> str:
    """The name of its folder."""
    return (repo.work_tree or repo.common_dir).name


def select_examples(data: Dataset, most: int, group: str) -> Iterator[dict[str, object]]:
    """Rows of the newest examples of the training part, and of as many for validation; none of the test part.

    `age` counts from the newest one of a part, which is 0.
    """
    train, valid = data.examples[: data.first_valid], data.valid
    for part, examples in (("train", train[-most:]), ("valid", valid[-most:])):
        for age, one in enumerate(reversed(examples)):
            row = {"content": one.change, "message": one.message, "previous": one.previous}
            yield row | {"like": list(one.like), "sha": one.sha, "group": group, "part": part, "age": age}


def read_examples(folder: Path) -> Dataset:
    """The training parts of all repositories, then their validation parts; no test part.

    The newest of every repository come last: a training that has no time for all takes the last ones.
    """
    with (folder / _EXAMPLES_FILE).open(encoding="utf-8") as lines:
        rows = sorted(map(json.loads, lines), key=lambda row: (row["part"], -row["age"]))
    examples = tuple(
        Example(row["content"], row["message"], row["previous"], tuple(row["like"]), row["sha"], row["group"])
        for row in rows
    )
    train = sum(row["part"] == "train" for row in rows)
    return Dataset(examples, dataset.build_example_index(()), train, len(examples), {})
