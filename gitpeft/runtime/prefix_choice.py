"""Which prefix fits a change best: by what the model says of each while it samples, and by the team's habits.

The model's probabilities are those that sampling computes anyway. Where no sample came by, what remains of a
prefix has the share that it has among the team's messages.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gitpeft.runtime.beam_search import PROBABILITY_FLOOR

if TYPE_CHECKING:
    from gitpeft.runtime.onnx_model import Floats

_LIFT_WEIGHT = 1.5
"""The exponent of the lift: no model has learnt what this team calls a change of its workflows or tests."""


class EncodedPrefix(NamedTuple):
    """The ids of a prefix, in how many of the team's messages it stands, and its lift (> 0)."""

    ids: tuple[int, ...]
    frequency: float
    lift: float


class PrefixChoice:
    """A choice among prefixes, for one message. They may begin with the same ids."""

    def __init__(self, prefixes: Sequence[EncodedPrefix]) -> None:
        self._prefixes = prefixes
        self._frequencies: dict[tuple[int, ...], float] = defaultdict(float)
        self._following: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for one in prefixes:
            for count, token in enumerate(one.ids):
                self._following[one.ids[:count]].add(token)
            for count in range(len(one.ids) + 1):
                self._frequencies[one.ids[:count]] += one.frequency
        self._noted: dict[tuple[int, ...], dict[int, float]] = {}

    def note(self, ids: Sequence[int], probabilities: "Floats") -> None:
        """Note the model's probabilities (V) of what follows these ids, the first of a message."""
        begun = tuple(ids)
        if begun in self._following and begun not in self._noted:
            self._noted[begun] = {token: float(probabilities[token]) for token in self._following[begun]}

    def find_best(self) -> int | None:
        """The place of the best prefix; None where there is none, or nothing was noted."""
        if not self._noted:
            return None
        return max(range(len(self._prefixes)), key=lambda place: self._score(self._prefixes[place]))

    def _score(self, prefix: EncodedPrefix) -> float:
        """Its log-probability and, weighted, the logarithm of its lift."""
        score = _LIFT_WEIGHT * math.log(prefix.lift)
        for count, token in enumerate(prefix.ids):
            begun = prefix.ids[:count]
            share = self._frequencies[prefix.ids[: count + 1]] / self._frequencies[begun]
            score += math.log(self._noted.get(begun, {}).get(token, share) + PROBABILITY_FLOOR)
        return score
