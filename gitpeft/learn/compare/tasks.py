"""What a comparison measures on: a task on one part of a history. Hides training, export and asking."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.learn import pipeline
from gitpeft.learn.compare.scoring import Answers, AnswerScorer, MessageScorer
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.data.subsets import HistorySubset, LanguageSplit
from gitpeft.learn.evaluation import trial
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener, TrainingJob

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod
    from gitpeft.learn.pipeline import MinedHistory

MAX_ASKED_COMMITS = 120
"""Validation commits that every finalist is asked about."""

NEAREST_NEIGHBOUR, UNTUNED_SUFFIX = "nearest neighbour", ", untuned"
"""The baseline, and how the name of a base that was not tuned ends."""


class TaskPart(Protocol):
    """One task on one part of a history; `yardstick` scores answers to its questions."""

    @property
    def yardstick(self) -> AnswerScorer: ...  # noqa: D102 - see above

    def train_run(
        self, job: TrainingJob, folder: Path, listen: ProgressListener
    ) -> tuple["TuningMethod", dict[str, Any]]:
        """Tune; the method and the cost. Leaves the weights in `folder`."""

    def export_and_ask(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> dict[str, Any]:
        """Export what was trained and ask it: `answers`, what the gate measured, further costs."""

    def load_encoder(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> Any:
        """The trained encoder, for probes."""

    def ask_baselines(self, bases: Mapping[str, "BaseModel"]) -> dict[str, Answers]:
        """What costs no training."""

    def list_references(self) -> list[tuple[str, str]]:
        """For samples: each asked commit's id, and what is right for it."""


class ComparisonTask(Protocol):
    """A task on a whole history, `commits` long, and on parts of it."""

    @property
    def whole(self) -> TaskPart: ...  # noqa: D102 - see above

    @property
    def parts(self) -> LanguageSplit: ...  # noqa: D102

    @property
    def commits(self) -> int: ...  # noqa: D102

    def make_part(self, cut: HistorySubset) -> TaskPart:
        """A part; GitpeftError where it cannot be measured on."""


class MessageTask:
    """Usable commits, of which the newest tenth is not looked at. GitpeftError where there are too few."""

    def __init__(self, data: Dataset, mined: "MinedHistory") -> None:
        if len(data.examples) < dataset.MIN_TRAINING_EXAMPLES:
            raise GitpeftError(
                f"only {len(data.examples)} usable commits, "
                f"a comparison needs {dataset.MIN_TRAINING_EXAMPLES}",
                "`gitpeft init` serves this history without training",
            )
        self.data, self.mined = data, mined
        self.parts = LanguageSplit(
            data.train, data.valid, lambda one: subsets.detect_main_language(one.change)
        )
        self.commits = len(data.examples)
        self.whole = MessageTaskPart(data, mined, data.valid)

    def make_part(self, cut: HistorySubset) -> "MessageTaskPart":
        """See `Field`. The exemplars of a part come from what teaches in it."""
        train, valid, asked = self.parts.select_subset(cut)
        shown = TokenBudget().exemplars
        met = dataset.build_dataset_from_parts(train, asked, shown).valid
        return MessageTaskPart(dataset.build_dataset_from_parts(train, valid, shown), self.mined, met)


class MessageTaskPart:
    """Messages: `asked` are the commits that every model offers one for."""

    def __init__(self, data: Dataset, mined: "MinedHistory", asked: Sequence[Example]) -> None:
        self.data, self.mined = data, mined
        self.asked = trial.sample_examples(asked, MAX_ASKED_COMMITS, seed=1)
        self.yardstick = MessageScorer([one.message for one in self.asked])

    def train_run(
        self, job: TrainingJob, folder: Path, listen: ProgressListener
    ) -> tuple["TuningMethod", dict[str, Any]]:
        """See `Ground`."""
        return finetune.tune_base(job, self.data, folder, listen)

    def export_and_ask(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> dict[str, Any]:
        """See `Ground`."""
        exported = finetune.export_run(job.base, method, self.data, folder)
        offers, spent = self._ask_suggester(job.base, exported["settings"], folder)
        cost = {
            "exported_bytes": sum(exported["sizes"].values()),
            "answer_ms": 1000 * spent / max(1, len(offers)),
        }
        return {"answers": offers, "parity": exported["parity"], "cost": cost}

    def load_encoder(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> Any:
        """See `Ground`."""
        from gitpeft.bundle import bundle as bundles
        from gitpeft.learn.models import methods

        return methods.load_merged_model(
            job.base.load(), method, folder / bundles.ADAPTER_FOLDER
        ).get_encoder()

    def ask_baselines(self, bases: Mapping[str, "BaseModel"]) -> dict[str, Answers]:
        """The nearest neighbour, and each base as it is, with exemplars."""
        found: dict[str, Answers] = {NEAREST_NEIGHBOUR: trial.nearest_messages(self.index, self.asked)}
        for name, base in bases.items():
            if ready := base.find_onnx_folder():
                settings = json.loads((ready / "settings.json").read_text(encoding="utf-8"))
                found[f"{name}{UNTUNED_SUFFIX}"] = self._ask_suggester(base, settings, ready)[0]
        return found

    def list_references(self) -> list[tuple[str, str]]:
        """See `Ground`."""
        return [(one.sha[:10], one.message) for one in self.asked]

    def _ask_suggester(
        self, base: "BaseModel", settings: dict[str, Any], files: Path
    ) -> tuple[list[str], float]:
        """What would be offered first for every example, and the seconds that took."""
        manifest = pipeline.draft_manifest(self.data, self.mined)
        manifest = replace(manifest, **pipeline.describe_base(base), settings=settings)
        with trial.open_trial_suggester(manifest, files, self.index, self.habits) as suggester:
            before = time.monotonic()
            asked = trial.collect_candidates(suggester, self.asked)
            spent = time.monotonic() - before
        chooser = base.load_reranker()
        return [one.offered_message(chooser) for one in asked], spent

    @cached_property
    def index(self) -> Any:
        """Earlier commits only: those of the training part."""
        return self.data.index_before(self.data.first_valid)

    @cached_property
    def habits(self) -> dict[str, Any]:
        """The team's style."""
        return pipeline.learn_team_style(self.mined.records, self.data)
