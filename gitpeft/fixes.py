"""Which commits are fixes, by what their messages say."""

import re

_FIX = re.compile(
    r"\b(?:fix(?:e[sd]|ing)?|bugs?|bugfix|hotfix|defects?|regressions?|revert(?:s|ed)?|crash(?:e[sd])?)\b",
    re.I,
)


def is_fix(message: str) -> str | None:
    """Why a commit with this message is a fix; None when it is none."""
    found = _FIX.search(message)
    return found[0].lower() if found else None
