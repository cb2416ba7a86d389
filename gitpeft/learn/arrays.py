"""Rendered examples as flat arrays: hides ragged storage, and batches of alike lengths."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(slots=True)
class Rendered:
    """Token ids of many examples: `source` and `target` flat, `source_at` and `target_at` (n + 1) offsets."""

    source: Any
    source_at: Any
    target: Any
    target_at: Any

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> "Rendered":
        """Flatten (source ids, target ids) pairs."""
        sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
        return cls(*_flatten(sources), *_flatten(targets))

    @classmethod
    def join(cls, parts: Sequence["Rendered"]) -> "Rendered":
        """The examples of several collections, in order."""
        source_at, target_at = _offsets(parts, "source_at"), _offsets(parts, "target_at")
        return cls(
            np.concatenate([p.source for p in parts]),
            source_at,
            np.concatenate([p.target for p in parts]),
            target_at,
        )

    def __len__(self) -> int:
        return len(self.source_at) - 1

    def pair(self, i: int, source_limit: int) -> tuple[Any, Any]:
        """Source (cut at `source_limit`) and target ids of example `i`."""
        source = self.source[self.source_at[i] : self.source_at[i + 1]][:source_limit]
        return source, self.target[self.target_at[i] : self.target_at[i + 1]]

    def lengths(self, chosen: Iterable[int], source_limit: int) -> tuple[list[int], list[int]]:
        """Tokens of the sources (at most `source_limit`) and of the targets of the chosen examples."""
        at = np.fromiter(chosen, dtype=np.int64)
        sources = np.minimum(self.source_at[at + 1] - self.source_at[at], source_limit)
        return sources.tolist(), (self.target_at[at + 1] - self.target_at[at]).tolist()

    def take(self, chosen: Iterable[int]) -> "Rendered":
        """The chosen examples, in the given order."""
        return Rendered.of([self.pair(i, 1 << 30) for i in chosen])

    def save(self, path: Path) -> None:
        """Write one `.npz`, ids as 16 bits where they fit: large corpora are carried between machines."""
        source, target = _narrow(self.source), _narrow(self.target)
        np.savez(path, source=source, source_at=self.source_at, target=target, target_at=self.target_at)

    @classmethod
    def load(cls, path: Path) -> "Rendered":
        """Read what `save` wrote; pickled arrays are refused."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(*(stored[name] for name in ("source", "source_at", "target", "target_at")))

    def batches(self, tokens: int, limit: int, seed: int) -> Iterator[list[int]]:
        """One pass in random order: numbers of examples of alike length, about `tokens` tokens a batch."""
        dice = random.Random(seed)
        lengths = np.minimum(np.diff(self.source_at), limit) + 4 * np.diff(self.target_at)
        order = list(range(len(self)))
        dice.shuffle(order)
        groups: list[list[int]] = []
        for start in range(0, len(order), 4096):
            groups += _grouped(
                sorted(order[start : start + 4096], key=lambda i: int(lengths[i])), lengths, tokens
            )
        dice.shuffle(groups)
        yield from groups


def _flatten(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    at = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    flat = np.fromiter((i for row in rows for i in row), dtype=np.int32, count=int(at[-1]))
    return flat, at


def _narrow(ids: Any) -> Any:
    return ids.astype(np.uint16) if not len(ids) or 0 <= ids.min() <= ids.max() < 1 << 16 else ids


def _offsets(parts: Sequence[Rendered], name: str) -> Any:
    base, joined = 0, [np.zeros(1, dtype=np.int64)]
    for part in parts:
        at = getattr(part, name)
        joined.append(at[1:] + base)
        base += int(at[-1])
    return np.concatenate(joined)


def _grouped(order: Sequence[int], lengths: Any, tokens: int) -> list[list[int]]:
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
