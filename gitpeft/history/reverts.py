"""Reverts by their messages: what a message says it takes back, in the forms of git, of hosts and of people.

    Revert "X" (#22)            git, GitHub, GitLab        This reverts commit <id>[, <id> and <id>].
    Revert <id>, <id>           by hand                    Reverts owner/repo#21, reverts merge request !21
    Backed out changeset <id>   Mercurial's habit          Rollback of <id>, Undo "X"
    Reland "X", Reapply "X"     the revert of a revert

Who it was is a matter of the history, in `learn.szz.reverts`.
"""

import re
from dataclasses import dataclass

_ID = r"(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b"
_IDS = rf"{_ID}(?:(?:,? and |,? & |, ?|\.\.\.?|\s+){_ID})*"
_PART = r"(?:(?:partial(?:ly)?|partly|automated) )?"
_TAKE_BACK = r"(?:revert(?:ed|s|ing)?|back(?:ed|s|ing)?[ -]?out|roll(?:ed|s|ing)?[ -]?back|undo(?:es|ing)?)"
_PUT_BACK = (
    r"(?:re-?appl(?:y|ied|ies|ying)|re-?land(?:ed|s|ing)?|re-?instat(?:e|ed|es|ing)|un-?revert(?:ed|s|ing)?)"
)
_MARK = r"(?:\[|\()?"
_END = r"(?:\]|\))?"
_QUOTE = "\"“”‘’'`«»"

_START = re.compile(
    rf"{_MARK}{_PART}(?:revert(?:ed|s|ing)?\b{_END}[: ]|re-?apply\b{_END}[: ]|{_PUT_BACK}{_END}:? [{_QUOTE}]"
    rf"|(?:back(?:ed|ing)?[ -]?out|roll(?:ed|ing)?[ -]?back|undo(?:es|ing)?){_END}:?"
    rf" (?:of )?(?:\d+ )?(?:changesets?\b|commits?\b|[{_QUOTE}]|[#!]\d|{_ID}))"
    r"|revert\([^()\n]*\)!?: |⏪|:rewind:",
    re.I,
)
_BODY_START = re.compile(
    rf"(?:this )?(?:partially |partly )?reverts? (?:commits? )?{_ID}"
    r"|(?:this )?(?:partially |partly )?reverts? (?:(?:the )?(?:pull|merge) requests? |[PM]R ?)?"
    r"(?:[\w.-]+/[\w./-]+)?[#!]\d",
    re.I,
)
_IDS_AFTER = (
    re.compile(
        rf"\bthis (?:partially |partly )?reverts? (?:the )?(?:(?:commits?|changesets?):? )?({_IDS})", re.I
    ),
    re.compile(
        rf"^\W{{0,4}}(?:[\w()/.-]+: )?{_PART}(?:{_TAKE_BACK}|revert)\b[:\]]*"
        rf" (?:(?:\d+|of|from|the|commits?|changesets?|changes|in):? )*({_IDS})",
        re.I | re.M,
    ),
)
_REQUESTS_AFTER = re.compile(
    rf"(?:^\W{{0,4}}{_PART}|\bthis (?:partially |partly )?){_TAKE_BACK}:? (?:of )?(?:the )?"
    r"(?:(?:pull|merge) requests? |[PM]R ?)?"
    r"((?:(?:[\w.-]+/[\w./-]+)?[#!]\d+|https?://\S+/(?:pull|merge_requests|pullrequest)/\d+)"
    r"(?:(?:,? and |, ?)(?:(?:[\w.-]+/[\w./-]+)?[#!]\d+|https?://\S+/(?:pull|merge_requests)/\d+))*)",
    re.I | re.M,
)
_REVISIONS_AFTER = re.compile(
    rf"^\W{{0,4}}{_PART}{_TAKE_BACK} (?:most of |parts? of |changes? (?:in|from) |of )?(?:r|revisions? r?)"
    r"(\d{2,9}(?:(?:,? and |, ?|\s*)r?\d{2,9})*)\b",
    re.I | re.M,
)
_NUMBER = re.compile(r"(?:[#!]|/)(\d+)\b")
_BUG = re.compile(r"\(bugs? (\d+(?:, ?(?:bug )?\d+)*)\)", re.I)
_BACKED_OUT = re.compile(r"back(?:ed|ing)?[ -]?out (?:of )?(?:(\d+) )?changesets?\b", re.I)
_QUOTED = re.compile(
    rf"(?:{_MARK}{_PART}{_TAKE_BACK}{_END}:?(?: (?:of|the|changes?|commits?))* ?[{_QUOTE}](.+)[{_QUOTE}])",
    re.I,
)
_QUOTED_AGAIN = re.compile(rf"(?:{_MARK}{_PUT_BACK}{_END}:? [{_QUOTE}](.+)[{_QUOTE}])", re.I)
_PLAIN = re.compile(rf"(?:{_MARK}{_PART}revert(?:ed|s|ing)?(?:\([^()\n]*\))?!?{_END}:? (?:of )?)(.+)", re.I)
_CHAIN = re.compile(
    rf"{_MARK}((?:{_PART}(?:revert(?:ed|ing)?|back(?:ed)?[ -]?out|{_PUT_BACK}){_END}:? [{_QUOTE}]?)+)(?=\S)",
    re.I,
)
_AGAIN_WORD = re.compile(_PUT_BACK, re.I)
_CHAIN_WORD = re.compile(rf"{_PUT_BACK}|revert|back(?:ed)?[ -]?out", re.I)


