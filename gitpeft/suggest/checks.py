"""Hard checks: why a message must not be offered for a change, for candidates of every origin.

A version, number, file or identifier in a message stands in the change (or on the branch, or in the team's
fixed wording); its verb is something that the change did; and a message copied from an earlier commit has no
words that are special to that commit.
"""

import re
from collections.abc import Sequence

from gitpeft.diff.grounding import (
    WORD_PART,
    contradicts_change,
    extract_content_stems,
    stem_first_word,
    stem_word,
)
from gitpeft.lazy import lazy_pattern
from gitpeft.suggest.change_view import ChangeView
from gitpeft.suggest.side_checks import PRODUCT, find_wrong_side
from gitpeft.suggest.team_wording import TeamWording, split_prefix

FIXED_WORDING = 3
"""A word that stands in so many of the team's subjects belongs to its wording."""

_NUMBER = lazy_pattern(r"\d+")
_VERSION = lazy_pattern(r"\d+(?:\.\d+)+")
_NUMBERED_TOKEN = lazy_pattern(r"\S*\d\S*")
_VERSION_UPDATE = lazy_pattern(
    r"(?:bump|updat|upgrad)\w*\s+(?P<whose>.+?)\s+(?:from\s+\S+\s+)?to\s+(?:version\s+)?v?(?P<new>\d+(?:\.\d+)+)",
    re.IGNORECASE,
)
_BESIDE_OWNER = frozenset(
    (
        *("the", "dependency", "package", "module", "library", "crate", "rust"),
        *("version", "minimum", "min", "supported", "required"),
    )
)
"""Words beside the name of what is updated."""

_NO_OWNER = frozenset(
    (
        *("number", "numbers", "string", "strings", "target", "release"),
        *("tag", "alias", "branch", "project", "msrv"),
    )
)
"""Words that name no dependency: `bump target version to 2.1`."""

_CODE_NAME = lazy_pattern(
    r"`[^`]+`|(?<![\w-])--?[a-z][\w-]+|\b[\w.-]*/[\w./-]*\w|\b\w+\.(?!\d)\w[\w.]*\w|\b[A-Za-z]*(?:[a-z][A-Z]|_\w|\w_)\w*"
)
_DIFFSTAT = lazy_pattern(r"\+\d+ -\d+|\|\s*\d+ [+-]+|^\d+ files? changed|\d+ insertions?\(")
_FACT_LINE = lazy_pattern(
    r"^(?:only (?:docs|tests|CI|build|formatting|comments|imports|added lines|removed lines|renames)\b"
    r"|changes inside\b|(?:adds|removes|deletes|renames|redefines) (?:file|function|class|constant|test)\b"
    r"|notes: |Facts:|Similar commits|Previous commit:|file \S+ [+-]\d)"
)
_PATH_ONLY = lazy_pattern(r"\S*[\w-]/?[\w-]*\.[a-z]{1,5}\W*|\S+/\S+", re.IGNORECASE)
REPEATED_WORDS = lazy_pattern(
    r"\b([^\W\d]\w*(?:\W+\w+){0,3})\W+\1\b"
    r"|(?<!\S)[`'\"(]*([^\s`'\"]{2,}?)\W* "
    r"(?:to|into|with|by|from|for|in|and|or|instead of|[-=]>) \W*\2(?!\w)",
    re.IGNORECASE,
)
"""Up to four words that stand twice in a row, but for the numbers of a version, or a thing set beside itself
(`rename X to X`)."""

_WORD = lazy_pattern(r"[A-Za-z]+")
_NAME = lazy_pattern(r"[\w./-]*[A-Za-z][\w./-]*")
_MAX_REPEATS = 3


def find_ungrounded(
    message: str, copied: bool, view: ChangeView, wording: TeamWording, branch: str = ""
) -> str:
    """Why a message must not be offered for a change; "" if it may.

    `copied` is whether it is an earlier commit's, filled in or as it is, `branch` the current branch.
    """
    return (
        _find_wrong_shape(message)
        or _find_wrong_verb(message, view)
        or find_wrong_side(message, view, branch)
        or _find_invented_number(message, view, wording, branch)
        or _find_wrong_owner(message, view)
        or _find_invented_name(message, view, wording, branch)
        or (_find_foreign_words(message, view, wording) if copied else "")
    )


def _find_wrong_shape(message: str) -> str:
    rest = split_prefix(message)[1]
    if _PATH_ONLY.fullmatch(rest) and not _NUMBER.match(rest.lstrip("v")):
        return "a bare path"
    if _DIFFSTAT.search(message):
        return "a row of a diffstat"
    if _FACT_LINE.match(message):
        return "a line of the prompt"
    words = _WORD.findall(message.lower())
    if REPEATED_WORDS.search(message) or any(words.count(word) > _MAX_REPEATS for word in set(words)):
        return "repeats itself"
    return ""


# --- verbs ------------------------------------------------------------------------------------------------


def _find_wrong_verb(message: str, view: ChangeView) -> str:
    if contradicts_change(message, view.size):
        return "the verb is not what the change does"
    rest = split_prefix(message)[1]
    verb = stem_first_word(rest)
    if verb in ("bump", "upgrad", "downgrad") and not view.grounding.numbers:
        return "no version changes"
    if verb == "renam" and not _can_be_rename(rest, view):
        return "nothing is renamed"
    if "typo" in _WORD.findall(rest.lower())[:3] and not (view.size.removed and view.size.added):
        return "no word is corrected"
    return ""


