"""A model that keeps up: hides what a challenger learns from, and how it is held against the champion.

    all usable commits, oldest first
    |--- known to the champion ---|--- newer, or held out from it ---|
    |  replay sample  |  everything that it was not taught  | valid  | duel |

The duel is on the newest commits that neither model was taught or chosen by; both see the exemplars of that
day, as the hook would show them. The challenger is activated when its mean is at least the champion's; the
difference is given with its 95 % interval (paired bootstrap) and kept in its manifest.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from gitpeft import bundle as bundles
from gitpeft.bundle import Bundle
from gitpeft.choose import Chooser
from gitpeft.diff import Budget
from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.history import Record
from gitpeft.learn import appraise, backtest, dataset, pipeline
from gitpeft.learn.appraise import Made
from gitpeft.learn.dataset import Dataset, Example
from gitpeft.learn.pipeline import Candidate, Plan
from gitpeft.learn.tuning import Listener
from gitpeft.retrieve import Index

LEAST, MOST = 20, 200
"""How many commits a duel needs, and how many it asks at most."""

SHARE_HELD = 0.5
"""Of what the champion was not taught, the share (the newest) that the duel is held on."""

REPLAY_LEAST = 256
"""Older examples are replayed one for each new one, but no fewer than this."""

TASK = "message"


@dataclass(frozen=True, slots=True)
class Duel:
    """A task's verdict: means of B-Norm on `n` commits, and challenger minus champion with its interval."""

    n: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float

    @property
    def won(self) -> bool:
        """Whether the challenger is at least as good."""
        return self.difference >= 0

    def sentence(self) -> str:
        """The verdict for people."""
        clear = "clear of" if self.low > 0 or self.high < 0 else "within"
        return (
            f"B-Norm {self.challenger:.1f} against {self.champion:.1f} "
            f"on {self.n} commits that neither has seen: {self.difference:+.1f} "
            f"({self.low:+.1f} to {self.high:+.1f}), {clear} the noise"
        )


@dataclass(slots=True)
class Retrained:
    """What a retraining came to. `action` is activated, aside or none; `reason` says why."""

    action: str
    reason: str
    champion: str
    bundle: str = ""
    warm: bool = False
    new: int = 0
    taught: int = 0
    replayed: int = 0
    duels: dict[str, dict[str, Any]] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def champion_of(repo: Repository) -> Bundle | None:
    """The installed model, if there is one that can be held against another."""
    active = bundles.active(repo.state_dir)
    return active if active is not None and active.manifest.kind == "model" else None


def run(
    repo: Repository,
    plan: Plan,
    listen: Listener,
    *,
    cold: bool = False,
    start: Path | None = None,
    agreed: Callable[[str], bool] = lambda _: True,
) -> Retrained:
    """Train a challenger, hold it against the champion, and activate or keep aside.

    Training begins with the champion's weights where they fit, with those in the folder `start` if it is
    given, and with the base's when `cold`. `agreed` is asked before a winner is activated. GitpeftError when
    there is no champion, or nothing can be trained here.
    """
    champion = champion_of(repo)
    if champion is None:
        raise GitpeftError("there is no model to hold another one against", "run `gitpeft init`")
    if not pipeline.can_train():
        raise GitpeftError(
            "nothing was trained: gitpeft[train] is not installed", "pip install 'gitpeft[train]'"
        )
    mined = pipeline.mine(repo, plan.until, listen)
    data, new, replayed = split(mined.records, champion, plan.seed)
    alike = not cold and start is None and _alike(champion, plan)
    if data is None or (new == 0 and alike):
        return Retrained("none", _nothing(new, data), champion.id, new=new)
    if reason := pipeline.why_not(plan, data):
        raise GitpeftError(f"nothing was trained: {reason}", "`gitpeft init` serves this history without")
    if alike and any(name.startswith(f"{bundles.ADAPTER}/") for name in champion.manifest.files):
        start = champion.path / bundles.ADAPTER
    warm = str(start) if start else ""
    made = pipeline.candidate(repo, replace(plan, warm=warm, rival=champion.id), mined, data, listen)
    duels = {TASK: duel(champion, made, data, listen)}
    result = Retrained(
        "aside", duels[TASK].sentence(), champion.id, warm=bool(warm), new=new, taught=len(data.train),
        replayed=replayed, duels={task: asdict(one) for task, one in duels.items()},
        cost={name: value for name, value in made.outcome.cost.items() if "curve" not in name},
        seconds=made.outcome.seconds,
    )  # fmt: skip
    return _settle(repo, result, made, data, all(one.won for one in duels.values()), agreed)


def _settle(
    repo: Repository,
    result: Retrained,
    made: Candidate,
    data: Dataset,
    won: bool,
    agreed: Callable[[str], bool],
) -> Retrained:
    """Ship the challenger with its verdict: as the active model, or aside."""
    if won and bundles.pointer(repo.state_dir)[0] != result.champion:
        won, result.reason = False, "another model was activated during the training"
    elif won and not agreed(result.reason):
        won, result.reason = False, f"not wanted: {result.reason}"
    result.action = "activated" if won else "aside"
    verdict = {"won": won, "verdict": result.reason, "champion": result.champion, "tasks": result.duels}
    manifest = made.made.manifest
    metrics = manifest.metrics | {"duel": verdict}
    shipped = replace(made, made=replace(made.made, manifest=replace(manifest, metrics=metrics)))
    result.bundle = pipeline.ship(repo, shipped, data, active=won)
    return result


