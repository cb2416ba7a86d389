"""The cards of init, status, doctor and models, and the summaries of a training: plain text, one screen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.cli.console import (
    CHECK_MARK,
    WARNING_MARK,
    format_age,
    format_count,
    format_duration,
    format_size,
    print_rows,
    wrap_text,
)
from gitpeft.errors import GitpeftError
from gitpeft.hooks import stubs
from gitpeft.monitor import acceptance
from gitpeft.risk.model import MODEL_NOTES, RiskModel
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from gitpeft.bundle.bundle import Bundle
    from gitpeft.bundle.registry import ModelVersion
    from gitpeft.git.repository import Repository
    from gitpeft.hooks.doctor import DoctorFinding, RecentProblems, RepositoryStatus
    from gitpeft.learn.budget import BudgetReport
    from gitpeft.learn.evaluation.messages import MeasuredMessages
    from gitpeft.learn.results import CandidateModel, PipelineResult, TrainingResult
    from gitpeft.learn.retrain.multi_repo import OrgResult
    from gitpeft.learn.retrain.run import RetrainingResult
    from gitpeft.monitor.health import ModelHealth

SHORT_ID = 12
MAX_SAMPLES = 3
MAX_NAMED = 20
"""Of more repositories with the same outcome only the number is printed."""


# --- init ---------------------------------------------------------------------------------------------------


def print_outcome(repository: "Repository", outcome: "PipelineResult", hooks: str) -> None:
    """The result of `gitpeft init` on one screen: what was made, how good it is, what to do next."""
    spent = format_duration(sum(outcome.candidate.seconds.values()))
    print(wrap_text(f"{CHECK_MARK} gitpeft is ready in {_name_repository(repository)} ({spent})"))
    print_rows(list(_describe_outcome(repository, outcome, hooks)), indent="  ")
    if samples := outcome.candidate.measured.samples:
        print("\nTypical suggestions for the newest commits: the best, the median and the worst")
        for sha, theirs, ours in samples[:MAX_SAMPLES]:
            print_rows(
                [(sha[:8], f"team: {_cut(theirs)}"), ("", f"gitpeft: {_cut(ours) or '(nothing)'}")], "  "
            )
    print("\nTry it:  git add -p && git commit       Undo:  gitpeft uninstall")
    print("All metrics:  gitpeft eval              State: gitpeft status")


def _describe_outcome(
    repository: "Repository", outcome: "PipelineResult", hooks: str
) -> Iterator[tuple[str, str]]:
    left_out = sorted(outcome.left_out.items(), key=lambda item: -item[1])
    without = ", ".join(_format_exclusion(why, number) for why, number in left_out)
    total = outcome.used + sum(outcome.left_out.values())
    yield "History", f"{outcome.used:,} of {total:,} commits used" + (f" ({without})" if without else "")
    yield "Model", "\n".join(_describe_made_model(outcome.candidate))
    if quality := describe_quality(outcome.candidate.measured):
        yield "Quality", quality
    yield "Risk", describe_risk_model(outcome.candidate.risk.model)
    for note in _list_training_notes(outcome.candidate):
        yield "Note", note
    yield "Hook", hooks
    size = format_size(measure_folder(repository.state_dir))
    yield "Disk", f"{size} in {shorten_path(repository, repository.state_dir)}"
    yield from _describe_budget(outcome.budget)


def _list_training_notes(made: "CandidateModel") -> Iterator[str]:
    """What happened while the model and its risk encoder were trained, each once."""
    ours = made.trained.cost.notes if made.trained else ()
    taught = made.risk.model.report.get("taught", ())
    yield from dict.fromkeys([*ours, *(note for one in taught for note in one.get("notes", ()))])


def _describe_budget(budget: "BudgetReport") -> Iterator[tuple[str, str]]:
    """A row on what a budget was too short for, and which would do; none where it was long enough."""
    if budget.left_out:
        yield "Budget", "\n".join(describe_budget(budget))


def describe_budget(budget: "BudgetReport") -> Iterator[str]:
    """What a budget was too short for, and which would do."""
    yield f"{format_duration(budget.seconds)} after reading the history, of {budget.minutes:g} minutes"
    yield f"reduced to: {'; '.join(budget.left_out)}"
    if budget.enough:
        yield f"--budget {budget.enough} should take it all, as fast as this machine was"


def print_org_result(done: "OrgResult") -> None:
    """What became of each repository, of many with the same outcome only their number; and of the budget."""
    outcomes: dict[tuple[str, str], list[str]] = {}
    for one in done.repositories:
        outcomes.setdefault((one.action, one.reason), []).append(one.repository)
    for (action, reason), names in outcomes.items():
        told = names if len(names) <= MAX_NAMED else [f"{len(names):,} repositories"]
        for name in told:
            print(replace_unprintable(f"{name}: {action}, {reason}"))
    if done.budget.left_out:
        print_rows([("Budget", "\n".join(describe_budget(done.budget)))])


_STRENGTHS = {"tuned half way": "half-strength"}
_EXCLUSION_PLURALS = {"repeated message": "repeated messages", "merge": "merges", "revert": "reverts"}


def _format_exclusion(why: str, number: int) -> str:
    return f"{number:,} {why if number == 1 else _EXCLUSION_PLURALS.get(why, why)}"


def _describe_made_model(made: "CandidateModel") -> Iterator[str]:
    """What is active now, and why it is that."""
    if made.kind == "retrieval":
        yield "none: the messages of the most similar earlier commits are suggested"
    else:
        yield describe_method(made.base, str(made.method.get("name", "")), made.method)
    if made.why:
        yield f"not tuned: {made.why}"
        if "not installed" in made.why:
            yield "to tune it: pip install 'gitpeft[train]', then gitpeft init"
    if scores := made.selected.scores:
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        scored = ", ".join(f"{_STRENGTHS.get(name, name)} {score:.1f}" for name, score in ranked)
        by_loss = made.selected.draft.manifest.reads_prompts
        measure = "probability of a token in %" if by_loss else "% of keystrokes saved"
        yield f"best on validation commits ({measure}): {scored}"


def describe_quality(measured: "MeasuredMessages") -> str:
    """For how many commits something is offered, and what messages for all would save, beside the nearest
    earlier message for all."""
    from gitpeft.learn.evaluation.messages import EVERYTHING
    from gitpeft.learn.evaluation.text_metrics import KEPT_SHARE

    ours, nearest = measured.scores.get("gitpeft"), measured.scores.get("nearest neighbour")
    if not ours or not nearest:
        return ""
    always = measured.scores.get(EVERYTHING, ours)
    mine, other = always.metrics["keystrokes_saved"], nearest.metrics["keystrokes_saved"]
    row = ours.metrics.get("kept")
    kept = f"; {row.mean:.0f}% of the offers save {KEPT_SHARE:.0%} of the keystrokes or more" if row else ""
    offered = f"{ours.metrics['coverage'].mean:.0f}% of the {ours.n} newest commits"
    said = (
        f"something is offered for {offered}{kept}; "
        f"a suggestion for every commit saves {mine.mean:.0f}% ({mine.low:.0f}-{mine.high:.0f}) of the "
        f"keystrokes, the nearest past message {other.mean:.0f}% ({other.low:.0f}-{other.high:.0f})"
    )
    overlap = mine.low <= other.high and other.low <= mine.high
    return said + ("; too few commits to tell them apart" if overlap else "")


def describe_method(base: str, method: str, settings: Mapping[str, object] | None = None) -> str:
    """A model in a few words; `settings` are those of the method."""
    if not base:
        return "nearest past messages, no base model"
    if method in ("", "none", "model"):
        return f"base model {base} without tuning, with examples from your history"
    known = settings or {}
    told = [_format_setting(key, known[key]) for key in _SHOWN_SETTINGS if known.get(key)]
    return f"base model {base} tuned on your history ({', '.join([method, *told])})"


_SHOWN_SETTINGS = ("rank", "width", "placement", "layers", "full")


def _format_setting(key: str, value: object) -> str:
    if key == "placement":
        return str(value)
    return f"{key} {' '.join(map(str, value))}" if isinstance(value, tuple | list) else f"{key} {value}"


def _name_repository(repository: "Repository") -> str:
    return (Path(repository.work_tree) if repository.work_tree else repository.common_dir).name


def _cut(text: str, limit: int = 58) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def measure_folder(folder: Path) -> int:
    """The bytes of all files in a folder, one that is linked twice counted once."""
    states = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return sum({(one.st_dev, one.st_ino): one.st_size for one in states}.values())


def describe_risk_model(model: RiskModel, *, verbose: bool = False) -> str:
    """Whether changes are flagged, and why not; with `verbose` what the score is worth."""
    if not model.is_usable:
        known = f"{model.known:,} of {format_count(model.needed, 'known bug')}" if model.needed else ""
        return f"off: {known if 'known bugs,' in model.why and known else model.why}"
    if not model.is_checked:
        return f"by other histories, nothing is flagged before a commit: {model.why}"
    off = f"nothing is flagged: no score beats the number of added lines ({model.known:,} known bugs)"
    on = _describe_model_kind(model)
    said = on if model.warns else off
    if not verbose:
        return said
    test = model.report.get("test", {})
    scores = [f"{name}: {_format_risk_scores(row)}" for name, row in test.items()]
    measured = f"on the {model.report.get('n', 0):,} newest commits"
    return "\n".join(
        [said, f"half of the bugs were known within {model.latency:.0f} days", measured, *scores]
    )


def _describe_model_kind(model: RiskModel) -> str:
    """What the score is and which bugs stand behind it."""
    bugs = format_count(model.known, "known bug")
    if note := MODEL_NOTES.get(model.kind):
        return f"{model.kind} ({note}), checked on {bugs} here"
    return f"{model.kind}, learned from {bugs}"


def _format_risk_scores(row: dict[str, Any]) -> str:
    (auc, low, high), capture = row["auc"], row["capture_20"]
    return f"AUC {auc:.2f} ({low:.2f}-{high:.2f}), {capture[0]:.0%} of the bugs in the riskiest fifth"


# --- train --------------------------------------------------------------------------------------------------


def print_retraining(done: "RetrainingResult") -> None:
    """What a retraining came to: what was learned from, which model won, which one is active."""
    if done.action == "none" and not done.new:
        print("Already up to date: no new commits.")
        return
    if done.taught:
        start = "the active model" if done.warm else "the base model"
        print(
            f"Trained from {start} on {format_count(done.taught, 'commit')} ({done.new:,} new, "
            f"{done.replayed:,} replayed) in {format_duration(sum(done.seconds.values()))}."
        )
    for note in done.cost.get("notes", ()):
        print(wrap_text(f"Note: {note}"))
    if done.budget and done.budget.left_out:
        print_rows(list(_describe_budget(done.budget)))
    if done.labels and done.labels.known:
        found, changed = done.labels.known, done.labels.changed
        print(
            f"{format_count(found, 'bug')} became known since, {changed:,} of them in commits labelled clean."
        )
    print(wrap_text(f"{'Nothing to do: ' if done.action == 'none' else ''}{done.reason}"))
    if done.action == "none":
        return
    if done.action == "activated":
        print(
            f"Active: {done.bundle[:SHORT_ID]}. `gitpeft rollback` goes back to {done.champion[:SHORT_ID]}."
        )
    else:
        print(f"Not activated: {done.bundle[:SHORT_ID]}. The active model stays.")
    if done.aside:
        print(f"Not activated: {done.aside[:SHORT_ID]}, whose messages are worse.")


def print_training(done: "TrainingResult") -> None:
    """What a run without an export cost."""
    cost, spent = done.cost, done.cost.training
    memory = max(spent.peak_memory, spent.reserved) / 2**30
    rows = [
        ("Trained", f"{spent.trainable:,} of {spent.parameters:,} weights in {spent.seconds:.0f} s"),
        (
            "Speed",
            f"{spent.steps} steps, {spent.tokens_per_second:,.0f} tokens/s, peak memory {memory:.1f} GiB",
        ),
        (
            "Result",
            f"best validation loss {spent.best_loss:.3f} nats/token after {spent.seconds_to_best:.0f} s",
        ),
        ("Disk", format_size(cost.adapter_bytes)),
        *(("Note", note) for note in cost.notes),
        *_describe_budget(done.budget),
        ("Next", "gitpeft export"),
    ]
    print_rows(rows)


# --- status -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The active bundle, and how it is doing. `min_score` is the setting, -1 where none was made."""

    bundle: "Bundle"
    health: "ModelHealth"
    min_score: int = -1

    @property
    def least_score(self) -> float | None:
        """The score, 0 to 100, that a suggestion needs to be offered; None where it cannot be read."""
        if self.min_score >= 0:
            return float(self.min_score)
        from gitpeft.bundle.manifest import RERANKER_FILE
        from gitpeft.suggest.reranker import Reranker

        try:
            stored = Reranker.from_data(self.bundle.read_json(RERANKER_FILE), self.bundle.manifest.kind)
        except GitpeftError:
            return None
        return round(100 * (stored.threshold or 0.0), 1)

    def as_dict(self) -> dict[str, Any]:
        """For scripts: the manifest, the id and the measures side by side."""
        return asdict(self.bundle.manifest) | {"id": self.bundle.id} | self.health.as_dict()


