"""Auxiliary tasks of pretraining, beside messages, with their heads and corrupted inputs.

Three tasks use the encoder states of the message task and cost a few percent of a step: was a line added
or removed (its sign hidden, as the probes of `compare` ask), how many of an exemplar's words will the message
have, and which tokens stood in hidden spans of the diff. For this a part of the examples is
corrupted; the model still learns to write their messages. The heads are in `model.heads` while training, and
in no saved base.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, nll_loss, pad

from gitpeft.learn.training.loop import Objective
from gitpeft.runtime.tokenizer import END_TOKEN, SPECIAL_TOKENS, UNKNOWN_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_MARK_IDS = {token.strip("<>"): number for number, token in enumerate(SPECIAL_TOKENS)}
_MASK_ID, _FIRST_MARK = SPECIAL_TOKENS.index(UNKNOWN_TOKEN), SPECIAL_TOKENS.index(END_TOKEN) + 2

CORRUPTED_SHARE = 0.3
"""Share of the examples whose input is corrupted."""

_SIGNLESS_SHARE = 0.3
"""Share of the corrupted examples that lose every sign, as in a probe; of others, share of the signs."""

_SPAN_TOKENS, _HIDDEN_SHARE = 3, 0.12
"""Tokens of a hidden span, and about which share of a damaged diff is hidden."""


@dataclass(frozen=True, slots=True)
class AuxiliaryWeights:
    """What each task's loss counts beside that of messages; 0 leaves it out, with its corruption."""

    line_type: float = 0.0
    matching: float = 0.0
    denoise: float = 0.0

    def has_any(self) -> bool:
        """Whether there is any auxiliary task."""
        return max(self.line_type, self.matching, self.denoise) > 0


class AuxiliaryHeads(nn.Module):
    """One small head a task over encoder states of `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.line_type, self.matching = nn.Linear(width, 1), nn.Linear(width, 1)
        self.denoise = nn.Linear(width, width, bias=False)
        for head in (self.line_type, self.matching):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


def attach_heads(model: "PreTrainedModel") -> None:
    """Give the model heads unless it has them."""
    if not hasattr(model, "heads"):
        model.heads = AuxiliaryHeads(model.config.d_model).to(model.device)


def detach_heads(model: "PreTrainedModel") -> None:
    """Take the heads away: a base is saved without them."""
    if hasattr(model, "heads"):
        del model.heads


def make_joint_objective(weights: AuxiliaryWeights) -> Objective:
    """The loss of messages plus the weighted losses of the auxiliary tasks; `attach_heads` comes first."""

    def compute_joint_loss(model: "PreTrainedModel", inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        ids = inputs["input_ids"]
        read = corrupt_sources(ids, weights)
        found = model(**{**inputs, "input_ids": read})
        states = found.encoder_last_hidden_state.float()
        parts = SourceParts.from_ids(ids)
        total = found.loss
        if weights.line_type:
            total = total + weights.line_type * _line_type_loss(model.heads, parts, states, ids, read)
        if weights.matching:
            total = total + weights.matching * _matching_loss(
                model.heads, parts, states, ids, inputs["labels"]
            )
        if weights.denoise:
            total = total + weights.denoise * _denoising_loss(model, states, ids, read)
        return total, found.loss

    return compute_joint_loss


def corrupt_sources(ids: Tensor, weights: AuxiliaryWeights) -> Tensor:
    """Ids (batch, source) as the tasks want them read: some signs neutral, some spans of the diff hidden."""
    damaged = torch.rand_like(ids[:, :1], dtype=torch.float) < CORRUPTED_SHARE
    read = ids
    if weights.line_type:
        bare = torch.rand_like(ids[:, :1], dtype=torch.float) < _SIGNLESS_SHARE
        chosen = bare | (torch.rand_like(ids, dtype=torch.float) < _SIGNLESS_SHARE)
        read = read.masked_fill(damaged & chosen & _is_sign(ids), _MARK_IDS["keep"])
    if weights.denoise:
        starts = (torch.rand_like(ids, dtype=torch.float) < _HIDDEN_SHARE / _SPAN_TOKENS).long()
        spans = sum(pad(starts, (shift, 0))[:, : ids.shape[1]] for shift in range(_SPAN_TOKENS))
        text = (ids >= len(SPECIAL_TOKENS)) & ((ids == _MARK_IDS["file"]).cumsum(1) > 0)
        read = read.masked_fill(damaged & text & (spans > 0), _MASK_ID)
    return read


def _is_sign(ids: Tensor) -> Tensor:
    return (ids == _MARK_IDS["add"]) | (ids == _MARK_IDS["delete"])


@dataclass(frozen=True, slots=True)
class SourceParts:
    """The parts that marks begin in sources: `of_token` numbers them over the whole batch, (batch * source);
    `begins` is where each begins in it, `tokens` how many tokens of text it has."""

    of_token: Tensor
    begins: Tensor
    tokens: Tensor

    @classmethod
    def from_ids(cls, ids: Tensor) -> "SourceParts":
        """Those of sources (batch, source); what comes before a row's first mark belongs to no other row."""
        mark = (ids >= _FIRST_MARK) & (ids < len(SPECIAL_TOKENS))
        mark[:, 0] = True
        flat = mark.flatten()
        of_token = flat.cumsum(0) - 1
        begins = flat.nonzero().squeeze(1)
        text = (ids >= len(SPECIAL_TOKENS)).flatten().float()
        return cls(of_token, begins, text.new_zeros(len(begins)).index_add(0, of_token, text))

    def average_text(self, values: Tensor, ids: Tensor) -> Tensor:
        """Means over each part's text of `values` (batch, source, width): (parts, width)."""
        text = (ids >= len(SPECIAL_TOKENS)).flatten()[:, None]
        sums = values.new_zeros(len(self.begins), values.shape[-1])
        sums = sums.index_add(0, self.of_token, values.flatten(0, 1) * text)
        return sums / self.tokens.clamp(min=1)[:, None]


def _line_type_loss(
    heads: AuxiliaryHeads, parts: SourceParts, states: Tensor, ids: Tensor, read: Tensor
) -> Tensor:
    """Binary cross-entropy of "this line was added" over lines whose sign was hidden."""
    was = ids.flatten()[parts.begins]
    asked = (was != read.flatten()[parts.begins]) & (parts.tokens > 0)
    if not asked.any():
        return states.sum() * 0
    said = heads.line_type(parts.average_text(states, ids)[asked]).float().squeeze(1)
    return binary_cross_entropy_with_logits(said, (was[asked] == _MARK_IDS["add"]).float())


def _matching_loss(
    heads: AuxiliaryHeads, parts: SourceParts, states: Tensor, ids: Tensor, labels: Tensor
) -> Tensor:
    """Cross-entropy of the share of an exemplar's tokens that are in the message."""
    asked = (ids.flatten()[parts.begins] == _MARK_IDS["like"]) & (parts.tokens > 0)
    if not asked.any():
        return states.sum() * 0
    common = (ids[:, :, None] == labels[:, None, :]).any(-1)[..., None].float()
    said = heads.matching(parts.average_text(states, ids)[asked]).float()
    return binary_cross_entropy_with_logits(said, parts.average_text(common, ids)[asked])


def _denoising_loss(model: "PreTrainedModel", states: Tensor, ids: Tensor, read: Tensor) -> Tensor:
    """Negative log-likelihood of hidden tokens, by the output's own table."""
    hidden = (read == _MASK_ID) & (ids != _MASK_ID)
    if not hidden.any():
        return states.sum() * 0
    return nll_loss(model.vocabulary_log_probs(model.heads.denoise(states[hidden])), ids[hidden])
