"""What a comparison measures on: a task on one part of a history. Hides training, export and asking."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gitpeft.learn import backtest, pipeline, tuning
from gitpeft.learn.dataset import Dataset, Example
from gitpeft.learn.tuning import Job, Listener
from gitpeft.learn.yardstick import Answers, Wording, Yardstick

if TYPE_CHECKING:
    from gitpeft.learn.bases import Base
    from gitpeft.learn.methods import Method
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

    def tuned(self, job: Job, method: "Method", folder: Path) -> Any:
        """The trained model, for probes."""

    def baselines(self, bases: Mapping[str, "Base"]) -> dict[str, Answers]:
        """What costs no training."""

    def shown(self) -> list[tuple[str, str]]:
        """For samples: each asked commit's id, and what is right for it."""


class Messages:
    """Messages: `asked` are the commits that every model offers one for."""

    def __init__(self, data: Dataset, mined: "Mined", asked: Sequence[Example]) -> None:
        self.data, self.mined = data, mined
        self.asked = backtest.sample(asked, MOST_ASKED, seed=1)
        self.yardstick = Wording([one.message for one in self.asked])

    def train(self, job: Job, folder: Path, listen: Listener) -> tuple["Method", dict[str, Any]]:
        """See `Ground`."""
        return tuning.train(job, self.data, folder, listen)

    def finish(self, job: Job, method: "Method", folder: Path) -> dict[str, Any]:
        """See `Ground`."""
        exported = tuning.export(job.base, method, self.data, folder)
        offers, spent = self._ask(job.base, exported["settings"], folder)
        cost = {
            "exported_bytes": sum(exported["sizes"].values()),
            "answer_ms": 1000 * spent / max(1, len(offers)),
        }
        return {"answers": offers, "parity": exported["parity"], "cost": cost}

    def tuned(self, job: Job, method: "Method", folder: Path) -> Any:
        """See `Ground`."""
        from gitpeft import bundle as bundles
        from gitpeft.learn import methods

        return methods.load_merged(job.base.load(), method, folder / bundles.ADAPTER)

    def baselines(self, bases: Mapping[str, "Base"]) -> dict[str, Answers]:
        """The nearest neighbour, and each base as it is, with exemplars."""
        found: dict[str, Answers] = {NEAREST: backtest.neighbours(self.index, self.asked)}
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
        with backtest.trial(manifest, files, self.index, self.habits) as suggester:
            before = time.monotonic()
            asked = backtest.ask(suggester, self.asked)
            spent = time.monotonic() - before
        return [one.offered(backtest.CONSENSUS) for one in asked], spent

    @cached_property
    def index(self) -> Any:
        """Earlier commits only: those of the training part."""
        return self.data.index_before(self.data.first_valid)

    @cached_property
    def habits(self) -> dict[str, Any]:
        """The team's style."""
        return pipeline.learn_style(self.mined.records, self.data)