def print_status(
    repository: "Repository",
    state: "RepositoryStatus",
    model: ActiveModel | None,
    risky: RiskModel,
    problems: "RecentProblems",
    *,
    verbose: bool = False,
) -> None:
    """What is installed here and how it is doing, a row for each."""
    rows = [("Hook", _describe_hook(repository, state))]
    if model is None:
        rows.append(("Model", "none: run `gitpeft init`"))
    else:
        rows += _describe_active_model(model)
    rows.append(("Risk", describe_risk_model(risky, verbose=verbose)))
    if warning := problems.describe():
        rows.append(("Warnings", f"{warning}: gitpeft doctor"))
    if verbose:
        rows += _describe_details(state, model)
    print_rows(rows)


def _describe_hook(repository: "Repository", state: "RepositoryStatus") -> str:
    offers = [hook for hook in state.hooks if hook.name == stubs.SUGGESTION_HOOK and not hook.worktree]
    if not offers:
        return (
            "not installed here: run `gitpeft install`"
            if state.hooks
            else "not installed: run `gitpeft install`"
        )
    if not state.enabled:
        return "off (gitpeft.enabled is false)"
    running = [hook for hook in offers if hook.runs]
    if not running:
        return "installed, but git does not run it: see `gitpeft doctor`"
    where = shorten_path(repository, running[0].where)
    if state.silence:
        return f"silent: {state.silence} ({where})"
    return f"on ({where}{'' if state.works_ahead else ', not working ahead'})"


