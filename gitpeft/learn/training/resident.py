"""Training examples that stay on the device: copied there once, their batches gathered there by index.

What a batch needs from the host are two numbers for each row; the host neither collates nor waits. The inputs
are those of the examples' `collate_batch`, which remains the way on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gitpeft.learn.data.batches import (
    EncodedCommits,
    PromptedExamples,
    RenderedExamples,
    TokenIds,
    narrow_ids,
    round_up,
)
from gitpeft.learn.training.devices import finish_inputs, send_array

Examples: TypeAlias = RenderedExamples | EncodedCommits

MAX_SHARE = 0.1
"""Examples stay on a GPU where they take at most this share of its free memory."""


def make_resident(data: object, device: torch.device) -> "ResidentExamples | None":
    """The examples on a GPU; None on a CPU, where nothing is gained, and where they take too much memory."""
    if not isinstance(data, Examples) or not is_worthwhile(data, device):
        return None
    return ResidentExamples(data, device)


def is_worthwhile(data: Examples, device: torch.device) -> bool:
    """Whether examples are to stay on this device."""
    if device.type != "cuda":
        return False
    tokens = len(data.source) + (len(data.target) if isinstance(data, RenderedExamples) else 0)
    return 4 * tokens <= MAX_SHARE * torch.cuda.mem_get_info(device)[0]


class ResidentExamples:
    """The tokens of examples on a device, 16 bits each where ids fit."""

    def __init__(self, data: Examples, device: torch.device) -> None:
        self.data, self.device = data, device
        self.source = _send_ids(data.source, device)
        if isinstance(data, RenderedExamples):
            self.target = _send_ids(data.target, device)
        else:
            self.features, self.truth = (
                torch.from_numpy(one).to(device) for one in (data.features, data.truth)
            )

    def load_batch(
        self, chosen: Sequence[int], source_limit: int, pad: int, padding: int
    ) -> dict[str, Tensor]:
        """What `load_arrays` makes of the examples' `collate_batch`, with the same arguments."""
        at = np.asarray(chosen, dtype=np.int64)
        sources = _Rows.find(self.data.source_at, at, source_limit)
        if isinstance(self.data, PromptedExamples):
            found = self._gather_prompts(sources, self._find_targets(at), pad, padding)
        else:
            found = self._gather_sources(sources, pad, padding)
            if isinstance(self.data, RenderedExamples):
                found["labels"] = self._gather_labels(self._find_targets(at))
            else:
                rows = send_array(at, self.device)
                found |= {"features": self.features[rows], "labels": self.truth[rows]}
        return finish_inputs(found)

    def find_label_places(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """Where the labels of a batch are not -100, among all of them; known without a look at them."""
        lengths = self._find_targets(np.asarray(chosen, dtype=np.int64)).lengths
        return np.flatnonzero(np.arange(round_up(int(lengths.max()), 4)) < lengths[:, None])

    def _find_targets(self, at: NDArray[np.int64]) -> "_Rows":
        assert isinstance(self.data, RenderedExamples)
        return _Rows.find(self.data.target_at, at, 1 << 30)

    def _gather_sources(self, rows: "_Rows", pad: int, padding: int) -> dict[str, Tensor]:
        starts, lengths = rows.send(self.device)
        place = torch.arange(round_up(rows.longest, pad), device=self.device)
        real = place < lengths
        ids = _pick(self.source, starts + place).where(real, padding)
        return {"input_ids": ids, "attention_mask": real.long()}

    def _gather_labels(self, rows: "_Rows") -> Tensor:
        starts, lengths = rows.send(self.device)
        place = torch.arange(round_up(rows.longest, 4), device=self.device)
        return _pick(self.target, starts + place).where(place < lengths, -100)

    def _gather_prompts(
        self, sources: "_Rows", targets: "_Rows", pad: int, padding: int
    ) -> dict[str, Tensor]:
        """Rows that end with their message: places are counted from where each begins."""
        assert isinstance(self.data, PromptedExamples)
        height = round_up(targets.longest, 4)
        width = max(round_up(int((sources.lengths + targets.lengths).max()), pad), height)
        source_from, source_long = sources.send(self.device)
        target_from, target_long = targets.send(self.device)
        place = torch.arange(width, device=self.device) - width + source_long + target_long
        ids = _pick(self.target, target_from + place - source_long - 1)
        ids = ids.where(place > source_long, self.data.start)
        ids = _pick(self.source, source_from + place).where(place < source_long, ids)
        labelled = torch.arange(height, device=self.device) - height + target_long
        labels = _pick(self.target, target_from + labelled).where(labelled >= 0, -100)
        return {
            "input_ids": ids.where(place >= 0, padding),
            "attention_mask": (place >= 0).long(),
            "position_ids": place.clamp(min=0),
            "labels": labels,
            "shift_labels": labels,
            "logits_to_keep": torch.arange(width - height, width, device=self.device),
        }


@dataclass(frozen=True, slots=True)
class ResidentSelection:
    """Some of the examples, by their numbers."""

    whole: ResidentExamples
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def count_tokens(self, rows: Sequence[int], source_limit: int) -> tuple[list[int], list[int]]:
        """As the examples'; `rows` are counted within the selection."""
        return self.whole.data.count_tokens([self.chosen[row] for row in rows], source_limit)

    def load_batch(self, rows: Sequence[int], source_limit: int, pad: int, padding: int) -> dict[str, Tensor]:
        """As `ResidentExamples`'."""
        return self.whole.load_batch([self.chosen[row] for row in rows], source_limit, pad, padding)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the tokens of some examples begin, and how many there are; both (n)."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def find(cls, offsets: NDArray[np.int64], at: NDArray[np.int64], limit: int) -> "_Rows":
        return cls(offsets[at], np.minimum(offsets[at + 1] - offsets[at], limit))

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def send(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both on the device, (n, 1)."""
        both = send_array(np.stack([self.starts, self.lengths])[:, :, None], device)
        return both[0], both[1]


def _send_ids(ids: TokenIds, device: torch.device) -> Tensor:
    """Ids and one more, so that there is one to pick; in 16 bits with a sign, which torch can index, where
    they have at most 16 bits."""
    flat = narrow_ids(np.append(ids, ids[-1:] if len(ids) else 0))
    return torch.from_numpy(flat.view(np.int16) if flat.dtype == np.uint16 else flat).to(device)


def _pick(ids: Tensor, places: Tensor) -> Tensor:
    """The ids at these places, as long; any where there is none, which the caller replaces."""
    found = ids[places.clamp(0, len(ids) - 1)].long()
    return found & 0xFFFF if ids.dtype == torch.int16 else found
