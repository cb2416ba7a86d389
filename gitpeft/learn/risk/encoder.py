"""The risk encoder: a base's encoder that is tuned to predict defects from a change and its metrics.

    logit = w · pooled encoder states + v · (A · scaled metrics + a) + b

The encoder is that of any base, tuned by any method of `methods`; the metrics pass a linear layer and join
its pooled state, as in the study (arXiv 2402.06247). Everything after the encoder is linear on purpose: where
the pooled state is a mean, the logit is a sum over the tokens, so that each line has its share of it.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gitpeft.diff.stored import shorten_change
from gitpeft.diff.subjects import clean_subject
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.history.stored_records import StoredRecords
from gitpeft.learn.data.batches import EncodedCommits
from gitpeft.learn.models import architectures
from gitpeft.learn.risk import classifiers, labelled_history
from gitpeft.learn.risk.classifiers import Array, LabelledCommits
from gitpeft.learn.risk.labelled_history import BugLabels, Listener
from gitpeft.learn.risk.metric_replay import MeasuredCommit, find_latest_time, measure_history
from gitpeft.learn.risk.prequential import MIN_KNOWN_BUGS
from gitpeft.learn.training import devices
from gitpeft.risk import encoder as risk_encoder
from gitpeft.risk.change_metrics import KAMEI_METRICS
from gitpeft.risk.model import RISK_FEATURES

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod
    from gitpeft.learn.training.settings import TrainingCost, TrainingSettings

METRICS_WIDTH = 16
"""The width of the linear layer of the metrics."""

DROPOUT = 0.2
SCALING_FILE = "judge.json"
_MIN_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class CommitText:
    """The input of a risk encoder: the change as compact text, and the subject of the commit."""

    change: str
    message: str


@dataclass(frozen=True, slots=True)
class FeatureScaling:
    """Means and standard deviations of features over a training part, by which later commits are scaled too.

    The spread of a feature that did not vary is 1.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def from_commits(cls, data: LabelledCommits, features: Sequence[str]) -> "FeatureScaling":
        """The scaling of some commits."""
        x = classifiers.build_design_matrix(data, features)
        spread = np.where(x.std(0) > _MIN_SPREAD, x.std(0), 1.0)
        return cls(tuple(features), tuple(map(float, x.mean(0))), tuple(map(float, spread)))


class RiskOutput(NamedTuple):
    """Mean binary cross-entropy in nats (None without labels), and logits (n)."""

    loss: Tensor | None
    logits: Tensor


class RiskEncoderModel(nn.Module):
    """A base's encoder with a linear layer over its pooled state and the metrics.

    Before training its logit is `prior` for every change. `gitpeft_fresh` names the layers that every method
    trains.
    """

    gitpeft_fresh = ("metrics", "logit")
    gitpeft_task = None
    mean: Tensor
    spread: Tensor

    def __init__(
        self, encoder: Any, config: Any, pooling: str, scaling: FeatureScaling, prior: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder, self.config, self.pooling = encoder, config, pooling
        self.register_buffer("mean", torch.tensor(scaling.mean))
        self.register_buffer("spread", torch.tensor(scaling.spread))
        self.dropout = nn.Dropout(DROPOUT)
        self.metrics = nn.Linear(len(scaling.features), METRICS_WIDTH)
        self.logit = nn.Linear(encoder.config.hidden_size + METRICS_WIDTH, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.constant_(self.logit.bias, prior)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, features: Tensor, labels: Tensor | None = None
    ) -> RiskOutput:
        """Ids and mask (n, S), features (n, k) as `scale_features` gives them, labels (n) 1 or 0."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        pooled = pool_states(states.float(), attention_mask, self.pooling)
        beside = self.metrics((features - self.mean) / self.spread)
        found = self.logit(torch.cat([self.dropout(pooled), beside], -1))[:, 0].float()
        if labels is None:
            return RiskOutput(None, found)
        return RiskOutput(nn.functional.binary_cross_entropy_with_logits(found, labels.float()), found)

    def save_pretrained(self, folder: Path) -> None:
        """All weights, as `methods.load_merged_model` reads them after full tuning."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pool_states(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """The state (n, d) of a source: the first, the last unmasked one, or the mean of the unmasked ones."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def create_risk_encoder(
    base: "BaseModel", scaling: FeatureScaling, prior: float = 0.0, seed: int = 0
) -> RiskEncoderModel:
    """An untrained risk encoder over the base's encoder."""
    model = base.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stack = architectures.get_reading_stack(model)
        return RiskEncoderModel(stack, model.config, base.architecture.pooling, scaling, prior)