def shorten_path(repository: "Repository", path: Path) -> str:
    """A path as seen from the top of the work tree, where it lies in there."""
    root = repository.work_tree
    return str(path.relative_to(root)) if root and path.is_relative_to(root) else str(path)


def _describe_active_model(model: ActiveModel) -> Iterator[tuple[str, str]]:
    manifest, health = model.bundle.manifest, model.health
    method = describe_method(manifest.base, str(manifest.method.get("name", "")))
    count = format_count(manifest.commits.get("count", 0), "commit")
    new = f", {health.ahead:,} new since" if health.ahead else ""
    yield (
        "Model",
        f"{model.bundle.id[:SHORT_ID]}, {method}\nmade {format_age(manifest.created)} from {count}{new}",
    )
    yield "Offers", _describe_least_score(model)
    counts = health.accepted
    if counts.decided_count or counts.withheld:
        used = f"{counts.kept:,} kept, {counts.edited:,} edited, {counts.discarded:,} discarded"
        offered = (
            f"; something was offered for {counts.coverage:.0%} of the commits" if counts.withheld else ""
        )
        yield "Use", used + offered
    if health.due:
        yield "Retrain", health.due
    elif health.ahead is not None:
        needed = acceptance.count_commits_until_due(manifest.commits)
        yield "Retrain", f"not needed ({health.ahead:,} of {needed:,} new commits)"


