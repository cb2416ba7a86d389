"""What a comparison measures on: a task on one part of a history. Hides training, export and asking."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gitpeft.diff.patch import Budget
from gitpeft.errors import GitpeftError
from gitpeft.learn import pipeline
from gitpeft.learn.compare.scoring import Answers, Wording, Yardstick
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.data.subsets import Cut, Parts
from gitpeft.learn.evaluation import trial
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import Job, Listener

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import Base
    from gitpeft.learn.models.methods import Method
    from gitpeft.learn.pipeline import Mined

MOST_ASKED = 120
"""Validation commits that every finalist is asked about."""

NEAREST, UNTUNED = "nearest neighbour", ", untuned"
"""The baseline, and how the name of a base that was not tuned ends."""


class Ground(Protocol):
    """One task on one part of a history; `yardstick` scores answers to its questions."""

    @property
    def yardstick(self) -> Yardstick: ...  # noqa: D102 - see above

    def train(self, job: Job, folder: Path, listen: Listener) -> tuple["Method", dict[str, Any]]:
        """Tune; the method and the cost. Leaves the weights in `folder`."""

    def finish(self, job: Job, method: "Method", folder: Path) -> dict[str, Any]:
        """Export what was trained and ask it: `answers`, what the gate measured, further costs."""

    def encoder(self, job: Job, method: "Method", folder: Path) -> Any:
        """The trained encoder, for probes."""

    def baselines(self, bases: Mapping[str, "Base"]) -> dict[str, Answers]:
        """What costs no training."""

    def shown(self) -> list[tuple[str, str]]:
        """For samples: each asked commit's id, and what is right for it."""


class Field(Protocol):
    """A task on a whole history, `commits` long, and on parts of it."""

    @property
    def whole(self) -> Ground: ...  # noqa: D102 - see above

    @property
    def parts(self) -> Parts: ...  # noqa: D102

    @property
    def commits(self) -> int: ...  # noqa: D102

    def part(self, cut: Cut) -> Ground:
        """A part; GitpeftError where it cannot be measured on."""


class MessageField:
    """Usable commits, of which the newest tenth is not looked at. GitpeftError where there are too few."""

    def __init__(self, data: Dataset, mined: "Mined") -> None:
        if len(data.examples) < dataset.ENOUGH:
            raise GitpeftError(
                f"only {len(data.examples)} usable commits, a comparison needs {dataset.ENOUGH}",
                "`gitpeft init` serves this history without training",
            )
        self.data, self.mined = data, mined
        self.parts = Parts(data.train, data.valid, lambda one: subsets.language_of(one.change))
        self.commits = len(data.examples)
        self.whole = Messages(data, mined, data.valid)

    def part(self, cut: Cut) -> "Messages":
        """See `Field`. The exemplars of a part come from what teaches in it."""
        train, valid, asked = self.parts.of(cut)
        shown = Budget().exemplars
        met = dataset.of_parts(train, asked, shown).valid
        return Messages(dataset.of_parts(train, valid, shown), self.mined, met)


class Messages:
    """Messages: `asked` are the commits that every model offers one for."""

    def __init__(self, data: Dataset, mined: "Mined", asked: Sequence[Example]) -> None:
        self.data, self.mined = data, mined
        self.asked = trial.sample(asked, MOST_ASKED, seed=1)
        self.yardstick = Wording([one.message for one in self.asked])

    def train(self, job: Job, folder: Path, listen: Listener) -> tuple["Method", dict[str, Any]]:
        """See `Ground`."""
        return finetune.train(job, self.data, folder, listen)

    def finish(self, job: Job, method: "Method", folder: Path) -> dict[str, Any]:
        """See `Ground`."""
        exported = finetune.export(job.base, method, self.data, folder)
        offers, spent = self._ask(job.base, exported["settings"], folder)
        cost = {
            "exported_bytes": sum(exported["sizes"].values()),
            "answer_ms": 1000 * spent / max(1, len(offers)),
        }
        return {"answers": offers, "parity": exported["parity"], "cost": cost}

    def encoder(self, job: Job, method: "Method", folder: Path) -> Any:
        """See `Ground`."""
        from gitpeft.bundle import bundle as bundles
        from gitpeft.learn.models import methods

        return methods.load_merged(job.base.load(), method, folder / bundles.ADAPTER).get_encoder()

    def baselines(self, bases: Mapping[str, "Base"]) -> dict[str, Answers]:
        """The nearest neighbour, and each base as it is, with exemplars."""
        found: dict[str, Answers] = {NEAREST: trial.neighbours(self.index, self.asked)}
        for name, base in bases.items():
            if ready := base.ready():
                settings = json.loads((ready / "settings.json").read_text(encoding="utf-8"))
                found[f"{name}{UNTUNED}"] = self._ask(base, settings, ready)[0]
        return found

    def shown(self) -> list[tuple[str, str]]:
        """See `Ground`."""
        return [(one.sha[:10], one.message) for one in self.asked]

    def _ask(self, base: "Base", settings: dict[str, Any], files: Path) -> tuple[list[str], float]:
        """What would be offered first for every example, and the seconds that took."""
        manifest = pipeline.manifest_of(self.data, self.mined)
        manifest = replace(manifest, **pipeline.of_base(base), settings=settings)
        with trial.trial(manifest, files, self.index, self.habits) as suggester:
            before = time.monotonic()
            asked = trial.ask(suggester, self.asked)
            spent = time.monotonic() - before
        chooser = base.chooser()
        return [one.offered(chooser) for one in asked], spent

    @cached_property
    def index(self) -> Any:
        """Earlier commits only: those of the training part."""
        return self.data.index_before(self.data.first_valid)

    @cached_property
    def habits(self) -> dict[str, Any]:
        """The team's style."""
        return pipeline.learn_style(self.mined.records, self.data)
