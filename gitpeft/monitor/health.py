"""Where an installed model stands: hides what `gitpeft status` measures of it, and in which order it is due.

Everything is counted, or asked of the model itself; only the verdicts on its risk score need labels, which
the caller brings along. The hook has no part in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gitpeft.bundle.bundle import Bundle
from gitpeft.config import Config
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.monitor import acceptance, calibration, loss
from gitpeft.monitor.acceptance import Acceptance
from gitpeft.monitor.calibration import Promise
from gitpeft.monitor.loss import Level
from gitpeft.risk.model import model_of

Judge = Callable[[Repository, Bundle], Sequence[tuple[float, bool]]]
"""What the bundle's score gave each commit that was judged since it was fitted, and what came of it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`ahead` commits since the model was made (None: not comparable), what became of its offers, its loss,
    its promises, and the sentence that says when retraining is due, "" when it is not."""

    ahead: int | None
    accepted: Acceptance
    level: Level | None
    promise: Promise | None
    due: str

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "commits_since": self.ahead,
            "acceptance": asdict(self.accepted),
            "level": asdict(self.level) if self.level else None,
            "promise": asdict(self.promise) if self.promise else None,
            "due": self.due,
        }


def of(repo: Repository, bundle: Bundle, config: Config, judge: Judge | None) -> Standing:
    """Measure what is new; `judge` is None where labels cannot be had."""
    ahead = repo.since(bundle.made_at)
    accepted = acceptance.count(repo).get(bundle.id, Acceptance())
    if not bundle.made_at or repo.head() is None:
        return Standing(ahead, accepted, None, None, "")
    now = _level(repo, bundle, config) if ahead else None
    kept = _promise(repo, bundle, judge) if ahead else None
    tried = acceptance.looked_at(repo.state_dir, bundle.id)
    since = repo.since(tried) if tried and ahead is not None else ahead
    due = acceptance.due(bundle.manifest.commits, since, accepted, [*_complaints(now, kept)], bool(tried))
    return Standing(ahead, accepted, now, kept, due)


def _level(repo: Repository, bundle: Bundle, config: Config) -> Level | None:
    try:
        return loss.measure(repo, bundle, config)
    except GitpeftError:
        return None  # a damaged model is `gitpeft doctor`'s to tell


def _promise(repo: Repository, bundle: Bundle, judge: Judge | None) -> Promise | None:
    kept, again = calibration.load(repo, bundle)
    if again and judge is not None and (judged := judge(repo, bundle)):
        kept = Promise.of(judged, model_of(bundle).known // calibration.CALIBRATION)
        calibration.store(repo, bundle, kept)
    return kept


def _complaints(now: Level | None, kept: Promise | None) -> list[str]:
    """What the measures say against the model, in words."""
    found = []
    if now is not None and now.risen:
        found.append(
            f"what the team writes costs the model {now.new:.2f} nats a token on the newest {now.n_new} "
            f"commits, against {now.old:.2f} before"
        )
    if kept is not None and kept.broken:
        found.append(
            f"the risk score promised {kept.promised:.0f} bugs in the {kept.n:,} commits judged since, "
            f"{kept.found:,} became known"
        )
    return found
