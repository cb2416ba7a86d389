"""The commits that blame passes over, such as those that reformat everything.

They are those that `git blame` passes over here (`blame.ignoreRevsFile`, which may name several files), and
those of `.git-blame-ignore-revs` at the tip, where hosts look for them.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gitpeft.git.objects import read_file
from gitpeft.git.repository import Repository

IGNORE_REVS_FILE = ".git-blame-ignore-revs"
_OBJECT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class IgnoredRevisions:
    """Full ids; `unread` counts the files that the settings name and that are not here, by reason."""

    shas: frozenset[str]
    unread: Counter[str]


def read_ignored_revisions(repository: Repository, tip: str) -> IgnoredRevisions:
    """The commits to pass over in the history of `tip`."""
    texts, unread = [read_file(repository, tip, IGNORE_REVS_FILE)], Counter[str]()
    for name in _list_configured_files(repository):
        text = _read_configured_file(repository, tip, name)
        if text is None:
            unread["file of blame.ignoreRevsFile that is not here"] += 1
        else:
            texts.append(text)
    lines = (line for text in texts for line in text.decode("utf-8", "replace").split("\n"))
    names = (line.partition("#")[0].strip().lower() for line in lines)
    return IgnoredRevisions(frozenset(name for name in names if _OBJECT_ID.fullmatch(name)), unread)


def _list_configured_files(repository: Repository) -> list[str]:
    said = repository.ask_text("config", "-z", "--type=path", "--get-all", "blame.ignoreRevsFile")
    return [name for name in said.split("\0") if name]


def _read_configured_file(repository: Repository, tip: str, name: str) -> bytes | None:
    """The file as git reads it, from the top of the work tree; as committed where there is no work tree."""
    try:
        return (Path(repository.work_tree or repository.cwd) / name).read_bytes()
    except OSError:
        return read_file(repository, tip, name) or None
