"""Cleaning of subjects: what nobody can read in a change is neither learnt nor shown to a model."""

import re

from gitpeft.lazy import lazy_pattern

_FORGE_NUMBER = lazy_pattern(r"(?:\s*\((?:#|gh-)\d+\))+\s*$", re.IGNORECASE)
_ISSUE_NUMBER = lazy_pattern(
    r"\s*(?:[(\[]\s*(?:(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see|issue|pr|gh)[:\s-]*)*(?:[\w./-]*#\d+|gh-\d+)"
    r"(?:[,\s&]+(?:and\s+)?#\d+)*\s*[)\]]"
    r"|[-,;:.]?\s+(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see)[:\s]+(?:issue\s+)?#\d+"
    r"|\s#\d+)\s*\.?$",
    re.IGNORECASE,
)


def clean_subject(subject: str) -> str:
    """A subject without the issue numbers, such as `(#12)`, that a forge appends when it merges.

    They cannot be known before the merge. Idempotent.
    """
    return _FORGE_NUMBER.sub("", " ".join(subject.split()))


def strip_issue_numbers(subject: str) -> str:
    """A clean subject without the other references to issues at its end either, such as `, fixes #12`.

    The prompt of a language model has earlier subjects in this form, and its messages are learnt in it.
    Idempotent.
    """
    subject = clean_subject(subject)
    before = ""
    while before != subject:
        before, subject = subject, _ISSUE_NUMBER.sub("", subject).rstrip()
    return subject