# --- data ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RiskData:
    """Labelled commits of one history in three parts by time, and the text of each commit.

    `train` and `valid` have the labels known when `test` begins, `test` those known now.
    """

    train: LabelledCommits
    valid: LabelledCommits
    test: LabelledCommits
    texts: Mapping[str, CommitText]


def build_risk_data(
    history: History,
    repository: Repository,
    until: str = "HEAD",
    listen: Listener = lambda *_: None,
    valid: float = 0.1,
    test: float = 0.1,
) -> RiskData:
    """The labelled commits up to `until`, which are mined already.

    GitpeftError where a part has too few known bugs to learn from or to measure on.
    """
    from gitpeft.config import load_config
    from gitpeft.learn.szz import szz

    measured = measure_history(history, repository, until)
    found = szz.trace_bug_introducing_commits(repository, until, load_config(repository), listen)
    data = split_by_time(measured, found, valid, test)
    return replace(data, texts=load_commit_texts(history, repository, until))


def split_by_time(
    measured: Sequence[MeasuredCommit], found: BugLabels, valid: float, test: float
) -> RiskData:
    """The three parts, without texts; see `build_risk_data`."""
    now = find_latest_time(measured)
    everything = labelled_history.label_commits(measured, found, now)
    first = len(everything) - round(test * len(everything))
    start = int(everything.times[first]) if 0 < first < len(everything) else now
    before = labelled_history.label_commits(
        [one for one in measured if one.change.time < start], found, start
    )
    cut = len(before) - round(valid / (1 - test) * len(before))
    parts = before.take(slice(0, cut)), before.take(slice(cut, None)), everything.take(slice(first, None))
    known = [int(part.truth.sum()) for part in parts]
    if known[0] < MIN_KNOWN_BUGS or not all(0 < n < len(part) for n, part in zip(known, parts, strict=True)):
        raise GitpeftError(
            f"not enough history to learn risk from: {known[0]} known bugs in the oldest part, {known[1]} in "
            f"the validation part, {known[2]} in the newest ({MIN_KNOWN_BUGS}, 1 and 1 are needed)",
            "use a longer history, or set `gitpeft.fixPattern` to how fixes are named here",
        )
    return RiskData(*parts, texts={})


def load_commit_texts(history: History, repository: Repository, until: str) -> dict[str, CommitText]:
    """The text of each commit up to `until`."""
    records = StoredRecords.open(history, repository, until)
    return {one.sha: CommitText(shorten_change(one.change), clean_subject(one.subject)) for one in records}


def encode_change(text: CommitText, base: "BaseModel", message: bool) -> list[int]:
    """Ids of a change as the hook renders it, after its message where `message` is set."""
    before, after = base.find_wrapping_ids()
    read = risk_encoder.build_encoder_input(
        text.change, text.message if message else "", base.budget, base.load_codec()
    )
    ids = [i for piece in read for i in piece.ids]
    return [*before, *ids[: base.budget.total - len(before) - len(after)], *after]


def encode_commits(
    data: LabelledCommits,
    texts: Mapping[str, CommitText],
    base: "BaseModel",
    features: Sequence[str],
    shown: float,
    seed: int = 0,
) -> EncodedCommits:
    """Commits as a risk encoder reads them; a random share `shown` of them with their messages."""
    dice = random.Random(seed)
    missing = CommitText("", "")
    sources = [encode_change(texts.get(sha, missing), base, dice.random() < shown) for sha in data.shas]
    return EncodedCommits.from_sources(sources, classifiers.build_design_matrix(data, features), data.truth)


# --- tuning -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RiskTuningSettings:
    """How to tune a risk encoder. Training ends after `epochs` passes or `minutes`; the weights with the best
    validation loss, which is measured `checks` times, are kept.

    `shown` is the share of training commits that come with their message; with any, the metric `fix`, which
    is derived from the message, is among the features. When the hook runs there is no message yet, so what it
    uses is trained with 0.
    """

    epochs: float = 4.0
    minutes: float = 5.0
    batch: int = 32
    checks: int = 8
    shown: float = 0.0
    weight_decay: float = 0.01
    seed: int = 0

    @property
    def features(self) -> tuple[str, ...]:
        """The metrics that are used besides the text."""
        return KAMEI_METRICS if self.shown else RISK_FEATURES


