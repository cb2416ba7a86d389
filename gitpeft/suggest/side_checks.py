"""Checks of which side of a change a message's words stand on.

A small model takes its words from all that it is shown: from unchanged lines, from headings, from the old
version. What a message says is added has to be new, what it says is removed has to be gone, and so on.
"""

import difflib
import re

from gitpeft.diff.grounding import (
    ADDING_STEMS,
    REMOVING_STEMS,
    extract_content_stems,
    stem_first_word,
)
from gitpeft.lazy import lazy_pattern
from gitpeft.suggest.change_view import DATE, ChangeView
from gitpeft.suggest.team_wording import split_prefix

_OBJECT_END = lazy_pattern(
    r"\s(?:to|in|into|for|from|of|on|onto|at|by|with|without|when|if|so|as|that|instead|using|via)\b"
    r"|[;:(]"
)
"""Where the object of a verb ends, roughly."""

_SUPPORT = lazy_pattern(r"^(?:\w+ )?support (?:for|of) ", re.IGNORECASE)
_CODE_NAME = lazy_pattern(r"\b(?:[A-Za-z]*[a-z][A-Z]\w*|\w*[A-Za-z]_\w+)")
_WRONG_OBJECT = {1: "what it adds is not new", -1: "what it removes is not gone"}
_STAGE = r"[.-]?(?:dev|SNAPSHOT|alpha|beta|rc|pre|next)"
_VERSION = lazy_pattern(rf"\d+(?:\.\d+)+(?:{_STAGE}[.-]?\d*)?")
_BEFORE_OLD_VERSION = lazy_pattern(
    r"\b(?:from|drop\w*|remov\w*|support\w*|delet\w*|revert\w*|instead of)\b", re.IGNORECASE
)
_BEFORE_RELEASE = lazy_pattern(r"(?<![\w.])v?(\d+(?:\.\d+)+)(?=[.-]?(?:dev|SNAPSHOT))")
_RELEASE = lazy_pattern(r"(?:releas\w*|bump\w*|version|prepar\w*|tag\w*)\b", re.IGNORECASE)
_ISSUE = lazy_pattern(r"#(\d+)")
PRODUCT = lazy_pattern(r"(?:Node|Deno|Vue|Next|Nuxt|Nest|Express|React|Three|Chart|Ember|Alpine)\.js")
"""What reads like a file and is none."""

_FILE_NAME = lazy_pattern(
    r"(?<![\w./-])[\w-]+(?:\.[\w-]+)*\.(?:md|rst|txt|py|js|ts|tsx|go|rs|rb|java|php|json|toml|ya?ml|cfg|ini|html|css|sh)"
    r"(?![\w/-])"
)
_DOCUMENT_UPDATE = lazy_pattern(
    r"\b(?:updat|fix|edit|improv|chang)\w*(?: the)? (readme|changelog)\b", re.IGNORECASE
)
_SPELLING = lazy_pattern(r"\b(?:typos?|misspell\w*|spelling)\b", re.IGNORECASE)
_SPELLING_RATIO, _LONGEST_INSERTION = 0.6, 12
"""How alike two texts are that differ by a typo, and how many characters a missing word has at most."""


def find_wrong_side(message: str, view: ChangeView, branch: str) -> str:
    """Why a message is not what a change does; "" if it may be."""
    return (
        _find_wrong_object(message, view)
        or _find_wrong_version(message, view)
        or _find_wrong_issue(message, view, branch)
        or _find_wrong_file(message, view)
        or _find_missing_typo(message, view)
    )


def _find_wrong_object(message: str, view: ChangeView) -> str:
    """Of `add X` where X was there before, and of `remove X` where it stays."""
    verb, _, words = split_prefix(message)[1].partition(" ")
    stem = stem_first_word(verb)
    sign = (stem in ADDING_STEMS) - (stem in REMOVING_STEMS)
    if not sign or (sign < 0 and view.balance[stem] > 0):  # new code may remove something when it runs
        return ""
    named = _OBJECT_END.split(_SUPPORT.sub("", words))[0]
    return "" if _may_be_object(named, sign, view) else _WRONG_OBJECT[sign]


def _may_be_object(named: str, sign: int, view: ChangeView) -> bool:
    """Whether something may be new (sign 1) or gone (-1): a part of it is, or nothing of it is there."""
    if names := [name for name in _CODE_NAME.findall(named) if _stands_in(name, view.changed_text)]:
        gone, new = view.sides
        return any(
            sign * (_count_occurrences(name, new) - _count_occurrences(name, gone)) > 0 for name in names
        )
    stems = [stem for stem in extract_content_stems(named) if view.grounding.contains_stem(stem)]
    if not stems or any(view.balance[stem] * sign > 0 for stem in stems):
        return True
    if sign < 0 and any(stem in view.path_stems for stem in stems):
        return True
    return any(_moves_inside_a_name(stem, sign, view) for stem in stems)


