"""How far a message can be read in its change: pure functions over text, for training data and for offers.

Many public messages state things that no change holds; a model trained on them learns to invent. The
functions here say which content words of a message stand in a text, which numbers do not, and whether its
first verb promises what the change cannot have done. `text` is any text of the change: a compact change
(`diff.compact`), a prompt, or the paths and lines themselves.
"""

import re
from collections import Counter
from collections.abc import Iterable

from gitpeft.lazy import lazy_dataclass, lazy_pattern

BESIDE_WEIGHT = 0.6
"""What a word counts that stands only beside the change, in an earlier subject."""

WORD_PART = lazy_pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""Words and numbers, and the parts of names: `readHTTPDate2` has four parts."""

_WHOLE_WORD = lazy_pattern(r"\w+")
_NUMBER = lazy_pattern(r"\d+")
_PREFIX = lazy_pattern(r"(?:\[[\w ./,-]{1,30}\]\s*|[\w./,-]{1,24}(?:\([^)]{1,40}\))?!?:\s+)")

_ENDINGS_TEXT = "ations ation ings ing ments ment ied ies ers ed es er ly s"
_STOP_WORDS_TEXT = """
a an the and or of to in on at by for from with without into as is are be was were been it its this
that these those not no when if then than so we i you they our all any some more most other also
just only now still too very will would can could should may might do does did done have has had
there here which who what where how why via per vs instead because due since after before while
during about up out off over under again s t re
"""
_VERB_STEMS_TEXT = """
add fix remove updat us mak chang renam mov refactor improv bump allow support handl ensur avoid
prevent simplify clean cleanup replac introduc implement drop delet correct set enabl disabl prepar
test doc docs feat chor ci build styl perf misc minor switch extract extend convert creat put let
keep need try show check us work run bug issu cod error typo new better unnecessary unus miss small
littl bit tweak adjust rework rewrit reorganis reorganiz cosmetic format lint style polish wip
initial first last next properly correctly possible ability able provid
"""
_ENDINGS = tuple(_ENDINGS_TEXT.split())
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
VERB_STEMS = frozenset(_VERB_STEMS_TEXT.split())
"""Stems of words that say what is done rather than to what; `contradicts_change` tests them."""

ADDING_STEMS = frozenset(["add", "introduc", "implement", "creat", "feat"])
REMOVING_STEMS = frozenset(["remov", "remove", "delet", "drop"])
_MOVING = frozenset(["renam", "mov"])


@lazy_dataclass(frozen=True, slots=True)
class ChangeSize:
    """How many lines a change adds and removes, and whether it deletes or renames a file."""

    added: int
    removed: int
    deletes: bool
    renames: bool


class GroundingText:
    """A text prepared once for many messages: the stems of its words, and its numbers."""

    def __init__(self, text: str) -> None:
        self.stems = extract_stems(text)
        self.numbers = set(_NUMBER.findall(text))
        self._joined = "".join(sorted(self.stems))

    def contains_stem(self, stem: str) -> bool:
        """Whether a stem stands in the text, a longer one also inside of a word."""
        return stem in self.stems or (len(stem) >= 4 and stem in self._joined)


def measure_grounding(message: str, text: "str | GroundingText", beside: str) -> float | None:
    """The share, 0 to 1, of a message's content words that can be read; None where it has none.

    A word that stands in the text counts whole, one that stands only beside it (earlier subjects) counts
    `BESIDE_WEIGHT`.
    """
    words = extract_content_stems(message)
    if not words:
        return None
    known, near = _prepare(text), extract_stems(beside)
    return sum(1.0 if known.contains_stem(w) else BESIDE_WEIGHT if w in near else 0.0 for w in words) / len(
        words
    )


def list_invented_numbers(message: str, text: "str | GroundingText") -> list[str]:
    """The runs of digits in a message that the text does not have, in order."""
    known = _prepare(text).numbers
    return [number for number in _NUMBER.findall(message) if number not in known]


def contradicts_change(message: str, size: ChangeSize) -> bool:
    """Whether the first verb promises what the change cannot have done.

    "Add" needs added lines, and not nine times as many removed ones; "remove" needs removed lines or a
    deleted file; "rename" and "move" need removed lines or a renamed file.
    """
    verb = stem_first_word(_strip_prefix(message))
    if verb in ADDING_STEMS:
        return not size.added or size.removed > 8 * size.added + 8
    if verb in REMOVING_STEMS:
        return not size.removed and not size.deletes
    return verb in _MOVING and not size.removed and not size.renames


def extract_content_stems(message: str) -> list[str]:
    """The stems of the words that say what a change is about; a prefix (`docs:`) is none of them."""
    words = WORD_PART.findall(_strip_prefix(message))
    stems = (stem_word(word) for word in words if word.lower() not in STOP_WORDS and len(word) > 1)
    return [stem for stem in stems if stem not in VERB_STEMS]


def extract_stems(text: str) -> set[str]:
    """The stems of all words, parts of identifiers each for itself and joined."""
    return set(map(stem_word, {*WORD_PART.findall(text), *_WHOLE_WORD.findall(text)}))


def count_stems(text: str) -> Counter[str]:
    """How often each of the stems of `extract_stems` stands in a text."""
    counts = Counter[str]()
    for pattern in (WORD_PART, _WHOLE_WORD):
        for word, n in Counter(pattern.findall(text)).items():
            if pattern is WORD_PART or not WORD_PART.fullmatch(word):
                counts[stem_word(word)] += n
    return counts


def stem_first_word(text: str) -> str:
    """The stem of the first word, "" where there is none."""
    match = re.search(r"[A-Za-z]+", text)
    return stem_word(match[0]) if match else ""


def stem_word(word: str) -> str:
    """A word in lower case without its commonest endings."""
    word = word.lower()
    ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) - len(end) >= 3), "")
    word = word[: -len(ending)] if ending else word
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word[:-1] if word[-1:] == "e" and len(word) > 3 else word


def mark_distinct(messages: Iterable[str], most: int) -> list[bool]:
    """For each message whether it is among the first `most` of its kind; digits and case do not count."""
    seen: dict[str, int] = {}
    found = []
    for message in messages:
        key = _NUMBER.sub("0", message.lower())
        seen[key] = seen.get(key, 0) + 1
        found.append(seen[key] <= most)
    return found


def _strip_prefix(message: str) -> str:
    return message[match.end() :] if (match := _PREFIX.match(message)) else message


def _prepare(text: "str | GroundingText") -> GroundingText:
    return GroundingText(text) if isinstance(text, str) else text
