"""SZZ: which commits introduced bugs, by tracing the lines that fixes change, and when that became known.

After Śliwerski, Zimmermann and Zeller (2005), with the corrections of later work (Kim et al. 2006, da Costa
et al. 2017): comments, blank, moved and reformatted lines, large commits and impossible dates are left out,
and counted. A fix that names the commit that was wrong (a revert, a `Fixes:` trailer) is believed. Only
commits are labelled, never people.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gitpeft.config import Config
from gitpeft.diff.patch import unquote_path
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commit_messages
from gitpeft.history import fix_detection
from gitpeft.lazy import replace_fields
from gitpeft.learn.szz.blame import BlameReplay, ReplayStep
from gitpeft.learn.szz.candidate_lines import classify_non_code
from gitpeft.learn.szz.edit_cache import EditCache
from gitpeft.learn.szz.edits import DETAIL_CHECKSUMS, DETAIL_CONTINUATIONS, DETAIL_SUSPECTS, CommitEdit
from gitpeft.learn.szz.ignored_revisions import read_ignored_revisions
from gitpeft.learn.szz.reverts import RevertTargets, ShaResolver, find_reverts, find_standing_reverts
from gitpeft.risk.change_metrics import DAY_SECONDS

Listener = Callable[[str, float, str], None]

MIN_LATENCY_SAMPLES = 20
"""Labelled commits that a quantile of the latency needs."""

LARGE_COMMIT_FILES, LARGE_COMMIT_LINES = 100, 10_000
"""A commit of more files or added lines is an import or a rewrite: it is not labelled as bug-introducing."""

LEAST_TRACED_COMMITS = 2000
"""So many of the newest commits are traced whatever that costs, where a limit does not say otherwise."""

_EVIDENCE_SHARE = 0.3  # of the time that a limit gives, for reading the messages

_REPLAYED_AT_ONCE = 500
_EARLIEST_DATE = 631_152_000  # 1990-01-01, before which no version control dates its commits


@dataclass(frozen=True, slots=True)
class BugIntroducingCommit:
    """A commit that introduced a bug.

    `known` is when that became known: the commit time of its earliest fix, in Unix seconds. `fixes` are the
    ids of the fixes that traced to it, oldest first. `lines` are (path in that commit, 1-based line of its
    new file) that fixes later removed or changed; none where a fix only names the commit.
    """

    sha: str
    known: int
    fixes: tuple[str, ...]
    lines: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class TraceReport:
    """Counts of what was found and what was left out, and why.

    `commits` were examined, `read` of them now (the rest came from the cache), and `untraced` older ones were
    left for want of time. `fixes` counts fixes by kind
    of evidence (see `history.fix_detection`), `unused` messages with evidence of a kind that is not reliable
    here. `traced` lines lead to a labelled commit; `lines`, `files` and `skipped` count by reason what led
    to none: lines that fixes removed, files of fixes, and commits.
    """

    commits: int
    read: int
    fixes: dict[str, int]
    unused: dict[str, int]
    traced: int
    lines: dict[str, int]
    files: dict[str, int]
    skipped: dict[str, int]
    seconds: float
    untraced: int = 0


@dataclass(frozen=True, slots=True)
class SzzLabels:
    """The bug-introducing commits by id, the fixes with the kind of evidence for each, and the counts.

    Nothing is known of the `untraced` commits, which are older than the others (see `TraceLimit`).
    """

    verdicts: dict[str, BugIntroducingCommit]
    fixes: dict[str, str]
    report: TraceReport
    untraced: frozenset[str] = frozenset()
    _days: tuple[float, ...] = field(default=(), repr=False)

    def bugs_known_at(self, time: int) -> set[str]:
        """The commits that were known to be buggy at a moment (Unix seconds)."""
        return {sha for sha, verdict in self.verdicts.items() if verdict.known <= time}

    def latency_quantile(self, quantile: float) -> float | None:
        """Quantile (0..1) of the days from a bug to its first fix, interpolated linearly.

        None with fewer than `MIN_LATENCY_SAMPLES` labelled commits.
        """
        if len(self._days) < MIN_LATENCY_SAMPLES:
            return None
        at = quantile * (len(self._days) - 1)
        low = min(int(at), len(self._days) - 2)
        return self._days[low] + (self._days[low + 1] - self._days[low]) * (at - low)


@dataclass(frozen=True, slots=True)
class TraceLimit:
    """How much is traced: the newest commits that `seconds` allow for, `least` of them in any case.

    `pace`: the seconds that each of them will cost after it was read.
    """

    seconds: float
    pace: float = 0.0
    least: int = LEAST_TRACED_COMMITS


@dataclass(slots=True)
class _MessageEvidence:
    """Evidence from messages: the fixes with their kinds, and the commits that some of them name."""

    commits: dict[str, Commit]
    fixes: dict[str, str]
    named: dict[str, tuple[str, ...]]
    reverts: dict[str, RevertTargets]
    ignored: frozenset[str]
    skipped: Counter[str]
    unused: dict[str, int]

    def forget_fixes(self, untraced: Sequence[str]) -> None:
        """Take fixes that are not traced out of the evidence."""
        for sha in untraced:
            self.fixes.pop(sha, None)

    def required_details(self) -> dict[str, str]:
        """What has to be read of each commit besides the ranges that it changes."""
        found: dict[str, str] = defaultdict(str)
        for sha in self.ignored:
            found[sha] += DETAIL_CONTINUATIONS
        for sha in self.fixes:
            found[sha] += DETAIL_SUSPECTS
        for sha in {*self.reverts, *(sha for targets in self.reverts.values() for sha in targets.commits)}:
            found[sha] += DETAIL_CHECKSUMS if len(self.commits[sha].parents) < 2 else ""
        return dict(found)


def trace_bug_introducing_commits(
    repository: Repository, tip: str, config: Config, listen: Listener, limit: TraceLimit | None = None
) -> SzzLabels:
    """Label the history that `tip` reaches; what was read is cached in the state directory.

    `listen` is called with the step, the share that is done, and a few words. With a `limit` only the newest
    commits are traced: what a fix removes of older ones is counted as lines whose history is not here. Raises
    GitpeftError when `tip` names no commit.
    """
    start = time.monotonic()
    listen("labels", 0.0, "messages")
    sha = repository.resolve_commit(tip)
    case, unread = _read_message_evidence(repository, sha, config.fix_pattern, limit)
    commits = list(case.commits.values())

    def is_enough(here: int) -> bool:
        if limit is None or here < limit.least:
            return False
        return time.monotonic() - start + here * limit.pace >= limit.seconds

    with EditCache.open(repository.state_dir) as cache:
        found = cache.read_missing(
            repository,
            commits,
            case.required_details(),
            lambda n, of: listen("labels", 0.9 * n / max(1, of), f"{n:,}/{of:,} commits"),
            is_enough,
        )
        case.skipped.update(found.skipped)
        older = [commit.sha for commit in commits[: len(commits) - found.here]]
        newer = commits[len(commits) - found.here :]
        case.forget_fixes(older)
        tracer = _BugTracer(case, cache.get_edit)
        taken_back = {sha: targets.commits for sha, targets in case.reverts.items()}
        replay = BlameReplay(newer, cache.get_edit, through=True, reverts=taken_back)
        for number, step in enumerate(replay):
            if number % _REPLAYED_AT_ONCE == 0:
                listen(
                    "labels", 0.9 + 0.1 * number / len(newer), f"tracing {number:,}/{len(newer):,} commits"
                )
            tracer.process_step(step, replay)
    labels = tracer.build_labels(len(newer), found.read, start, [*unread, *older])
    listen(
        "labels", 1.0, f"{len(labels.fixes):,} fixes, {len(labels.verdicts):,} commits that introduced bugs"
    )
    return labels


def _read_message_evidence(
    repository: Repository, tip: str, pattern: str, limit: TraceLimit | None
) -> tuple[_MessageEvidence, list[str]]:
    """The evidence in all messages, oldest first; with a `limit` of the newest, and the ids of the others.

    How long a message takes is known from the newest, which are read in any case.
    """
    ignored = read_ignored_revisions(repository, tip)
    start, newest = time.monotonic(), None if limit is None else limit.least
    commits = read_commit_messages(repository, tip, newest)
    case = _collect_message_evidence(commits, pattern, ignored.shas)
    unread: list[str] = []
    if limit is not None and len(commits) == newest:
        pace = (time.monotonic() - start) / newest
        fitting = int(_EVIDENCE_SHARE * limit.seconds / pace)
        if fitting > newest:
            commits = read_commit_messages(repository, tip, fitting)
            case = _collect_message_evidence(commits, pattern, ignored.shas)
        unread = [sha for sha, _ in repository.rev_list(tip) if sha not in case.commits]
    case.skipped.update(ignored.unread)
    return case, unread


def _collect_message_evidence(
    commits: Sequence[Commit], pattern: str, ignored: frozenset[str]
) -> _MessageEvidence:
    """The evidence, which keeps the commits without their messages."""
    by_sha = {commit.sha: commit for commit in commits}
    texts = {c.sha: f"{c.subject}\n{c.body}" for c in commits if len(c.parents) < 2}
    habits, counts, kinds = fix_detection.classify_messages(texts.values(), pattern)
    unused = {
        kind: counts[kind]
        for kind in fix_detection.EVIDENCE_KINDS
        if kind in counts and kind not in habits.kinds
    }
    reverts = find_reverts(commits)
    standing = find_standing_reverts(reverts)
    skipped: Counter[str] = Counter()
    found: dict[str, str] = {}
    for sha, kind in zip(texts, kinds, strict=True):
        if not kind or sha in ignored:
            continue
        if sha in reverts and sha not in standing:
            skipped["reverted or reapplied"] += 1
        elif not _has_plausible_date(by_sha[sha]):
            skipped["implausible date"] += 1
        else:
            found[sha] = kind
    find_sha = ShaResolver(commits)
    named = {
        sha: find_sha.resolve_prefixes(fix_detection.parse_fixes_trailers(texts[sha]))
        for sha, kind in found.items()
        if kind == "trailer"
    }
    named |= {sha: reverts[sha].commits for sha in found if sha in reverts}
    ours = frozenset(ignored.intersection(by_sha))
    bare = {sha: replace_fields(commit, subject="", body="") for sha, commit in by_sha.items()}
    return _MessageEvidence(
        bare, found, {k: v for k, v in named.items() if v}, reverts, ours, skipped, unused
    )


def _has_plausible_date(commit: Commit) -> bool:
    return _EARLIEST_DATE <= commit.commit_time <= time.time() + DAY_SECONDS


class _BugTracer:
    """Collects the evidence against each commit while the history is replayed."""

    def __init__(self, case: _MessageEvidence, edits: Callable[[str], CommitEdit | None]) -> None:
        self.case = case
        self.edits = edits
        self.large: set[str] = set()
        self.evidence: dict[str, dict[str, set[tuple[str, int]]]] = {}
        self.passed: Counter[str] = Counter()
        self.traced = 0

    def process_step(self, step: ReplayStep, replay: BlameReplay) -> None:
        """Take the next commit; if it is a fix, trace the lines that it removes."""
        edit, sha = step.edit, step.commit.sha
        if edit and (edit.size[0] > LARGE_COMMIT_FILES or edit.size[1] > LARGE_COMMIT_LINES):
            self.large.add(sha)
        if sha not in self.case.fixes or edit is None:
            return
        self.passed.update(edit.passed)
        blamed = self._resolve_named_bugs(sha)
        found: set[str] = set()
        for bug, path, line in self._trace_suspect_lines(step, edit, replay):
            if blamed is None or bug in blamed:
                self.evidence.setdefault(bug, {}).setdefault(sha, set()).add((path, line))
                self.traced += 1
                found.add(bug)
            else:
                self.passed["line: of a commit that the fix does not name"] += 1
        if blamed is None and (beside := self._trace_neighbours(step, edit, replay)):
            self.evidence.setdefault(beside, {}).setdefault(sha, set())
        branches = self.case.reverts[sha].branches if sha in self.case.reverts else frozenset()
        for bug in (blamed or set()) - (branches if found & branches else set()):
            self.evidence.setdefault(bug, {}).setdefault(sha, set())

    def _resolve_named_bugs(self, fix: str) -> set[str] | None:
        """The commits that a fix names and that may have been wrong; None where it names none."""
        if fix not in self.case.named:
            return None
        found = set()
        for bug in self.case.named[fix]:
            reason = self._explain_exclusion(bug, fix) or ("" if self._has_code(bug) else "no code")
            if reason:
                self.passed[f"commit: named, {reason}"] += 1
            else:
                found.add(bug)
        return found

    def _has_code(self, sha: str) -> bool:
        edit = self.edits(sha)
        return edit is not None and any(not classify_non_code(unquote_path(file.path)) for file in edit.files)

    def _trace_suspect_lines(
        self, step: ReplayStep, edit: CommitEdit, replay: BlameReplay
    ) -> Iterator[tuple[str, str, int]]:
        """Commit, path and line of the origin of each suspect line, unless its commit is excluded."""
        fix = step.commit.sha
        for old_path, numbers in edit.suspects.items():
            version = step.before.get_file(old_path)
            lines = version.lines if version and version.lines is not None else ()
            for number in numbers:
                origin = int(lines[number - 1]) if number <= len(lines) else -1
                if origin < 0:
                    self.passed["line: history not here"] += 1
                    continue
                bug, path, line = replay.locate_origin(origin)
                if reason := self._explain_exclusion(bug, fix):
                    self.passed[f"line: {reason}"] += 1
                else:
                    yield bug, unquote_path(path), line

    def _trace_neighbours(self, step: ReplayStep, edit: CommitEdit, replay: BlameReplay) -> str | None:
        """The newest commit that wrote a line beside what a fix adds, unless it is excluded.

        Only of a fix that removes no line that may have been wrong. None of these lines was wrong itself.
        """
        origins = [
            int(version.lines[number - 1])
            for path, numbers in edit.neighbours.items()
            if (version := step.before.get_file(path)) and version.lines is not None
            for number in numbers
            if number <= len(version.lines)
        ]
        bugs = {replay.locate_origin(origin)[0] for origin in origins if origin >= 0}
        if not bugs:
            return None
        newest = max(bugs, key=lambda sha: (self.case.commits[sha].commit_time, sha))
        reason = self._explain_exclusion(newest, step.commit.sha)
        self.passed.update([f"line: beside an addition, {reason}"] if reason else [])
        return None if reason else newest

    def _explain_exclusion(self, bug: str, fix: str) -> str:
        """Why a commit cannot be the cause of what a fix repairs; empty where it can."""
        if bug in self.case.ignored:
            return "ignored revision"
        if bug in self.large:
            return "large commit"
        found = self.case.commits[bug]
        if not _has_plausible_date(found):
            return "implausible date"
        return "dated after its fix" if found.commit_time > self.case.commits[fix].commit_time else ""

    def build_labels(self, commits: int, read: int, start: float, untraced: Sequence[str]) -> SzzLabels:
        """The labels, in the order in which they became known."""
        times = {sha: commit.commit_time for sha, commit in self.case.commits.items()}
        verdicts = sorted(
            (_make_bug_introducing_commit(sha, by, times) for sha, by in self.evidence.items()),
            key=lambda v: (v.known, v.sha),
        )
        days = sorted((verdict.known - times[verdict.sha]) / DAY_SECONDS for verdict in verdicts)
        lines, files, skipped = (_select_counts(kind, self.passed) for kind in ("line", "file", "commit"))
        report = TraceReport(
            commits,
            read,
            dict(Counter(self.case.fixes.values())),
            self.case.unused,
            self.traced,
            lines,
            files,
            {**self.case.skipped, **skipped},
            time.monotonic() - start,
            len(untraced),
        )
        by_sha = {verdict.sha: verdict for verdict in verdicts}
        return SzzLabels(by_sha, self.case.fixes, report, frozenset(untraced), tuple(days))


def _make_bug_introducing_commit(
    sha: str, by: Mapping[str, set[tuple[str, int]]], times: Mapping[str, int]
) -> BugIntroducingCommit:
    ordered = sorted(by, key=lambda fix: times[fix])
    return BugIntroducingCommit(
        sha, times[ordered[0]], tuple(ordered), tuple(sorted(set().union(*by.values())))
    )


def _select_counts(kind: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts whose reasons begin with a kind, without it, the most frequent first."""
    found = [(reason[len(kind) + 2 :], n) for reason, n in counts.items() if reason.startswith(f"{kind}: ")]
    return dict(sorted(found, key=lambda pair: -pair[1]))
