"""Defect prediction as a task of the trainer: hides how code, message and metrics become one score.

    logit = w · pooled encoder states + v · (A · scaled metrics + a) + b

The encoder is that of any base, tuned by any method of `methods`; the metrics pass a linear layer and join
its pooled state, as in the study (arXiv 2402.06247). All behind the encoder is linear on purpose: where the
pooled state is a mean, the logit is a sum over the tokens, which tells what each line adds to it.
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

from gitpeft.diff.patch import clean_subject
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn import logistic
from gitpeft.learn.data.batches import Judged
from gitpeft.learn.evaluation.ranking_metrics import Ranked
from gitpeft.learn.risk import classifiers, selection
from gitpeft.learn.risk.classifiers import Array, Labelled
from gitpeft.learn.risk.metric_replay import Measured, latest, replay
from gitpeft.learn.risk.selection import Listener
from gitpeft.risk import encoder as risk_encoder
from gitpeft.risk.change_metrics import KAMEI
from gitpeft.risk.model import FEATURES

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import Base
    from gitpeft.learn.models.methods import Method
    from gitpeft.learn.training.loop import Cost

WIDTH = 16
"""Numbers that the metrics are joined to the pooled state as."""

DROPOUT = 0.2
KEPT = "judge.json"
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class Text:
    """What a judge reads of a commit: the change as compact text, and its subject."""

    change: str
    message: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """Means and spreads of features over a training part; what comes later is scaled by the same.

    What did not vary there is not stretched: its spread is 1.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def of(cls, data: Labelled, features: Sequence[str]) -> "Scaling":
        """Those of some commits."""
        x = classifiers.design(data, features)
        spread = np.where(x.std(0) > _FLAT, x.std(0), 1.0)
        return cls(tuple(features), tuple(map(float, x.mean(0))), tuple(map(float, spread)))


class Judgement(NamedTuple):
    """Mean binary cross-entropy in nats (None without labels), and logits (n)."""

    loss: Tensor | None
    logits: Tensor