def measure_verb_fit(message: str, view: ChangeView) -> float:
    """1 where the first verb is what the change mostly does, -1 where it hardly is, else 0."""
    verb, size = stem_first_word(split_prefix(message)[1]), view.size
    if verb in ("add", "introduc", "implement", "creat", "support", "allow"):
        return 1.0 if size.added > 2 * size.removed else -1.0 if size.removed > size.added else 0.0
    if verb in ("remov", "delet", "drop"):
        return (
            1.0
            if size.removed > 2 * size.added or size.deletes
            else -1.0
            if size.added > size.removed
            else 0.0
        )
    if verb in ("renam", "mov"):
        return 1.0 if size.renames or view.definitions["renamed"] else -1.0
    if verb in ("bump", "upgrad", "releas"):
        return 1.0 if view.versions else -1.0
    return 0.0


def _can_be_rename(rest: str, view: ChangeView) -> bool:
    """Whether a file, a definition, or a name somewhere in a line has another name now.

    Where the message says what became what, the checks of names see to the rest.
    """
    if view.size.renames or view.definitions["renamed"]:
        return True
    if " to " in rest:
        return bool(view.size.added and view.size.removed)
    return any(_NAME.fullmatch(old) and _NAME.fullmatch(new) for old, new in view.replacements)


# --- numbers and names --------------------------------------------------------------------------------------


def _find_invented_number(message: str, view: ChangeView, wording: TeamWording, branch: str) -> str:
    headings = {version.removeprefix("v") for version in view.heading_versions}
    for match in _NUMBERED_TOKEN.finditer(message):
        token = match[0].strip(".,:;()[]`'\"")
        if token.removeprefix("v") in headings:
            continue
        dotted = [
            version for version in _VERSION.findall(token) if not _has_version(version, view.changed_text)
        ]
        missing = dotted or [
            number for number in _NUMBER.findall(token) if number not in view.grounding.numbers
        ]
        is_fixed = not dotted and wording.token_counts[token] >= FIXED_WORDING
        if missing and token not in branch and not is_fixed:
            return "a number that the change does not have"
    return ""


def _find_wrong_owner(message: str, view: ChangeView) -> str:
    """`Update X to 3.2.0` needs X where the change sets 3.2.0, if that line names something at all.

    What names the path may do, but a file is not what a line in it sets.

    Of readers' marks for such messages it refuses none of 51 that were right as they stood and 9 of 21 that
    were wrong, of 20,587 that teams wrote 0.3 %.
    """
    match = _VERSION_UPDATE.match(split_prefix(message)[1])
    if match is None:
        return ""
    names = [word for word in match["whose"].split() if word.lower() not in _BESIDE_OWNER]
    owners = [one.name for one in view.versions if _has_version(match["new"], one.new)]
    if len(names) != 1 or not all(owners) or not owners:
        return ""
    lines = [pair for pair in view.pairs if pair[2] and _has_version(match["new"], pair[2])]
    text = " ".join(f"{old} {new}" for _, old, new in lines).lower()
    paths = [path.lower() for path, _, _ in lines]
    if _is_file(name := names[0].strip("`'\"").lower(), paths):
        return "" if name in text else "the version of something else"
    parts = [part.lower() for part in WORD_PART.findall(names[0]) if part.isalpha()]
    text = " ".join([text, *paths])
    known = {word for word in _WORD.findall(text) if len(word) > 1}
    if not parts or any(part in _NO_OWNER or part in text or part.startswith(tuple(known)) for part in parts):
        return ""
    return "the version of something else"


def _is_file(name: str, paths: Sequence[str]) -> bool:
    """Whether a name is one of these paths, or the name of its file with a suffix."""
    return name in paths or ("." in name and any(path.rpartition("/")[2] == name for path in paths))


def _has_version(version: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9])v?{re.escape(version)}(?![a-z0-9])", text, re.IGNORECASE) is not None


def _find_invented_name(message: str, view: ChangeView, wording: TeamWording, branch: str) -> str:
    changed, everything = view.changed_text.lower(), view.text.lower()
    rest = split_prefix(message)[1]
    for match in _CODE_NAME.finditer(rest):
        name = match[0].strip("`").removesuffix("()").lower()
        if not name or _stands_in(name, changed) or name in branch.lower() or PRODUCT.fullmatch(match[0]):
            continue
        if (
            wording.token_counts[match[0]] >= FIXED_WORDING
            or wording.token_counts[match[0].strip("`")] >= FIXED_WORDING
        ):
            continue
        is_called = rest[match.end() :].startswith("(") or match[0].endswith("()`")
        if not is_called and _all_parts_known(name, view):
            continue
        return (
            "a name from the surroundings only"
            if _stands_in(name, everything)
            else "a name the change does not have"
        )
    return ""


def _stands_in(name: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", text) is not None


def _all_parts_known(name: str, view: ChangeView) -> bool:
    """Whether a name is put together from words that all stand in the change, as `request.json` may be."""
    parts = [part for part in re.split(r"[^a-z0-9]+", name) if len(part) > 1]
    return len(parts) > 1 and all(view.grounding.contains_stem(stem_word(part)) for part in parts)


# --- copies -------------------------------------------------------------------------------------------------


def _find_foreign_words(message: str, view: ChangeView, wording: TeamWording) -> str:
    """A copied message may have words of the change and of the team's wording, and no others."""
    foreign = list_foreign_stems(message, view, wording)
    return "words of another commit" if foreign else ""


def list_foreign_stems(message: str, view: ChangeView, wording: TeamWording) -> list[str]:
    """The stems of content words that stand neither in the change nor in the team's fixed wording."""
    return [
        stem
        for stem in extract_content_stems(message)
        if not view.grounding.contains_stem(stem) and wording.stem_counts[stem] < FIXED_WORDING
    ]
