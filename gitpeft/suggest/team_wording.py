"""How a team words its messages, as far as candidates and checks need it: counted from its subjects."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from gitpeft.diff.grounding import WORD_PART, stem_word
from gitpeft.lazy import lazy_pattern

_PREFIX = lazy_pattern(r"(?:\[[\w ./,-]{1,30}\]:?|[\w./,-]{1,24}(?:\([^)]{1,40}\))?!?:)\s+")
_OPENING = lazy_pattern(r"\[[\w ./,-]{1,30}\]:?(?=\s)|[\w./,-]{1,24}(?:\((?=[^)]{1,40}\)!?: )|!?:(?= ))")
"""What comes first in a subject with a prefix: `feat(`, `fix:` or `[docs]`."""

_COUNTED = lazy_pattern(r"(?<![A-Za-z\d])\d|\d{3,}")
"""A number as a ticket or a version has it, and no part of a name (`http2:`)."""

_FIRST_WORD = lazy_pattern(r"[A-Za-z]+")
MAX_SUBJECTS = 500
"""Newest subjects from which a team's wording is learnt."""

_NEWEST = 200
_USUAL_SHARE = 0.5

NEWEST_OPENINGS, _STRICT_SHARE, _KNOWN_OPENING = 50, 0.9, 2
"""A team opens its subjects strictly if of so many newest ones this share begin as others of the newest
`_NEWEST` do, each such opening at least so often."""

_MAX_PREFIXES = 60

_LIFT_SMOOTHING = 1.0
"""Commits that are added to those seen and to those expected, so that few commits say little."""

_IRREGULAR = {"set": ("set", "sets"), "run": ("ran", "runs"), "make": ("made", "makes")}


class ExpectedPrefix(NamedTuple):
    """A prefix of a strict team: in how many of its newest subjects it stands, and its lift for a change.

    The lift is how many times as frequent the prefix's opening is where files of the same kinds change; 0
    where the prefix must not be chosen for a message: it tells of a breaking change or has a number.
    """

    text: str
    frequency: int
    lift: float = 1.0