def _describe_least_score(model: ActiveModel) -> str:
    """From which score on something is offered, and who decided that."""
    least = model.least_score
    if least is None:
        return "none: the model's reranker cannot be read: see `gitpeft doctor`"
    source = "gitpeft.minScore" if model.min_score >= 0 else "as the model needs"
    return f"from a score of {least:g} on ({source})" if least else f"whatever there is ({source})"


def _describe_details(state: "RepositoryStatus", model: ActiveModel | None) -> Iterator[tuple[str, str]]:
    """What `--verbose` adds."""
    for hook in state.hooks:
        how = "runs" if hook.runs else "for another worktree" if hook.worktree else "does not run"
        yield hook.name, f"{hook.how} in {hook.where}, {how}"
    if model and (level := model.health.loss):
        yield (
            "Loss",
            f"{level.new:.2f} nats/token on the newest {level.n_new} commits, "
            f"{level.old:.2f} on {level.n_old} before the model was made",
        )
    if model and (check := model.health.calibration):
        yield (
            "Calibration",
            f"{check.predicted:.1f} bugs predicted in {check.n:,} later commits, "
            f"{check.observed:,} found so far",
        )
    if state.log:
        yield "Log", "\n".join(state.log)


# --- models and doctor --------------------------------------------------------------------------------------