def _moves_inside_a_name(stem: str, sign: int, view: ChangeView) -> bool:
    """Whether a stem is part of a longer one that is new (or gone), as `cookie` is of `setcookies`."""
    return len(stem) >= 4 and any(stem in other and n * sign > 0 for other, n in view.balance.items())


def _find_wrong_version(message: str, view: ChangeView) -> str:
    """A version of the old side alone; for a release also one that is replaced or on its way, or a date."""
    gone, new = view.sides
    prefix, words = split_prefix(message)
    is_release = bool(_RELEASE.match(words) or _RELEASE.search(prefix))
    if is_release and DATE.search(words) and any(not DATE.search(one.new) for one in view.versions):
        return "a date for a version"
    replaced = _list_replaced_versions(view) if is_release else set()
    for match in _VERSION.finditer(message):
        before, after = _count_version(match[0], gone), _count_version(match[0], new)
        is_old = match[0] in replaced or (before > 0 and (after == 0 or (is_release and after <= before)))
        if is_release and match[0] in _BEFORE_RELEASE.findall(new):
            return "a version that is not released yet"
        if is_old and not _BEFORE_OLD_VERSION.search(message[: match.start()]):
            return "the old version"
    return ""


def _list_replaced_versions(view: ChangeView) -> set[str]:
    """Versions that lines change to another, none to them; the notes of a release name the last one too."""
    changes = view.versions
    return {one.old.lstrip("v") for one in changes} - {one.new.lstrip("v") for one in changes}


def _find_wrong_issue(message: str, view: ChangeView, branch: str) -> str:
    """An issue's number has to be new in the change, or on the branch."""
    gone, new = view.sides
    for number in _ISSUE.findall(message):
        if number in re.findall(r"\d+", branch):
            continue
        if not _stands_in(number, new) or _stands_in(number, gone):
            return "an issue that the change is not about"
    return ""


def _find_wrong_file(message: str, view: ChangeView) -> str:
    rest, names = split_prefix(message)[1], view.changed_text.lower()
    for match in _FILE_NAME.finditer(rest):
        if not PRODUCT.fullmatch(match[0]) and not re.search(
            rf"(?<![\w-]){re.escape(match[0].lower())}(?![\w-])", names
        ):
            return "a file that is not changed"
    document = _DOCUMENT_UPDATE.search(rest)
    if document and not any(document[1].lower() in one.path.lower() for one in view.files):
        return "a file that is not changed"
    return ""


def _find_missing_typo(message: str, view: ChangeView) -> str:
    if not _SPELLING.search(message) or len(view.pairs) >= 100:
        return ""
    return "" if any(_is_small_edit(old, new) for old, new in view.replacements) else "no word is corrected"


def _is_small_edit(old: str, new: str) -> bool:
    if not old or not new:
        return len(old or new) <= _LONGEST_INSERTION
    return difflib.SequenceMatcher(None, old.lower(), new.lower(), autojunk=False).ratio() >= _SPELLING_RATIO


def measure_edited_share(message: str, view: ChangeView) -> float:
    """The share of a message's content words that are new or gone in the change; 0.5 where it has none."""
    stems = extract_content_stems(message)
    if not stems:
        return 0.5
    return sum(view.balance[stem] != 0 for stem in stems) / len(stems)


def is_vague(message: str, view: ChangeView) -> bool:
    """Whether a message only says that a file was changed."""
    verb, _, words = split_prefix(message)[1].partition(" ")
    if stem_first_word(verb) not in ("updat", "fix", "chang", "edit", "improv", "clean"):
        return False
    name = re.sub(r"^(?:up )?(?:the )?|[.;]$", "", words).strip("`").lower()
    names = {one.path.rpartition("/")[2].lower() for one in view.files}
    return name in names | {other.partition(".")[0] for other in names} | {"docs", "tests", "test"}


def _stands_in(text: str, where: str) -> bool:
    return _count_occurrences(text, where) > 0


def _count_occurrences(text: str, where: str) -> int:
    return len(re.findall(rf"(?<![a-zA-Z0-9.])v?{re.escape(text)}(?![a-zA-Z0-9])", where))


def _count_version(version: str, where: str) -> int:
    """How often a version stands somewhere; 2.1.0 does not stand in 2.1.0.dev0, nor in 2.1.0.1."""
    end = rf"(?![a-zA-Z0-9]|[.-]\d|{_STAGE})"
    return len(re.findall(rf"(?<![a-zA-Z0-9.])v?{re.escape(version)}{end}", where))
