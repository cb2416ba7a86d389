"""Selects training messages by grounding: how many of their content words can be read from the prompt.

Each message gets a score, the share of its content words that occur in the prompt (`gitpeft.diff.grounding`),
and by it a chance to be learnt. A message with a number that does not occur in the prompt is refused.
"""

import re
from dataclasses import dataclass

from gitpeft.diff.grounding import (
    ChangeSize,
    GroundingText,
    contradicts_change,
    list_invented_numbers,
    measure_grounding,
)

_BUMP = re.compile(
    r"\b(?:bump(?:s|ed)?|upgrad(?:e[sd]?|ing)|update[sd]?)\b"
    r".*(?:\bdep(?:s|endenc(?:y|ies))\b|\bto v?\d|\bfrom v?\d)"
    r"|^(?:bump|build\(deps|chore\(deps|deps)",
    re.IGNORECASE,
)
_RELEASE = re.compile(
    r"^(?:(?:chore|build)(?:\([^)]*\))?:\s*)?"
    r"(?:(?:release|version|bump|prepare|tag|publish|start|back to|begin)\b.{0,24})?"
    r"v?\d+\.\d+[\w.+-]*\W*$",
    re.IGNORECASE,
)
_SERIAL_FIRST = re.compile(r"^(?:#\d+|gh-\d+|[A-Z]{2,}-\d+)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a pair: the rule that decided, how grounded it is, and the chance that it is kept."""

    rule: str
    grounded: float
    chance: float


def judge_message(message: str, change: str, beside: str, size: ChangeSize) -> Verdict:
    """Whether to learn a message, given the prompt's part about the change and the part beside it."""
    if not message.isascii() or not 2 <= len(message.split()) <= 20 or not 8 <= len(message) <= 110:
        return Verdict("length or letters", 0, 0)
    if _SERIAL_FIRST.match(message):
        return Verdict("begins with an issue's number", 0, 0)
    known = GroundingText(change)
    if list_invented_numbers(message, known):
        return Verdict("a number that is not in the change", 0, 0)
    if contradicts_change(message, size):
        return Verdict("verb against the change", 0, 0)
    share = measure_grounding(message, known, beside)
    if share is None:
        return Verdict("says nothing", 0, 0.1)
    if _BUMP.search(message):
        return Verdict("dependency", share, 0.25 if share >= 0.5 else 0)
    if _RELEASE.match(message):
        return Verdict("release", share, 0.3)
    return Verdict(*_grade_share(share))


def _grade_share(share: float) -> tuple[str, float, float]:
    for least, chance in (
        (0.75, 1.0),
        (0.6, 0.9),
        (0.45, 0.6),
        (0.3, 0.25),
        (0.15, 0.08),
    ):
        if share >= least:
            return f"grounded >= {least:.2f}", share, chance
    return "grounded < 0.15", share, 0.02
