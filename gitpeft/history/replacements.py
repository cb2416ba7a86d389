"""Replace refs (`git replace --graft`): git shows other objects in the place of some; so does the history."""

import sqlite3

from gitpeft.git.repository import Repository
from gitpeft.history.context import read_setting, write_setting


def forget_replaced_commits(db: sqlite3.Connection, repository: Repository) -> None:
    """Empty the store where git replaces other objects now than when it was filled.

    What git shows of a commit, and of its children, is then no longer what was stored under its id.
    """
    state = repository.read_replacement_state()
    if state == read_setting(db, "replaced"):
        return
    with db:
        for table in ("record", "skipped", "touch", "change"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM setting WHERE name = 'place'")
        write_setting(db, "replaced", state)
    (repository.state_dir / "recent.json").unlink(missing_ok=True)
