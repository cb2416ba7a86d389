"""What `gitpeft status` measures of the active model: acceptance, validation loss, calibration.

Only the calibration of the risk score needs labels, which the caller provides. The hook does none of this.
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
from gitpeft.monitor.calibration import CalibrationCheck
from gitpeft.monitor.loss import LossShift
from gitpeft.risk.model import load_risk_model

OutcomeProvider = Callable[[Repository, Bundle], Sequence[tuple[float, bool]]]
"""The probability that the bundle's score gives each commit labelled since it was fitted, and the label."""


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """How a model is doing: `ahead` commits since it was made (None: not comparable), what became of its
    offers, its loss, its calibration, and why retraining is due, "" when it is not."""

    ahead: int | None
    accepted: Acceptance
    loss: LossShift | None
    calibration: CalibrationCheck | None
    due: str

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "commits_since": self.ahead,
            "acceptance": asdict(self.accepted),
            "level": asdict(self.loss) if self.loss else None,
            "promise": self.calibration.as_dict() if self.calibration else None,
            "due": self.due,
        }


def measure_model_health(
    repo: Repository, bundle: Bundle, config: Config, judge: OutcomeProvider | None
) -> ModelHealth:
    """Measure what is new; `judge` is None where commits cannot be labelled."""
    ahead = repo.count_commits_since(bundle.newest_commit)
    accepted = acceptance.count_acceptance(repo).get(bundle.id, Acceptance())
    if not bundle.newest_commit or repo.resolve_head() is None:
        return ModelHealth(ahead, accepted, None, None, "")
    now = _measure_loss(repo, bundle, config) if ahead else None
    kept = _check_calibration(repo, bundle, judge) if ahead else None
    tried = acceptance.load_failed_retraining_tip(repo.state_dir, bundle.id)
    since = repo.count_commits_since(tried) if tried and ahead is not None else ahead
    due = acceptance.describe_due_retraining(
        bundle.manifest.commits, since, accepted, [*_describe_problems(now, kept)], bool(tried)
    )
    return ModelHealth(ahead, accepted, now, kept, due)


def _measure_loss(repo: Repository, bundle: Bundle, config: Config) -> LossShift | None:
    try:
        return loss.measure_loss_shift(repo, bundle, config)
    except GitpeftError:
        return None  # a damaged model is reported by `gitpeft doctor`


def _check_calibration(
    repo: Repository, bundle: Bundle, judge: OutcomeProvider | None
) -> CalibrationCheck | None:
    kept, again = calibration.load_calibration_check(repo, bundle)
    if again and judge is not None and (judged := judge(repo, bundle)):
        kept = CalibrationCheck.from_outcomes(
            judged, load_risk_model(bundle).known // calibration.CALIBRATION_DIVISOR
        )
        calibration.save_calibration_check(repo, bundle, kept)
    return kept


def _describe_problems(now: LossShift | None, kept: CalibrationCheck | None) -> list[str]:
    """What the measures say against the model."""
    found = []
    if now is not None and now.has_risen:
        found.append(
            f"the loss has risen to {now.new:.2f} nats/token on the newest {now.n_new} commits, "
            f"from {now.old:.2f} before"
        )
    if kept is not None and kept.is_miscalibrated:
        found.append(
            f"the risk score is miscalibrated: {kept.predicted:.0f} bugs predicted in {kept.n:,} "
            f"later commits, {kept.observed:,} found"
        )
    return found