class TeamWording:
    """The wording of the newest subjects, oldest first.

    `kinds` tell what the files of each commit are for (`commit_notes.join_kinds`), "" where that is unknown.
    """

    def __init__(self, subjects: Sequence[str], kinds: Sequence[str] = ()) -> None:
        self.subjects = subjects[-MAX_SUBJECTS:]
        self._kinds = kinds[-MAX_SUBJECTS:]

    @cached_property
    def stem_counts(self) -> Counter[str]:
        """In how many subjects each stem stands; two words of one stem count twice."""
        words: Counter[str] = Counter()
        for subject in self.subjects:
            words.update(set(WORD_PART.findall(subject)))
        counts: Counter[str] = Counter()
        for word, n in words.items():
            counts[stem_word(word)] += n
        return counts

    @cached_property
    def token_counts(self) -> Counter[str]:
        """In how many subjects each token, between spaces and without punctuation around it, stands."""
        counts: Counter[str] = Counter()
        for subject in self.subjects:
            counts.update({token.strip(".,:;()[]`'\"") for token in subject.split()})
        return counts

    @cached_property
    def prefixes(self) -> Counter[str]:
        """The prefixes (`docs: `) of the newest subjects."""
        return Counter(split_prefix(subject)[0] for subject in self.subjects[-_NEWEST:])

    @cached_property
    def has_prefixes(self) -> bool:
        """Whether at least half of the newest subjects have a prefix."""
        return self._is_usual(bool(split_prefix(subject)[0]) for subject in self.subjects[-_NEWEST:])

    @cached_property
    def openings(self) -> tuple[str, ...]:
        """How all subjects of a strict team begin, the most frequent first: `feat(`, `fix:`; () of another.

        Strict is who begins nearly all of the newest subjects with one of a few prefixes.
        """
        found = [find_opening(subject) for subject in self.subjects[-_NEWEST:]]
        counts = Counter(opening for opening in found if opening)
        known = {opening for opening, n in counts.items() if n >= _KNOWN_OPENING}
        newest = found[-NEWEST_OPENINGS:]
        if len(newest) < NEWEST_OPENINGS or sum(one in known for one in newest) < _STRICT_SHARE * len(newest):
            return ()
        return tuple(opening for opening, _ in counts.most_common() if opening in known)

    @cached_property
    def strict_prefixes(self) -> tuple[str, ...]:
        """Prefixes of a strict team's newest subjects, first the most frequent one of each opening; () of
        another team."""
        counts: Counter[str] = Counter()
        found = []
        for prefix, _ in self.prefixes.most_common():
            if (opening := find_opening(prefix)) in self.openings:
                found.append((counts[opening], prefix))
                counts[opening] += 1
        return tuple(prefix for _, prefix in sorted(found, key=itemgetter(0))[:_MAX_PREFIXES])

    def expect_prefixes(self, kinds: str) -> list[ExpectedPrefix]:
        """The `strict_prefixes`, and how well each fits a change of files of these kinds; [] of another team.

        A model knows what `docs:` means, but not what this team calls a change of its workflows or tests.
        """
        lifts = self._compute_lifts(kinds) if self.strict_prefixes else {}
        found = []
        for prefix in self.strict_prefixes:
            special = "!" in prefix or _COUNTED.search(prefix)
            lift = 0.0 if special else lifts.get(find_opening(prefix), 1.0)
            found.append(ExpectedPrefix(prefix, self.prefixes[prefix], lift))
        return found

    def _compute_lifts(self, kinds: str) -> dict[str, float]:
        """The lift of each opening: how many commits with it changed files of these kinds, divided by how
        many would if openings and kinds were independent; both plus `_LIFT_SMOOTHING`.
        """
        known = [
            (find_opening(subject), one)
            for subject, one in zip(self.subjects, self._kinds, strict=bool(self._kinds))
            if one
        ]
        openings = Counter(opening for opening, _ in known)
        same = Counter(opening for opening, one in known if one == kinds)
        share = same.total() / max(1, len(known))
        return {
            opening: (same[opening] + _LIFT_SMOOTHING) / (count * share + _LIFT_SMOOTHING)
            for opening, count in openings.items()
        }

    @cached_property
    def is_lower(self) -> bool:
        """Whether at least half of the newest subjects begin, behind any prefix, in lower case."""
        return self._is_usual(split_prefix(subject)[1][:1].islower() for subject in self.subjects[-_NEWEST:])

    @cached_property
    def has_full_stop(self) -> bool:
        """Whether at least half of the newest subjects end with a full stop."""
        return self._is_usual(subject.endswith(".") for subject in self.subjects[-_NEWEST:])

    @cached_property
    def verb_form(self) -> int:
        """How verbs begin subjects: 0 "add", 1 "added", 2 "adds"."""
        counts: Counter[int] = Counter()
        for subject in self.subjects[-_NEWEST:]:
            match = _FIRST_WORD.match(split_prefix(subject)[1])
            word = match[0].lower() if match else ""
            if re.fullmatch(r"(?:add|fix|remov|updat|chang|mov|renam|us|improv|bump)(?:e?d)", word):
                counts[1] += 1
            elif re.fullmatch(r"(?:add|remove|update|change|move|rename|use|improve|bump)s|fixes", word):
                counts[2] += 1
            elif re.fullmatch(r"add|fix|remove|update|change|move|rename|use|improve|bump", word):
                counts[0] += 1
        return counts.most_common(1)[0][0] if counts else 0

    def count_matches(self, pattern: str) -> int:
        """How many of the subjects match a pattern, case aside."""
        search = re.compile(pattern, re.IGNORECASE).search
        return sum(1 for subject in self.subjects if search(subject))

    def choose(self, *words: str) -> str:
        """Of several ways to say something the one that stands in most subjects, the first one of equals."""
        return max(words, key=lambda word: self.count_matches(rf"\b{re.escape(word)}\b"))

    def phrase(self, text: str, prefix: str = "") -> str:
        """A text that begins with a verb in its base form, as this team would write it."""
        verb, space, rest = text.partition(" ")
        verb = _conjugate(verb, self.verb_form)
        verb = verb[:1].lower() + verb[1:] if self.is_lower else verb[:1].upper() + verb[1:]
        return prefix + verb + space + rest + ("." if self.has_full_stop else "")

    def find_strict_prefix(self, subject: str) -> str:
        """The prefix of a subject that begins as all of a strict team's do; "" for another or a number."""
        prefix = split_prefix(subject)[0]
        return prefix if find_opening(subject) in self.openings and not _COUNTED.search(prefix) else ""

    def replace_prefix(self, subject: str, prefix: str) -> str:
        """A subject with this prefix in place of its own, if that is one of a strict team's.

        Its own stays if it tells of a breaking change, and if it is a new one of the same type: its scope may
        be what the change is about.
        """
        own = self.find_strict_prefix(subject)
        if not own or "!" in own or (own not in self.prefixes and find_type(own) == find_type(prefix)):
            return subject
        return prefix + subject.removeprefix(own)

    def add_prefix(self, subject: str, prefix: str) -> str:
        """A subject without a prefix as this team would write it behind one."""
        return prefix + (self.fit_case(subject) if self.is_lower else subject)

    def fit_case(self, text: str) -> str:
        """A text with its first letter in the team's usual case, unless it begins with a name or acronym."""
        first = text.split(maxsplit=1)[0] if text.strip() else ""
        if first.isalpha() and (first[1:].islower() or len(first) == 1):
            return (text[0].lower() if self.is_lower else text[0].upper()) + text[1:]
        return text

    def _is_usual(self, found: Iterable[bool]) -> bool:
        flags = list(found)
        return bool(flags) and sum(flags) >= _USUAL_SHARE * len(flags)


def split_prefix(subject: str) -> tuple[str, str]:
    """A subject's prefix with the space behind it, "" for none, and the rest."""
    match = _PREFIX.match(subject)
    return (match[0], subject[match.end() :]) if match else ("", subject)


def find_opening(subject: str) -> str:
    """The beginning of a subject's prefix, `feat(` or `fix:`; "" for none.

    Nor is it one with a number, such as a ticket's, which says nothing of the next commit.
    """
    match = _OPENING.match(subject)
    return match[0] if match and not _COUNTED.search(match[0]) else ""


def find_type(subject: str) -> str:
    """The opening of a subject without what follows its type: `feat` of `feat(api): ` and `feat!: `."""
    return find_opening(subject).rstrip("(:!")


def _conjugate(verb: str, form: int) -> str:
    if not form:
        return verb
    if irregular := _IRREGULAR.get(verb.lower()):
        return irregular[form - 1]
    if form == 2:
        return verb + ("es" if verb.endswith(("x", "s", "sh", "ch")) else "s")
    return verb + ("d" if verb.endswith("e") else "ed")