def _nothing(new: int, data: Dataset | None) -> str:
    if data is None:
        return (
            f"too few commits that the installed model has not learnt from, {LEAST} are needed to compare "
            "(`gitpeft init` makes a new one without comparing)"
        )
    return "no new usable commit since the installed model was made"


def _alike(champion: Bundle, plan: Plan) -> bool:
    """Whether the champion was tuned as the plan says, so that its weights are a place to start from."""
    from gitpeft.learn import bases, methods

    method = methods.of(plan.method, plan.settings).as_dict()
    same = json.loads(json.dumps(method)) == champion.manifest.method
    return same and champion.manifest.base_digest == bases.find(plan.base).digest


# --- what is learnt from ------------------------------------------------------------------------------------


def split(records: Sequence[Record], champion: Bundle, seed: int) -> tuple[Dataset | None, int, int]:
    """The challenger's examples, how many are newer than the champion, and how many are replayed.

    None where too few commits are left that the champion was neither taught nor chosen by.
    """
    known = _known(champion)
    bare = dataset.usable(records)
    before, seen = set(known), set(known[: len(known) - _held(champion, len(known))])
    new = sum(example.sha not in before for example in bare)
    unseen = [place for place, example in enumerate(bare) if example.sha not in seen]
    count = min(MOST, max(LEAST, int(SHARE_HELD * len(unseen))))
    if len(unseen) < count:
        return None, new, 0
    tested = len(bare) - unseen[-count]
    valid = min(MOST, max(LEAST, (len(bare) - tested) // 10))
    neighbours = Budget().exemplars
    data = dataset.make(records, neighbours, _share(valid, len(bare)), _share(tested, len(bare)))
    taught = set(known[: int(0.8 * len(known))])
    chosen, replayed = _replayed(data.examples[: data.first_valid], taught, seed)
    return replace(data, taught=chosen), new, replayed


def _held(champion: Bundle, known: int) -> int:
    """How many of the newest commits it knows the champion was neither taught nor chosen by."""
    return int(champion.manifest.commits.get("held", known // 10))


def _share(count: int, total: int) -> float:
    """The share that `dataset.make` rounds to `count`."""
    return (count - 0.25) / total


def _known(champion: Bundle) -> list[str]:
    """The commits of the champion's index, oldest first."""
    index = Index.load(lambda name: champion.read(f"{bundles.INDEX}/{name}"))
    return [index.commit(place)[0] for place in range(len(index))]


def _replayed(examples: Sequence[Example], taught: set[str], seed: int) -> tuple[tuple[Example, ...], int]:
    """What the champion was not taught, and a sample of what it was, in their order; the sample's size."""
    fresh = {example.sha for example in examples if example.sha not in taught}
    old = [example for example in examples if example.sha in taught]
    sample = random.Random(seed).sample(old, min(len(old), max(REPLAY_LEAST, len(fresh))))
    chosen = fresh | {example.sha for example in sample}
    return tuple(example for example in examples if example.sha in chosen), len(sample)


# --- the duel -----------------------------------------------------------------------------------------------


def duel(champion: Bundle, challenger: Candidate, data: Dataset, listen: Listener) -> Duel:
    """Both on the newest commits, with the exemplars of that day; leaves the scores in the outcome."""
    from gitpeft.learn.evaluate import b_norm, paired_bootstrap

    manifest = champion.manifest
    chooser = Chooser.of(champion.json(bundles.CHOOSER), manifest.kind)
    theirs = Made(manifest, champion.path, None, chooser)
    examples = backtest.sample(data.test, MOST, seed=2)
    references = [example.message for example in examples]
    old = _offered(theirs, chooser, champion.json(bundles.STYLE), data, examples, listen)
    new = _offered(challenger.made, challenger.chooser, challenger.habits, data, examples, listen)
    challenger.outcome.test = {
        "gitpeft": appraise.scores(new, references),
        "installed model": appraise.scores(old, references),
    }
    scores = b_norm(new, references), b_norm(old, references)
    difference = paired_bootstrap(*scores, seed=0)
    return Duel(len(examples), mean(scores[1]), mean(scores[0]), *difference)


def _offered(
    made: Made,
    chooser: Chooser,
    habits: dict[str, Any],
    data: Dataset,
    examples: Sequence[Example],
    listen: Listener,
) -> list[str]:
    """What a model would have put first."""

    def heard(done: int, total: int) -> None:
        listen("measure", done / total, f"{done}/{total} commits")

    assert made.files is not None
    index = data.index_before(data.first_test)
    with backtest.trial(made.manifest, made.files, index, habits) as suggester:
        return [one.offered(chooser) for one in backtest.ask(suggester, examples, heard, since=data.test)]
