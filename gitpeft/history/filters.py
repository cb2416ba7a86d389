"""Which commits are used as examples: the rule that training and the hook share."""

import re

from gitpeft.diff.compact import split_compact
from gitpeft.diff.patch import is_generated
from gitpeft.lazy import lazy_pattern

_BOT_ADDRESS = lazy_pattern(
    # reserved for programs by the forges: `name[bot]@users.noreply.github.com`, `project_1_bot@noreply.…`
    r"[^@]*\[bot\]@|(?:project|group)_\d+_bot\w*@noreply\."
    # names of accounts: `release-bot@`, `k8s-ci-robot@`, `bot@`; a surname in `jan.bot@`, `talbot@` is none
    r"|(?:[^@]*[-_+])?(?:ro)?bots?@"
    # programs whose local part says nothing
    r"|(?:support@(?:dependabot\.com|greenkeeper\.io)|(?:support\+)?actions?@github\.com"
    r"|github-actions@github\.com|(?:noreply|hosted)@weblate\.org|renovate@whitesourcesoftware\.com"
    r"|imgbot(?:app|help)@gmail\.com|(?:builds|deploy|travis)@travis-ci\.(?:org|com)"
    r"|(?:jenkins|zuul)@(?:review\.)?(?:openstack|opendev)\.org|openstack-infra@lists\.openstack\.org)$",
    re.IGNORECASE,
)
_BOT_NAME = lazy_pattern(r"\S*\[bot\]|[^\s@]+[-_](?:ro)?bot", re.IGNORECASE)
"""Names that are those of accounts, not of people: `dependabot[bot]`, `my-release-bot`."""

_ASSISTANT_ADDRESS = lazy_pattern(
    r"(?:(?:noreply|claude|claude-code)@anthropic\.com|(?:noreply|codex)@openai\.com|copilot@github\.com"
    r"|(?:cursoragent|noreply|agent)@cursor\.com|(?:noreply|aider)@aider\.chat|[^@]*@devin\.ai"
    r"|(?:noreply|amp)@ampcode\.com|noreply@(?:opencode\.ai|codeium\.com|windsurf\.com|coderabbit\.ai)"
    r"|(?:noreply|crush)@charm\.land|gemini-cli(?:-agent)?@google\.com"
    # GitHub gives accounts whose names are taken by these tools addresses of the form `123+name@…`
    r"|(?:\d+\+)(?:copilot|claude|cursoragent)@users\.noreply\.github\.com"
    r"|(?:\d+\+)?(?:copilot|claude|cursor|gemini-code-assist|google-labs-jules|devin-ai-integration|openai-codex"
    r"|copilot-swe-agent|chatgpt-codex-connector)\[bot\]@users\.noreply\.github\.com)$",
    re.IGNORECASE,
)
"""The addresses under which assistants sign, as author or co-author."""

_REVERT_SUBJECT = lazy_pattern(r"^(?:revert\b|reapply\b)", re.IGNORECASE)
_FIXUP_SUBJECT = lazy_pattern(r"^(?:fixup|squash|amend)! ")
_SIGNED_TRAILER = lazy_pattern(r"^(?:co-authored|assisted|generated)-by:(.*)$", re.IGNORECASE | re.MULTILINE)
_TOOLS = (
    r"(?:claude code|claude|cursor|(?:github )?copilot|chatgpt|openai|(?:openai )?codex|aider|gemini|devin)"
)
# a tool that is named without an address, or with one that nobody reads
_TOOL_TRAILER = lazy_pattern(
    rf"^(?:(?:assisted|generated)-by:\s*{_TOOLS}\b[^<@\n]*$"
    rf"|(?:co-authored|assisted|generated)-by:\s*{_TOOLS}\b[^<\n]*<no-?reply@)",
    re.IGNORECASE | re.MULTILINE,
)
_TOOL_LINE = lazy_pattern(
    rf"^\W*generated with \[?{_TOOLS}(?: cli)?(?:\]\(\S*\)|\]?)\W*$", re.IGNORECASE | re.MULTILINE
)
"""The line that an assistant leaves below a message, alone on its line."""


def is_bot(identity: str) -> bool:
    """Whether an author (`Name <mail>`) is a program: by addresses, and account names, that are no person's.

    A person may be called Travis or Claude, have the surname Bot, or work where bots are made.
    """
    name, _, mail = identity.rpartition("<")
    mail = mail.rstrip(">").strip()
    return any(
        found is not None
        for found in (
            _BOT_ADDRESS.match(mail),
            _ASSISTANT_ADDRESS.match(mail),
            _BOT_NAME.fullmatch(name.strip()),
        )
    )


def is_assistants_work(body: str) -> bool:
    """Whether a message says, by an assistant's address or own line, that an assistant wrote the change."""
    if _TOOL_TRAILER.search(body) or _TOOL_LINE.search(body):
        return True
    mails = (found[1].rpartition("<")[2].rstrip("> \t\r") for found in _SIGNED_TRAILER.finditer(body))
    return any(_ASSISTANT_ADDRESS.match(mail.strip()) is not None for mail in mails)


def find_exclusion_reason(subject: str, body: str, change: str) -> str:
    """Why a commit is not used as an example, "" when it is used; merges and bots are excluded elsewhere.

    `subject` is cleaned (`diff.subjects.clean_subject`), `change` in the compact form.
    """
    if _REVERT_SUBJECT.match(subject):
        return "revert"
    if _FIXUP_SUBJECT.match(subject):
        return "fixup"
    if is_assistants_work(body):
        return "written by an assistant"
    if not subject:
        return "no message"
    if not change:
        return "no change"
    if all(is_generated(path) for _, path in split_compact(change)[0]):
        return "generated files only"
    return ""
