"""The tasks that methods are compared on, and the one for commit messages: training, export, evaluation."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.learn import packing, pipeline
from gitpeft.learn.compare.results import Answers, RunOutput, TrainedRun
from gitpeft.learn.compare.scoring import AnswerScorer, MessageScorer
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.data.style import MessageStyle
from gitpeft.learn.data.subsets import HistorySubset, LanguageSplit
from gitpeft.learn.evaluation import trial
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener, TrainingJob

if TYPE_CHECKING:
    from torch import nn

    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod
    from gitpeft.learn.results import MinedHistory
    from gitpeft.suggest.retrieval import CommitIndex

MAX_ASKED_COMMITS = 120
"""Validation commits that every finalist is evaluated on, at most."""

NEAREST_NEIGHBOUR, UNTUNED_SUFFIX = "nearest neighbour", ", untuned"
"""Labels of baselines: the nearest neighbour, and (as a suffix) a base model without tuning."""


class TaskPart(Protocol):
    """One task on one part of a history; `scorer` scores answers for the commits that are evaluated."""

    @property
    def scorer(self) -> AnswerScorer: ...  # noqa: D102 - see above

    def make_small(self, most: int) -> "TaskPart":
        """The same task, evaluated on at most so many commits where evaluation is slow."""

    def train_run(
        self, job: TrainingJob, folder: Path, listen: ProgressListener
    ) -> tuple["TuningMethod", TrainedRun]:
        """Tune a base; the method with its layers chosen, and the costs. Leaves the weights in `folder`."""

    def export_and_ask(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> RunOutput:
        """Export the weights in `folder`, and evaluate the exported model."""

    def load_encoder(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> "nn.Module":
        """The trained encoder, for probes."""

    def ask_baselines(self, bases: Mapping[str, "BaseModel"]) -> dict[str, Answers]:
        """The answers of systems that cost no training, by label."""

    def list_references(self) -> list[tuple[str, str]]:
        """For samples: the id of each evaluated commit, and what is correct for it."""


class ComparisonTask(Protocol):
    """A task on a whole history, `commits` long, and on parts of it."""

    @property
    def whole(self) -> TaskPart: ...  # noqa: D102 - see above

    @property
    def parts(self) -> LanguageSplit[Any]: ...  # noqa: D102

    @property
    def commits(self) -> int: ...  # noqa: D102

    def make_part(self, cut: HistorySubset) -> TaskPart:
        """A part of the history; GitpeftError where it is too small to measure on."""


class MessageTask:
    """Commit messages, on all usable commits but the newest tenth. GitpeftError where there are too few."""

    def __init__(self, data: Dataset, mined: "MinedHistory") -> None:
        if len(data.examples) < dataset.MIN_TRAINING_EXAMPLES:
            raise GitpeftError(
                f"only {len(data.examples)} usable commits, "
                f"a comparison needs {dataset.MIN_TRAINING_EXAMPLES}",
                "`gitpeft init` makes a model for this history without training",
            )
        self.data, self.mined = data, mined
        self.parts = LanguageSplit(
            data.train, data.valid, lambda one: subsets.detect_main_language(one.change)
        )
        self.commits = len(data.examples)
        self.whole = MessageTaskPart(data, mined, data.valid)

    def make_part(self, cut: HistorySubset) -> "MessageTaskPart":
        """See `ComparisonTask`. The exemplars of a part come from its training commits."""
        train, valid, asked = self.parts.select_subset(cut)
        shown = TokenBudget().exemplars
        met = dataset.build_dataset_from_parts(train, asked, shown).valid
        return MessageTaskPart(dataset.build_dataset_from_parts(train, valid, shown), self.mined, met)


class MessageTaskPart:
    """Commit messages on a part of the history; `asked` are the commits that are evaluated."""

    def __init__(self, data: Dataset, mined: "MinedHistory", asked: Sequence[Example]) -> None:
        self.data, self.mined = data, mined
        self.asked = trial.sample_examples(asked, MAX_ASKED_COMMITS, seed=1)
        self.scorer = MessageScorer([one.message for one in self.asked])

    def make_small(self, most: int) -> "MessageTaskPart":
        """See `TaskPart`."""
        return MessageTaskPart(self.data, self.mined, self.asked[:most])

    def train_run(
        self, job: TrainingJob, folder: Path, listen: ProgressListener
    ) -> tuple["TuningMethod", TrainedRun]:
        """See `TaskPart`."""
        method, cost = finetune.tune_base(job, self.data, folder, listen)
        return method, TrainedRun.from_training(cost.as_dict())

    def export_and_ask(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> RunOutput:
        """See `TaskPart`."""
        exported = finetune.export_run(job.base, method, self.data, folder)
        offers, spent = self._ask_suggester(job.base, exported.settings, folder)
        milliseconds = 1000 * spent / max(1, len(offers))
        return RunOutput(offers, milliseconds, exported.total_bytes, asdict(exported.parity))

    def load_encoder(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> "nn.Module":
        """See `TaskPart`."""
        from gitpeft.bundle import bundle as bundles
        from gitpeft.learn.models import architectures, methods

        model = methods.load_merged_model(job.base.load_for(method), method, folder / bundles.ADAPTER_FOLDER)
        stack: nn.Module = architectures.get_reading_stack(model)
        return stack

    def ask_baselines(self, bases: Mapping[str, "BaseModel"]) -> dict[str, Answers]:
        """The message of the nearest neighbour, and each base model without tuning, with exemplars."""
        found: dict[str, Answers] = {NEAREST_NEIGHBOUR: trial.nearest_messages(self.index, self.asked)}
        for name, base in bases.items():
            if ready := base.find_onnx_folder():
                settings = json.loads((ready / "settings.json").read_text(encoding="utf-8"))
                found[f"{name}{UNTUNED_SUFFIX}"] = self._ask_suggester(base, settings, ready)[0]
        return found

    def list_references(self) -> list[tuple[str, str]]:
        """See `TaskPart`."""
        return [(one.sha[:10], one.message) for one in self.asked]

    def _ask_suggester(
        self, base: "BaseModel", settings: dict[str, Any], files: Path
    ) -> tuple[list[str], float]:
        """The first suggestion for every evaluated commit, and the seconds that took."""
        manifest = packing.draft_manifest(self.data, self.mined)
        manifest = replace(manifest, **packing.describe_base(base), settings=settings)
        reranker = base.load_reranker()
        with trial.open_trial_suggester(manifest, files, self.index, self.style, reranker) as suggester:
            before = time.monotonic()
            asked = trial.collect_candidates(suggester, self.asked)
            spent = time.monotonic() - before
        return [one.offered_message(reranker, least=0.0) for one in asked], spent

    @cached_property
    def index(self) -> "CommitIndex":
        """Exemplars: the training commits, which are all earlier than the evaluated ones."""
        return self.data.index_before(self.data.first_valid)

    @cached_property
    def style(self) -> MessageStyle:
        """The style of the team's messages."""
        return pipeline.learn_team_style(self.mined.records, self.data)
