"""How often suggestions are accepted, and when retraining is due.

An offer is recorded with the commit that it was made on, and later compared with the commit that followed.
Four counts remain for each model: kept, edited, discarded, and withheld, where nothing was offered because no
message was likely enough to fit. The text of an offer is deleted as soon as it is
counted, and nothing ever leaves `<state_dir>`. `gitpeft.stats=false` turns all of it off.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitpeft.bundle.bundle import read_active_id
from gitpeft.files import replace_file
from gitpeft.git.repository import Repository
from gitpeft.lazy import lazy_dataclass

OFFERS_FILE, ACCEPTANCE_FILE, FAILED_RETRAINING_FILE = "offers.jsonl", "acceptance.json", "tried.json"
MAX_PENDING_OFFERS = 200
"""Offers that wait for their commit; the oldest are forgotten."""

MIN_EDITED_SIMILARITY = 0.5
"""A message that shares this much with an offer (`difflib`'s ratio over words) is an edited one."""

MIN_NEW_COMMITS, MIN_NEW_SHARE = 50, 0.1
"""Retraining is due after this many new commits, or this share of those the model knows if that is more."""

MIN_DECIDED_OFFERS, MAX_DISCARDED_SHARE = 20, 2 / 3
"""… or when of this many decided offers more than this share was discarded."""

_MAX_OFFERS_BYTES = 256 << 10
_MAX_LOG_COMMITS = 3000


@lazy_dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of the offers of one model."""

    kept: int = 0
    edited: int = 0
    discarded: int = 0
    withheld: int = 0

    @property
    def decided_count(self) -> int:
        """All offers, which those that were withheld are not."""
        return self.kept + self.edited + self.discarded

    @property
    def coverage(self) -> float:
        """The share of commits for which something was offered; 1 where nothing was withheld."""
        return self.decided_count / (self.decided_count + self.withheld or 1) if self.withheld else 1.0


def record_offer(state_dir: Path, head: str | None, messages: Sequence[str]) -> None:
    """Remember what was offered on top of `head`, or that nothing was, which no messages stand for.

    A disk that is full costs the count, nothing more.
    """
    path = state_dir / OFFERS_FILE
    line = json.dumps({"model": read_active_id(state_dir), "head": head or "", "offered": [*messages]})
    try:
        if path.exists() and path.stat().st_size > _MAX_OFFERS_BYTES:
            path.unlink()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)
    except OSError:
        pass


def count_acceptance(repo: Repository) -> dict[str, Acceptance]:
    """What became of all offers so far, by model; counts those whose commit is there, and forgets them."""
    from dataclasses import asdict

    state = repo.state_dir
    counts = _load_acceptance(state / ACCEPTANCE_FILE)
    taken = state / f"{OFFERS_FILE}.{os.getpid()}"
    try:
        (state / OFFERS_FILE).rename(taken)
    except OSError:
        return counts
    offers, made = list(_read_offers(taken)), _list_subjects_by_parent(repo)
    waiting = []
    for (model, head), offered in _group_offers(offers).items():
        if head not in made:
            waiting.append({"model": model, "head": head, "offered": sorted(offered)})
            continue
        verdict = _classify_outcome(offered, made[head])
        before = asdict(counts.get(model, Acceptance()))
        counts[model] = Acceptance(**{**before, verdict: before[verdict] + 1})
    replace_file(
        state / ACCEPTANCE_FILE,
        json.dumps({model: asdict(one) for model, one in counts.items()}).encode(),
    )
    for one in waiting[-MAX_PENDING_OFFERS:]:
        with open(state / OFFERS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")
    taken.unlink()
    return counts


def _load_acceptance(path: Path) -> dict[str, Acceptance]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(model): Acceptance(**{k: int(v) for k, v in one.items()}) for model, one in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _read_offers(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            one = json.loads(line)
            if (
                isinstance(one["model"], str)
                and isinstance(one["head"], str)
                and isinstance(one["offered"], list)
            ):
                yield one
        except (ValueError, TypeError, KeyError):
            continue


def _group_offers(offers: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """All that was offered on one commit: a commit that was given up and tried again is one decision."""
    found: dict[tuple[str, str], set[str]] = {}
    for one in offers:
        found.setdefault((one["model"], one["head"]), set()).update(map(str, one["offered"]))
    return found


def _list_subjects_by_parent(repo: Repository) -> dict[str, list[str]]:
    """The subjects of the newest commits by parent; "" is the parent of a first one."""
    shape = ["--no-show-signature", "--no-merges", "--format=%P%x00%s"]
    tips = ["--branches", *(["HEAD"] if repo.resolve_head() else [])]
    found: dict[str, list[str]] = {}
    for line in repo.ask_text("log", f"-{_MAX_LOG_COMMITS}", *shape, *tips, "--").split("\n"):
        parent, mark, subject = line.partition("\0")
        if mark:
            found.setdefault(parent, []).append(subject)
    return found


def _classify_outcome(offered: set[str], subjects: Sequence[str]) -> str:
    """How the commit that came next is worded; of several, the one that is closest to an offer."""
    if not offered:
        return "withheld"
    from difflib import SequenceMatcher

    firsts = {text.split("\n", 1)[0].strip() for text in offered}
    if firsts & set(subjects):
        return "kept"
    pairs = ((a.lower().split(), b.lower().split()) for a in firsts for b in subjects)
    best = max((SequenceMatcher(None, a, b).ratio() for a, b in pairs), default=0.0)
    return "edited" if best >= MIN_EDITED_SIMILARITY else "discarded"


def record_failed_retraining(state_dir: Path, model: str, tip: str) -> None:
    """Remember that a retraining up to the commit `tip` brought nothing better than `model` (an id)."""
    found = json.dumps({"model": model, "tip": tip})
    replace_file(state_dir / FAILED_RETRAINING_FILE, found.encode())


def load_failed_retraining_tip(state_dir: Path, model: str) -> str:
    """The commit up to which a retraining found nothing better than `model`, "" for none."""
    try:
        found = json.loads((state_dir / FAILED_RETRAINING_FILE).read_text(encoding="utf-8"))
        return str(found["tip"]) if found["model"] == model else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def count_commits_until_due(commits: Mapping[str, Any]) -> int:
    """How many new commits make retraining due, for a manifest's `commits`."""
    return max(MIN_NEW_COMMITS, math.ceil(MIN_NEW_SHARE * int(commits.get("count", 0))))


def describe_due_retraining(
    commits: Mapping[str, Any],
    since: int | None,
    accepted: Acceptance,
    complaints: Sequence[str] = (),
    tried: bool = False,
) -> str:
    """A sentence when retraining is due, "" when it is not.

    `commits` is the manifest's, `since` how many commits HEAD has beyond it (None: not comparable), or beyond
    the last retraining that was `tried` and found nothing better: until as many have come again, none is due.
    """
    if since is None:
        return _format_due_message("the history that the model was made from is no longer here")
    if since >= count_commits_until_due(commits):
        return _format_due_message(
            f"{since:,} commits since {'it was last tried' if tried else 'the model was made'}"
        )
    if tried:
        return ""
    if (
        accepted.decided_count >= MIN_DECIDED_OFFERS
        and accepted.discarded > MAX_DISCARDED_SHARE * accepted.decided_count
    ):
        return _format_due_message(
            f"{accepted.discarded} of {accepted.decided_count} suggestions were discarded"
        )
    return _format_due_message(complaints[0]) if complaints else ""


def _format_due_message(why: str) -> str:
    return f"due: {why}. Run `gitpeft train`."
