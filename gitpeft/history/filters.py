"""Which commits are used as examples: the rule that training and the hook share."""

import re

from gitpeft.diff.compact import split_compact
from gitpeft.diff.patch import is_generated
from gitpeft.lazy import lazy_pattern

_BOT_IDENTITY = lazy_pattern(
    r"\[bot\]|(?:^|[\s<._+-])bots?(?:$|[\s>@._-])|dependabot|renovate|greenkeeper|github-actions|pre-commit-ci"
    r"|snyk|pyup|imgbot|allcontributors|mergify|weblate|transifex|semantic-release|codecov|copybara|crowdin"
    r"|release-please|readthedocs-assistant|jenkins|travis(?:-ci)?@|zuul|automation@|noreply@anthropic|copilot@",
    re.I,
)
_REVERT_SUBJECT = lazy_pattern(r"^(?:revert\b|reapply\b)", re.IGNORECASE)
_FIXUP_SUBJECT = lazy_pattern(r"^(?:fixup|squash|amend)! ")
_ASSISTANT_TRAILER = lazy_pattern(
    r"^(?:co-authored-by|assisted-by|generated-by):.*(?:claude|copilot|chatgpt|openai|codex|cursor|aider|gemini|devin)"
    r"|generated with \[?(?:claude|cursor|copilot|chatgpt|gemini)",
    re.IGNORECASE | re.MULTILINE,
)


def is_bot(identity: str) -> bool:
    """Whether an author (`Name <mail>`) is a bot, judged by name and address."""
    return _BOT_IDENTITY.search(identity) is not None


def find_exclusion_reason(subject: str, body: str, change: str) -> str:
    """Why a commit is not used as an example, "" when it is used; merges and bots are excluded elsewhere.

    `subject` is cleaned (`diff.subjects.clean_subject`), `change` in the compact form.
    """
    if _REVERT_SUBJECT.match(subject):
        return "revert"
    if _FIXUP_SUBJECT.match(subject):
        return "fixup"
    if _ASSISTANT_TRAILER.search(body):
        return "written by an assistant"
    if not subject:
        return "no message"
    if not change:
        return "no change"
    if all(is_generated(path) for _, path in split_compact(change)[0]):
        return "generated files only"
    return ""
