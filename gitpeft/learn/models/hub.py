"""Base models from the Hugging Face hub; what is not pinned to a commit, or not safetensors, is refused.

Nothing is fetched unless the user allows it: `HF_HUB_OFFLINE=0`. Only weights as safetensors, configuration
and tokenizer are requested, at one commit, which becomes part of the base's name.
"""

import os
import re
from pathlib import Path

from gitpeft.errors import GitpeftError

BASE_PRESETS = {
    "codet5-small": "Salesforce/codet5-small",
    "codet5-base": "Salesforce/codet5-base",
    "codet5p-220m": "Salesforce/codet5p-220m",
    "plbart-base": "uclanlp/plbart-base",
    "unixcoder-base": "microsoft/unixcoder-base",
    "codebert-base": "microsoft/codebert-base",
    "graphcodebert-base": "microsoft/graphcodebert-base",
}
"""The study's bases by short names. Targets, pooling and special tokens follow from their architecture."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@(?P<commit>\w+))?")
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_ALLOWED_FILES = ["config.json", "tokenizer.json", "model.safetensors"]


def is_hub_id(name: str) -> bool:
    """Whether a name is `owner/name` or `owner/name@commit`."""
    return _HUB_ID.fullmatch(name) is not None


def resolve_hub_base(name: str) -> tuple[Path, str]:
    """The folder of a downloaded base, and its full name `owner/name@commit`.

    A commit has to be given unless one is on this machine already. GitpeftError when it is neither there nor
    may be fetched.
    """
    repo, _, commit = BASE_PRESETS.get(name, name).partition("@")
    if commit and not _COMMIT_ID.fullmatch(commit):
        raise GitpeftError(
            f"{commit} is no commit of {repo}: branches and tags move",
            f"give its 40 hexadecimal digits, as in {repo}@0123…",
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "1") != "0"
    if not offline and not commit:
        raise GitpeftError(
            f"{repo} is not pinned to a commit", f"name one, as in --base {repo}@<40 hexadecimal digits>"
        )
    found = _fetch_snapshot(repo, commit or "main", offline)
    return found, f"{repo}@{found.name}"


def _fetch_snapshot(repo: str, revision: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=_ALLOWED_FILES, local_files_only=offline
            )
        )
    except Exception as error:  # a dozen classes, none of which says more than this to a person
        if offline:
            hint = "set HF_HUB_OFFLINE=0 to download it once, or name a folder that holds it"
            raise GitpeftError(f"the base model {repo} is not on this machine", hint) from None
        hint = "check its name and the network, or name a folder that holds it"
        raise GitpeftError(f"cannot download the base model {repo} ({type(error).__name__})", hint) from None