@dataclass(frozen=True, slots=True)
class RevertedChange:
    """What a message says it takes back.

    `shas` are ids, full or short; `ranges` pairs of them, the first excluded, as in `a..b`; `requests` are
    numbers of pull or merge requests, `bugs` those of bugs (with `count` changesets), `revisions` those of
    Subversion; `subject` is the quoted one, or "".
    """

    shas: tuple[str, ...] = ()
    ranges: tuple[tuple[str, str], ...] = ()
    requests: tuple[str, ...] = ()
    bugs: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    count: int = 1
    subject: str = ""

    def __bool__(self) -> bool:
        named = (self.shas, self.ranges, self.requests, self.bugs, self.revisions, self.subject)
        return any(named)


def is_revert(message: str) -> bool:
    """Whether a message says by its subject, or at the start of its body, that it takes something back.

    A squashed branch may mention a revert further down, which does not count.
    """
    subject, _, body = message.lstrip("\n").partition("\n")
    return _START.match(subject.strip()) is not None or _BODY_START.match(body.lstrip()) is not None


def is_revert_of_revert(subject: str) -> bool:
    """Whether a subject restores what was reverted: `Reapply "x"`, or `Revert` an even number of times."""
    chain = _CHAIN.match(subject)
    words = _CHAIN_WORD.findall(chain[1]) if chain else []
    again = sum(_AGAIN_WORD.fullmatch(word) is not None for word in words)
    return bool(words) and (len(words) + again) % 2 == 0


def parse_revert(message: str) -> RevertedChange:
    """What a message says it takes back; nothing (false) where it is no revert, or names nothing."""
    if not is_revert(message):
        return RevertedChange()
    subject = message.lstrip("\n").partition("\n")[0].strip()
    lists = [found for pattern in _IDS_AFTER for found in pattern.findall(message)]
    ids = dict.fromkeys(sha for text in lists for sha in re.findall(_ID, text.lower()))
    ranges = dict.fromkeys(
        (pair[1], pair[2]) for text in lists for pair in re.finditer(rf"({_ID})\.\.\.?({_ID})", text.lower())
    )
    ends = {sha for pair in ranges for sha in pair}
    numbers = [number for text in _REQUESTS_AFTER.findall(message) for number in _NUMBER.findall(text)]
    backed_out, bug = _BACKED_OUT.match(subject), _BUG.search(subject)
    return RevertedChange(
        tuple(sha for sha in ids if sha not in ends),
        tuple(ranges),
        tuple(dict.fromkeys(numbers)),
        tuple(re.findall(r"\d+", bug[1])) if backed_out and bug else (),
        tuple(re.findall(r"\d+", " ".join(_REVISIONS_AFTER.findall(message)))),
        int(backed_out[1]) if backed_out and backed_out[1] and len(backed_out[1]) < 4 else 1,
        find_reverted_subject(message),
    )


def find_reverted_subject(message: str) -> str:
    """The subject of the commit that a message says it reverts; "" if it names none.

    `Reapply "x"` reverts the revert of x, whose subject is `Revert "x"`.
    """
    subject = message.lstrip("\n").partition("\n")[0].strip().removeprefix("⏪️").removeprefix("⏪").lstrip()
    subject = subject.removeprefix(":rewind:").lstrip()
    if again := _QUOTED_AGAIN.match(subject):
        return f'Revert "{again[1]}"'
    found = _QUOTED.match(subject) or _PLAIN.match(subject)
    return found[1].strip() if found else ""