class Judge(nn.Module):
    """A base's encoder with a linear verdict over its pooled state and the metrics.

    Before training its logit is `prior` for every change. `gitpeft_fresh` names what every method trains.
    """

    gitpeft_fresh = ("metrics", "logit")
    gitpeft_task = None
    mean: Tensor
    spread: Tensor

    def __init__(self, encoder: Any, config: Any, pooling: str, scaling: Scaling, prior: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.config, self.pooling = encoder, config, pooling
        self.register_buffer("mean", torch.tensor(scaling.mean))
        self.register_buffer("spread", torch.tensor(scaling.spread))
        self.dropout = nn.Dropout(DROPOUT)
        self.metrics = nn.Linear(len(scaling.features), WIDTH)
        self.logit = nn.Linear(encoder.config.hidden_size + WIDTH, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.constant_(self.logit.bias, prior)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, features: Tensor, labels: Tensor | None = None
    ) -> Judgement:
        """Ids and mask (n, S), features (n, k) as `risk.scaled` gives them, labels (n) 1 or 0."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        pooled = pool(states.float(), attention_mask, self.pooling)
        beside = self.metrics((features - self.mean) / self.spread)
        found = self.logit(torch.cat([self.dropout(pooled), beside], -1))[:, 0].float()
        if labels is None:
            return Judgement(None, found)
        return Judgement(nn.functional.binary_cross_entropy_with_logits(found, labels.float()), found)

    def save_pretrained(self, folder: Path) -> None:
        """All weights, as `methods.load_merged` reads them after full tuning."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """The state (n, d) of a source: the first, the last real one, or the mean of the real ones."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def fresh(base: "Base", scaling: Scaling, prior: float = 0.0, seed: int = 0) -> Judge:
    """An untrained judge over the base's encoder."""
    model = base.load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Judge(model.get_encoder(), model.config, base.family.pooling, scaling, prior)


# --- what it learns from ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RiskData:
    """Labelled commits of one history in three parts by time, and what is to be read of each.

    `train` and `valid` carry what was known when `test` begins, `test` what is known now.
    """

    train: Labelled
    valid: Labelled
    test: Labelled
    texts: Mapping[str, Text]


def risk_data(
    history: History,
    repository: Repository,
    until: str = "HEAD",
    listen: Listener = lambda *_: None,
    valid: float = 0.1,
    test: float = 0.1,
) -> RiskData:
    """The commits up to `until` whose fate is known; `history` holds them already.

    GitpeftError where there are too few known bugs in a part to learn or to measure anything.
    """
    from gitpeft.config import load
    from gitpeft.learn.szz import szz

    measured = replay(history, repository, until)
    found = szz.find(repository, until, load(repository), listen)
    data = split(measured, found, valid, test)
    return replace(data, texts=texts_of(history, repository, until))


def split(measured: Sequence[Measured], found: selection.Labels, valid: float, test: float) -> RiskData:
    """The three parts, without texts; see `risk_data`."""
    now = latest(measured)
    everything = selection.label(measured, found, now)
    first = len(everything) - round(test * len(everything))
    start = int(everything.times[first]) if 0 < first < len(everything) else now
    before = selection.label([one for one in measured if one.change.time < start], found, start)
    cut = len(before) - round(valid / (1 - test) * len(before))
    parts = before.take(slice(0, cut)), before.take(slice(cut, None)), everything.take(slice(first, None))
    known = [int(part.truth.sum()) for part in parts]
    if known[0] < selection.NEEDED or not all(
        0 < n < len(part) for n, part in zip(known, parts, strict=True)
    ):
        raise GitpeftError(
            f"not enough history to learn risk from: {known[0]} known bugs in the oldest part, {known[1]} in "
            f"the validation part, {known[2]} in the newest ({selection.NEEDED}, 1 and 1 are needed)",
            "a longer history, or `gitpeft.fixPattern` for how fixes are named here",
        )
    return RiskData(*parts, texts={})


def texts_of(history: History, repository: Repository, until: str) -> dict[str, Text]:
    """What is to be read of each commit up to `until`."""
    records = history.records(repository, repository.resolve(until))
    return {one.sha: Text(one.change, clean_subject(one.subject)) for one in records}


def source(text: Text, base: "Base", message: bool) -> list[int]:
    """Ids of a change as the hook renders it, with its message in front where that is to be seen."""
    before, after = base.wrapping()
    read = risk_encoder.source(text.change, text.message if message else "", base.budget, base.codec())
    ids = [i for piece in read for i in piece.ids]
    return [*before, *ids[: base.budget.total - len(before) - len(after)], *after]


def judged(
    data: Labelled,
    texts: Mapping[str, Text],
    base: "Base",
    features: Sequence[str],
    shown: float,
    seed: int = 0,
) -> Judged:
    """Commits as a judge reads them; the share `shown` of them, drawn at random, with their messages."""
    dice = random.Random(seed)
    missing = Text("", "")
    sources = [source(texts.get(sha, missing), base, dice.random() < shown) for sha in data.shas]
    return Judged.of(sources, classifiers.design(data, features), data.truth)


# --- tuning -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lesson:
    """How to tune a judge. Training ends after `epochs` passes or `minutes`, and keeps the best of `checks`
    looks at the validation loss.

    `shown` is the share of training commits that come with their message; with any, the metric `fix`, which
    is read off the message, is among the features. At a commit there is none yet, so that what the hook asks
    learns with 0.
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
        """The metrics beside the text."""
        return KAMEI if self.shown else FEATURES


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned judge, and what it says of later commits; its probabilities are calibrated on `valid`."""

    model: Any
    method: "Method"
    scaling: Scaling
    valid: Ranked
    test: Ranked
    cost: "Cost"


def tune(base: "Base", method: "Method", data: RiskData, lesson: Lesson | None = None) -> Tuned:
    """Tune a base's encoder with a method on the training part, and score the later ones.

    What has messages in training has them in validation and test as well.
    """
    lesson = lesson or Lesson()
    tuned, method, scaling, cost = learn(base, method, data.train, data.valid, data.texts, lesson)
    told = [
        scores(tuned, judged(part, data.texts, base, scaling.features, 1.0 if lesson.shown else 0.0), base)
        for part in (data.valid, data.test)
    ]
    curve = logistic.sigmoid(told[0], data.valid.truth)
    valid, test = (
        Ranked(part.truth, x, classifiers.through(curve, x), part.effort)
        for part, x in zip((data.valid, data.test), told, strict=True)
    )
    return Tuned(tuned, method, scaling, valid, test, cost)


def learn(
    base: "Base",
    method: "Method",
    train: Labelled,
    valid: Labelled,
    texts: Mapping[str, Text],
    lesson: Lesson,
) -> tuple[Any, "Method", Scaling, "Cost"]:
    """The tuned model, the method with its layers chosen, the scaling, and what it cost."""
    from gitpeft.learn.models import methods
    from gitpeft.learn.training.loop import fit, losses, pick_device

    scaling = Scaling.of(train, lesson.features)
    share = float(np.clip(train.truth.mean(), 1e-3, 1 - 1e-3))
    device = pick_device()
    model = fresh(base, scaling, float(np.log(share / (1 - share))), lesson.seed).to(device)
    parts = [judged(part, texts, base, lesson.features, lesson.shown, lesson.seed) for part in (train, valid)]
    settings = _settings(base, method, lesson, len(train))
    if method.name == "hybrid" and not method.full:
        ranked = methods.rank_layers(model, losses(model, parts[0], settings, 8))
        method = replace(method, full=tuple(layer for layer, _ in ranked[: method.probe]))
    torch.manual_seed(lesson.seed)  # what a method adds begins with random weights
    tuned = methods.attach(model, method).to(device)
    cost = fit(
        tuned, parts[0], settings, valid=parts[1] if len(valid) else None, evaluate_every=1 / lesson.checks
    )
    return tuned.eval(), method, scaling, cost


def _settings(base: "Base", method: "Method", lesson: Lesson, examples: int) -> Any:
    from gitpeft.learn.training.loop import Settings, parts_for

    batch_tokens = lesson.batch * base.budget.total
    return Settings(
        steps=max(1, round(lesson.epochs * examples / lesson.batch)),
        minutes=lesson.minutes,
        batch_tokens=batch_tokens,
        parts=parts_for(batch_tokens),
        lr=method.lr,
        warmup=0.1,
        decay=0.9,
        weight_decay=lesson.weight_decay,
        source_limit=base.budget.total,
        seed=lesson.seed,
    )


@torch.no_grad()
def scores(model: Any, data: Judged, base: "Base", batch: int = 32) -> Array:
    """The logit of each change, (n)."""
    device = next(model.parameters()).device
    padding = model.config.pad_token_id or 0
    model.eval()
    found = np.zeros(len(data))
    order = sorted(range(len(data)), key=lambda i: int(data.source_at[i + 1] - data.source_at[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        arrays = data.arrays(rows, base.budget.total, 8, padding)
        del arrays["labels"]
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        found[rows] = model(**inputs).logits.double().cpu().numpy()
    return found


# --- keeping ------------------------------------------------------------------------------------------------


def save(model: Any, scaling: Scaling, folder: Path) -> None:
    """What was trained, as `methods.save` writes it, and the scaling beside it."""
    from gitpeft.learn.models import methods

    folder.mkdir(parents=True, exist_ok=True)
    methods.save(model, folder)
    (folder / KEPT).write_text(json.dumps(asdict(scaling)), encoding="utf-8")


def load(base: "Base", method: "Method", folder: Path) -> Judge:
    """A judge with what `save` wrote folded in; bottlenecks stay in it (see `methods.load_merged`)."""
    from gitpeft.learn.models import methods

    kept = json.loads((folder / KEPT).read_text(encoding="utf-8"))
    scaling = Scaling(**{name: tuple(values) for name, values in kept.items()})
    found: Judge = methods.load_merged(fresh(base, scaling), method, folder)
    return found.eval()