@devices.explain_lost_gpu(resumes=False)
def train_risk_encoder(
    base: "BaseModel",
    method: "TuningMethod",
    train: LabelledCommits,
    valid: LabelledCommits,
    texts: Mapping[str, CommitText],
    settings: RiskTuningSettings,
) -> tuple[Any, "TuningMethod", FeatureScaling, "TrainingCost"]:
    """The tuned model, the method with its layers chosen, the scaling, and the cost with all notes."""
    from gitpeft.learn.models import methods
    from gitpeft.learn.training.loop import iterate_batch_losses, train_model

    scaling = FeatureScaling.from_commits(train, settings.features)
    share = float(np.clip(train.truth.mean(), 1e-3, 1 - 1e-3))
    notes: list[str] = []
    model = create_risk_encoder(base, scaling, float(np.log(share / (1 - share))), settings.seed)
    model = devices.move_model(model, devices.pick_device(notes=notes), notes)
    parts = [
        encode_commits(part, texts, base, settings.features, settings.shown, settings.seed)
        for part in (train, valid)
    ]
    device = next(model.parameters()).device  # the CPU where the GPU had no room
    schedule = _make_trainer_settings(base, method, settings, len(train), device)
    if method.name == "hybrid" and not method.full:
        ranked = devices.run_where_it_fits(
            model,
            lambda: methods.rank_layers(model, iterate_batch_losses(model, parts[0], schedule, 8)),
            notes,
        )
        method = replace(method, full=tuple(layer for layer, _ in ranked[: method.probe]))
    torch.manual_seed(settings.seed)  # a method initialises its weights at random
    device = next(model.parameters()).device
    tuned = devices.move_model(methods.attach_method(model, method), device, notes)
    cost = train_model(
        tuned, parts[0], schedule, valid=parts[1] if len(valid) else None, evaluate_every=1 / settings.checks
    )
    cost.notes[:0] = notes
    return tuned.eval(), method, scaling, cost


def _make_trainer_settings(
    base: "BaseModel",
    method: "TuningMethod",
    settings: RiskTuningSettings,
    examples: int,
    device: torch.device,
) -> "TrainingSettings":
    from gitpeft.learn.training.settings import TrainingSettings

    batch_tokens = settings.batch * base.budget.total
    return TrainingSettings(
        steps=max(1, round(settings.epochs * examples / settings.batch)),
        minutes=settings.minutes,
        batch_tokens=batch_tokens,
        parts=devices.count_batch_parts(batch_tokens, base.states, device),
        lr=method.lr,
        warmup=0.1,
        decay=0.9,
        weight_decay=settings.weight_decay,
        source_limit=base.budget.total,
        seed=settings.seed,
    )


@torch.no_grad()
def predict_logits(model: Any, data: EncodedCommits, base: "BaseModel", batch: int = 32) -> Array:
    """The logit of each change, (n)."""
    device = next(model.parameters()).device
    padding = model.config.pad_token_id or 0
    model.eval()
    found = np.zeros(len(data))
    order = sorted(range(len(data)), key=lambda i: int(data.source_at[i + 1] - data.source_at[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        arrays = data.collate_batch(rows, base.budget.total, 8, padding)
        del arrays["labels"]
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        found[rows] = model(**inputs).logits.double().cpu().numpy()
    return found


# --- storing ------------------------------------------------------------------------------------------------


def save_trained_encoder(model: Any, scaling: FeatureScaling, folder: Path) -> None:
    """Store what was trained, as `methods.save_trained_weights` does, with the scaling beside it."""
    from gitpeft.learn.models import methods

    folder.mkdir(parents=True, exist_ok=True)
    methods.save_trained_weights(model, folder)
    (folder / SCALING_FILE).write_text(json.dumps(asdict(scaling)), encoding="utf-8")


def load_trained_encoder(base: "BaseModel", method: "TuningMethod", folder: Path) -> RiskEncoderModel:
    """A risk encoder with the stored weights merged in; bottleneck adapters stay separate."""
    from gitpeft.learn.models import methods

    kept = json.loads((folder / SCALING_FILE).read_text(encoding="utf-8"))
    scaling = FeatureScaling(**{name: tuple(values) for name, values in kept.items()})
    found: RiskEncoderModel = methods.load_merged_model(create_risk_encoder(base, scaling), method, folder)
    return found.eval()