def print_models(found: Sequence["ModelVersion"]) -> None:
    """Two lines for each model: what it is, and how it compared with the active one when it was made."""
    if not found:
        print("no model here yet; run `gitpeft init`")
        return
    for one in found:
        mark = {"active": "*", "previous": "-"}.get(one.state, " ")
        count, size = format_count(int(one.commits.get("count", 0)), "commit"), format_size(one.size)
        state = f", {one.state}" if one.state else ""
        print(wrap_text(f"{mark} {one.id[:SHORT_ID]}  {format_age(one.created):<14} {count}, {size}{state}"))
        print(wrap_text(describe_method(one.base, one.method), "    "))
        if one.verdict:
            print(wrap_text(f"when made: {one.verdict}", "    "))
        if one.aside:
            print(wrap_text("not activated, because it was not better", "    "))
    if any(one.state == "previous" for one in found):
        print("\n`gitpeft rollback` activates the previous model.")


def print_findings(found: Sequence["DoctorFinding"]) -> None:
    """What `gitpeft doctor` found: what works in one line each, then each problem and its solution."""
    from gitpeft.hooks.doctor import AREAS

    broken = {one.area for one in found if not one.fixed}
    print("  ".join(f"{CHECK_MARK} {area}" for area in AREAS if area not in broken))
    for one in found:
        mark = f"{CHECK_MARK} fixed:" if one.fixed else WARNING_MARK
        print(wrap_text(f"{mark} {one.text}", "  ", ""))
        if one.remedy and not one.fixed:
            print("\n".join(f"    {line}" for line in one.remedy.splitlines()))
    if not broken:
        print("No problems found: commits get a suggestion where one is likely to fit.")
