"""Training examples as flat arrays of token ids, and batches of examples of similar length."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

TokenIds = NDArray[np.integer]
"""Token ids, 16 or 32 bits wide."""

TokenRow = Sequence[int] | TokenIds
"""The tokens of one example."""

BatchArrays = dict[str, NDArray[np.generic]]
"""The inputs of a model by name, each with a row for every example of a batch."""


@dataclass(slots=True)
class RenderedExamples:
    """Token ids of n examples: `source` and `target` are flat, `source_at` and `target_at` n + 1 offsets."""

    source: TokenIds
    source_at: NDArray[np.int64]
    target: TokenIds
    target_at: NDArray[np.int64]

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[TokenRow, TokenRow]]) -> "RenderedExamples":
        """Flatten (source ids, target ids) pairs."""
        sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
        return cls(*_flatten_rows(sources), *_flatten_rows(targets))

    @classmethod
    def join_parts(cls, parts: Sequence["RenderedExamples"]) -> "RenderedExamples":
        """The examples of several collections, in order."""
        source_at, target_at = _join_offsets(parts, "source_at"), _join_offsets(parts, "target_at")
        return cls(
            np.concatenate([p.source for p in parts]),
            source_at,
            np.concatenate([p.target for p in parts]),
            target_at,
        )

    def __len__(self) -> int:
        return len(self.source_at) - 1

    def get_pair(self, i: int, source_limit: int) -> tuple[TokenIds, TokenIds]:
        """Source (cut at `source_limit`) and target ids of example `i`."""
        source = self.source[self.source_at[i] : self.source_at[i + 1]][:source_limit]
        return source, self.target[self.target_at[i] : self.target_at[i + 1]]

    def collate_batch(self, chosen: Sequence[int], source_limit: int, pad: int, padding: int) -> BatchArrays:
        """The model's inputs: `input_ids` and `attention_mask` (n, S), `labels` (n, T), filled with -100.

        S is a multiple of `pad`; sources are filled with the id `padding`.
        """
        pairs = [self.get_pair(i, source_limit) for i in chosen]
        labels = np.full((len(pairs), round_up(max(len(t) for _, t in pairs), 4)), -100, dtype=np.int64)
        for row, (_, target) in enumerate(pairs):
            labels[row, : len(target)] = target
        return _pad_sources([source for source, _ in pairs], pad, padding) | {"labels": labels}

    def count_tokens(self, chosen: Iterable[int], source_limit: int) -> tuple[list[int], list[int]]:
        """Tokens of the sources (at most `source_limit`) and of the targets of the chosen examples."""
        at = np.fromiter(chosen, dtype=np.int64)
        sources = np.minimum(self.source_at[at + 1] - self.source_at[at], source_limit)
        return sources.tolist(), (self.target_at[at + 1] - self.target_at[at]).tolist()

    def select_examples(self, chosen: Iterable[int]) -> "RenderedExamples":
        """The chosen examples, in the given order."""
        return RenderedExamples.from_pairs([self.get_pair(i, 1 << 30) for i in chosen])

    def save(self, path: Path) -> None:
        """Write one compressed `.npz`, ids in 16 bits where they fit: corpora are copied between machines."""
        source, target = narrow_ids(self.source), narrow_ids(self.target)
        np.savez_compressed(
            path, source=source, source_at=self.source_at, target=target, target_at=self.target_at
        )

    @classmethod
    def load(cls, path: Path) -> "RenderedExamples":
        """Read what `save` wrote; ValueError for pickled arrays."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(*(stored[name] for name in ("source", "source_at", "target", "target_at")))

    def iterate_batches(self, tokens: int, limit: int, seed: int) -> Iterator[list[int]]:
        """One pass in random order: numbers of examples of similar length, about `tokens` tokens a batch."""
        lengths = np.minimum(np.diff(self.source_at), limit) + 4 * np.diff(self.target_at)
        yield from _shuffle_batches(lengths, tokens, seed)


@dataclass(slots=True)
class PromptedExamples(RenderedExamples):
    """Examples for a causal language model, which reads source, `start` and the message as one sequence."""

    start: int = 0

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[TokenRow, TokenRow]], start: int = 0) -> "PromptedExamples":
        """As `RenderedExamples`'; `start` is the id between a source and its message."""
        flat = RenderedExamples.from_pairs(pairs)
        return cls(flat.source, flat.source_at, flat.target, flat.target_at, start)

    def collate_batch(self, chosen: Sequence[int], source_limit: int, pad: int, padding: int) -> BatchArrays:
        """The model's inputs, filled up on the left so that all rows end with their message.

        `input_ids`, `attention_mask` and `position_ids` (n, S + T); `labels` and `shift_labels` (n, T), the
        same, filled with -100 on the left; `logits_to_keep` (T), the places that predict them: nothing else
        is computed over the whole vocabulary.
        """
        pairs = [self.get_pair(i, source_limit) for i in chosen]
        height = round_up(max(len(target) for _, target in pairs), 4)
        width = round_up(max(len(source) + len(target) for source, target in pairs), pad)
        ids = np.full((len(pairs), max(width, height)), padding, dtype=np.int64)
        mask, labels = np.zeros_like(ids), np.full((len(pairs), height), -100, dtype=np.int64)
        for row, (source, target) in enumerate(pairs):
            read = [*source, self.start, *target[:-1]]
            ids[row, -len(read) :], mask[row, -len(read) :] = read, 1
            labels[row, height - len(target) :] = target
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
            "labels": labels,
            "shift_labels": labels,
            "logits_to_keep": np.arange(ids.shape[1] - height, ids.shape[1]),
        }

    def select_examples(self, chosen: Iterable[int]) -> "PromptedExamples":
        """The chosen examples, in the given order."""
        return self.from_pairs([self.get_pair(i, 1 << 30) for i in chosen], self.start)

    def iterate_batches(self, tokens: int, limit: int, seed: int) -> Iterator[list[int]]:
        """As `RenderedExamples`'; a token of a message costs no more than one of its source."""
        lengths = np.minimum(np.diff(self.source_at), limit) + np.diff(self.target_at)
        yield from _shuffle_batches(lengths, tokens, seed)


