"""Selects training messages by grounding: how many of their content words can be read from the prompt.

Many public messages state things that cannot be read from the change; a model trained on them learns to
invent. Each message therefore gets a score, the share of its content words that occur in the prompt.
A message with a number that does not occur in the prompt is refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WORD_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER = re.compile(r"\d+")
_TRAILER = re.compile(
    r"\s*(?:[(\[]\s*(?:(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see|issue|pr|gh)[:\s-]*)*(?:[\w./-]*#\d+|gh-\d+)"
    r"(?:[,\s&]+(?:and\s+)?#\d+)*\s*[)\]]"
    r"|[-,;:.]?\s+(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see)[:\s]+(?:issue\s+)?#\d+"
    r"|\s#\d+)\s*\.?$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"(?:\[[\w ./,-]{1,30}\]\s*|[\w./,-]{1,24}(?:\([^)]{1,40}\))?!?:\s+)")
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

_STOP_WORDS = """
a an the and or of to in on at by for from with without into as is are be was were been it its this
that these those not no when if then than so we i you they our all any some more most other also
just only now still too very will would can could should may might do does did done have has had
there here which who what where how why via per vs instead because due since after before while
during about up out off over under again s t re
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
_VERBS_WORDS = """
add fix remove updat us mak chang renam mov refactor improv bump allow support handl ensur avoid
prevent simplify clean cleanup replac introduc implement drop delet correct set enabl disabl prepar
test doc docs feat chor ci build styl perf misc minor switch extract extend convert creat put let
keep need try show check us work run bug issu cod error typo new better unnecessary unus miss small
littl bit tweak adjust rework rewrit reorganis reorganiz cosmetic format lint style polish wip
initial first last next properly correctly possible ability able provid
"""
VERB_STEMS = frozenset(_VERBS_WORDS.split())
"""Stems of words that say what is done rather than to what; `contradicts_change` tests them."""

_ADDING = frozenset(["add", "introduc", "implement", "creat", "feat"])
_REMOVING = frozenset(["remov", "remove", "delet", "drop"])
_MOVING = frozenset(["renam", "mov"])


@dataclass(frozen=True, slots=True)
class ChangeSize:
    """How much a change adds and removes, and whether it deletes or renames a file."""

    added: int
    removed: int
    deletes: bool
    renames: bool


def stem_word(word: str) -> str:
    """A word in lower case without its commonest endings."""
    word = word.lower()
    for ending in (
        "ations",
        "ation",
        "ings",
        "ing",
        "ments",
        "ment",
        "ied",
        "ies",
        "ers",
        "ed",
        "es",
        "er",
        "ly",
        "s",
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word[:-1] if word[-1:] == "e" and len(word) > 3 else word


def extract_stems(text: str) -> set[str]:
    """The stems of all words, parts of identifiers each for itself and joined."""
    found = {stem_word(part) for part in _WORD_PART.findall(text)}
    return found | {stem_word(word) for word in re.findall(r"\w+", text)}


def strip_issue_numbers(subject: str) -> str:
    """A subject without the issue numbers at its end, which nobody can read from a change."""
    before = ""
    while before != subject:
        before, subject = subject, _TRAILER.sub("", subject).rstrip()
    return subject


def extract_content_stems(message: str) -> list[str]:
    """The stems of the words that say what a change is about; a prefix (`docs:`) is none of them."""
    text = message[match.end() :] if (match := _PREFIX.match(message)) else message
    words = [word for word in _WORD_PART.findall(text) if word.lower() not in STOP_WORDS and len(word) > 1]
    return [found for word in words if (found := stem_word(word)) not in VERB_STEMS]


def measure_grounding(message: str, change: str, beside: str) -> float | None:
    """The share of a message's content words that can be read; None where it has none.

    A word that stands in the change counts whole, one that only stands beside it (earlier subjects) for 0.6.
    """
    words = extract_content_stems(message)
    if not words:
        return None
    seen, near = extract_stems(change), extract_stems(beside)
    joined = "".join(sorted(seen))
    return sum(1.0 if _is_in_change(w, seen, joined) else 0.6 if w in near else 0.0 for w in words) / len(
        words
    )


def _is_in_change(word: str, seen: set[str], joined: str) -> bool:
    return word in seen or (len(word) >= 4 and word in joined)


def contradicts_change(message: str, size: ChangeSize) -> bool:
    """Whether the first verb promises what the change cannot have done."""
    text = message[match.end() :] if (match := _PREFIX.match(message)) else message
    verb = stem_word(words[0]) if (words := re.findall(r"[A-Za-z]+", text)) else ""
    if verb in _ADDING:
        return not size.added or size.removed > 8 * size.added + 8
    if verb in _REMOVING:
        return not size.removed and not size.deletes
    return verb in _MOVING and not size.removed and not size.renames


def invents_numbers(message: str, change: str) -> bool:
    """Whether a message names a number that the change does not."""
    return bool(set(_NUMBER.findall(message)) - set(_NUMBER.findall(change)))


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
    if invents_numbers(message, change):
        return Verdict("a number that is not in the change", 0, 0)
    if contradicts_change(message, size):
        return Verdict("verb against the change", 0, 0)
    share = measure_grounding(message, change, beside)
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


def mark_distinct(messages: Iterable[str], most: int) -> list[bool]:
    """For each message whether it is among the first `most` of its kind; digits and case do not count."""
    seen: dict[str, int] = {}
    found = []
    for message in messages:
        key = _NUMBER.sub("0", message.lower())
        seen[key] = seen.get(key, 0) + 1
        found.append(seen[key] <= most)
    return found