@dataclass(slots=True)
class EncodedCommits:
    """n labelled changes for a risk encoder: `source` are token ids, flat, `source_at` n + 1 offsets.

    `features` (n, k) are metrics of the changes, `truth` (n) is 1 where a later fix corrected the change.
    """

    source: TokenIds
    source_at: NDArray[np.int64]
    features: NDArray[np.float32]
    truth: NDArray[np.float32]

    @classmethod
    def from_sources(
        cls, sources: Sequence[TokenRow], features: ArrayLike, truth: ArrayLike
    ) -> "EncodedCommits":
        """Flatten sources, and keep features and truth beside them as float32."""
        return cls(*_flatten_rows(sources), np.asarray(features, np.float32), np.asarray(truth, np.float32))

    def __len__(self) -> int:
        return len(self.source_at) - 1

    def get_source(self, i: int, source_limit: int) -> TokenIds:
        """Source of example `i`, cut at `source_limit`."""
        return self.source[self.source_at[i] : self.source_at[i + 1]][:source_limit]

    def collate_batch(self, chosen: Sequence[int], source_limit: int, pad: int, padding: int) -> BatchArrays:
        """The model's inputs: `input_ids` and `attention_mask` (n, S), `features` (n, k), `labels` (n)."""
        at = np.asarray(chosen)
        padded = _pad_sources([self.get_source(i, source_limit) for i in chosen], pad, padding)
        return padded | {"features": self.features[at], "labels": self.truth[at]}

    def count_tokens(self, chosen: Iterable[int], source_limit: int) -> tuple[list[int], list[int]]:
        """As `RenderedExamples`'; there is nothing to write, so targets have no tokens."""
        at = np.fromiter(chosen, dtype=np.int64)
        sources = np.minimum(self.source_at[at + 1] - self.source_at[at], source_limit)
        return sources.tolist(), [0] * len(at)

    def select_examples(self, chosen: Iterable[int]) -> "EncodedCommits":
        """The chosen examples, in the given order."""
        at = list(chosen)
        return EncodedCommits.from_sources(
            [self.get_source(i, 1 << 30) for i in at], self.features[at], self.truth[at]
        )

    def iterate_batches(self, tokens: int, limit: int, seed: int) -> Iterator[list[int]]:
        """As `RenderedExamples`'."""
        yield from _shuffle_batches(np.minimum(np.diff(self.source_at), limit), tokens, seed)


def _shuffle_batches(lengths: NDArray[np.integer], tokens: int, seed: int) -> Iterator[list[int]]:
    dice = random.Random(seed)
    order = list(range(len(lengths)))
    dice.shuffle(order)
    groups: list[list[int]] = []
    for start in range(0, len(order), 4096):
        groups += group_by_tokens(
            sorted(order[start : start + 4096], key=lambda i: int(lengths[i])), lengths, tokens
        )
    dice.shuffle(groups)
    yield from groups


def _pad_sources(sources: Sequence[TokenIds], pad: int, padding: int) -> BatchArrays:
    ids = np.full((len(sources), round_up(max(map(len, sources)), pad)), padding, dtype=np.int64)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = source
    lengths = np.array([len(source) for source in sources])
    return {"input_ids": ids, "attention_mask": (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)}


def round_up(length: int, step: int) -> int:
    """The next multiple of `step`: with few different shapes the allocator can reuse its blocks."""
    return -(-length // step) * step


def _flatten_rows(rows: Sequence[TokenRow]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    at = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    flat = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(at[-1]))
    return flat, at


def narrow_ids(ids: TokenIds) -> TokenIds:
    """Ids in 16 bits where they fit."""
    return ids.astype(np.uint16) if not len(ids) or 0 <= ids.min() <= ids.max() < 1 << 16 else ids


def _join_offsets(parts: Sequence[RenderedExamples], name: str) -> NDArray[np.int64]:
    base, joined = 0, [np.zeros(1, dtype=np.int64)]
    for part in parts:
        at = getattr(part, name)
        joined.append(at[1:] + base)
        base += int(at[-1])
    return np.concatenate(joined)


def group_by_tokens(
    order: Sequence[int], lengths: Sequence[int] | NDArray[np.integer], tokens: int
) -> list[list[int]]:
    """Consecutive numbers of `order`, each group of at most so many tokens when filled up to its longest.

    A group has at least one.
    """
    groups: list[list[int]] = []
    group: list[int] = []
    longest = 0
    for i in order:
        longest = max(longest, int(lengths[i]))
        if group and longest * (len(group) + 1) > tokens:
            groups.append(group)
            group, longest = [], int(lengths[i])
        group.append(i)
    return [*groups, group] if group else groups
