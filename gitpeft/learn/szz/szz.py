"""Which commits introduced bugs, and when that became known: hides SZZ, the tracing of fixed lines.

After Śliwerski, Zimmermann and Zeller (2005), with what later work found needful (Kim et al. 2006, da Costa
et al. 2017): comments, blank, moved and reformatted lines, large commits and impossible dates are left out,
and counted. A fix that names the commit that was wrong (a revert, a `Fixes:` trailer) is believed. Commits
are accused, never people.
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gitpeft.config import Config
from gitpeft.diff.patch import path_text
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.history import fix_detection
from gitpeft.learn.szz.blame import Replay, Step
from gitpeft.learn.szz.candidate_lines import aside
from gitpeft.learn.szz.edit_cache import Ledger
from gitpeft.learn.szz.edits import ONWARD, PRINTS, SUSPECTS, Edit
from gitpeft.risk.change_metrics import DAY

Listener = Callable[[str, float, str], None]

IGNORE_FILE = ".git-blame-ignore-revs"
ENOUGH = 20
"""Verdicts below which a quantile of the latency says nothing."""

LARGE_FILES, LARGE_LINES = 100, 10_000
"""A commit of more files or added lines is an import or a rewrite: it is not called the cause of a bug."""

_EPOCH = 631_152_000  # 1990-01-01, before which no version control dates its commits


@dataclass(frozen=True, slots=True)
class Verdict:
    """A commit that introduced a bug.

    `known` is when that came out: the commit time of its earliest fix, in Unix seconds. `fixes` are the ids
    of the fixes that traced to it, oldest first. `lines` are (path in that commit, 1-based line of its new
    file) that fixes later removed or changed; none where a fix only names the commit.
    """

    sha: str
    known: int
    fixes: tuple[str, ...]
    lines: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found and what was left out, and why.

    `commits` were looked at, `read` of them now (the rest was kept); `fixes` counts fixes by kind of evidence
    (see `history.fix_detection`), `unused` messages that have evidence of a kind that says nothing here;
    `traced` lines lead to a verdict. `lines`, `files` and `skipped` count what led to none, by reason: lines
    that fixes removed, files of fixes, and commits.
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


@dataclass(frozen=True, slots=True)
class Labels:
    """The verdicts by commit, the fixes with the kind of evidence for each, and the counts behind them."""

    verdicts: dict[str, Verdict]
    fixes: dict[str, str]
    report: Report
    _days: tuple[float, ...] = field(default=(), repr=False)

    def known_at(self, time: int) -> set[str]:
        """The commits that were known to be buggy at a moment (Unix seconds)."""
        return {sha for sha, verdict in self.verdicts.items() if verdict.known <= time}

    def latency(self, quantile: float) -> float | None:
        """Days from bug to first fix that this share of the verdicts did not exceed, interpolated linearly.

        None with fewer than `ENOUGH` verdicts.
        """
        if len(self._days) < ENOUGH:
            return None
        at = quantile * (len(self._days) - 1)
        low = min(int(at), len(self._days) - 2)
        return self._days[low] + (self._days[low + 1] - self._days[low]) * (at - low)


@dataclass(slots=True)
class _Case:
    """What the messages of a history say: its fixes with their kinds, and the commits that some name."""

    commits: dict[str, Commit]
    fixes: dict[str, str]
    named: dict[str, tuple[str, ...]]
    reverts: dict[str, tuple[str, ...]]
    ignored: frozenset[str]
    skipped: Counter[str]
    unused: dict[str, int]

    def details(self) -> dict[str, str]:
        """What is to be known of each commit beside the places that it changes."""
        found: dict[str, str] = defaultdict(str)
        for sha in self.ignored:
            found[sha] += ONWARD
        for sha in self.fixes:
            found[sha] += SUSPECTS
        for sha in {*self.reverts, *(target for targets in self.reverts.values() for target in targets)}:
            found[sha] += PRINTS if len(self.commits[sha].parents) < 2 else ""
        return dict(found)


def find(repository: Repository, tip: str, config: Config, listen: Listener) -> Labels:
    """Label the history that `tip` reaches; what was read is kept in the state directory for the next time.

    `listen` hears the step, the share that is done, and a few words. Raises GitpeftError when `tip` names no
    commit.
    """
    start = time.monotonic()
    listen("labels", 0.0, "messages")
    sha = repository.resolve(tip)
    commits = repository.messages(sha)
    case = _open_case(commits, config.fix_pattern, _ignored(repository, sha))
    with Ledger.open(repository.state_dir) as ledger:
        read, unread = ledger.read(
            repository,
            commits,
            case.details(),
            lambda n, of: listen("labels", 0.9 * n / max(1, of), f"{n:,} commits"),
        )
        case.skipped.update(unread)
        trial = _Trial(case, ledger.get)
        replay = Replay(commits, ledger.get, through=True, reverts=case.reverts)
        for step in replay:
            trial.hear(step, replay)
    labels = trial.close(len(commits), read, start)
    listen(
        "labels", 1.0, f"{len(labels.fixes):,} fixes, {len(labels.verdicts):,} commits that introduced bugs"
    )
    return labels


def _ignored(repository: Repository, tip: str) -> frozenset[str]:
    """The commits that the team wants passed over, as committed at the tip."""
    text = repository.file(tip, IGNORE_FILE).decode("utf-8", "replace")
    return frozenset(line.partition("#")[0].strip().lower() for line in text.splitlines())


def _open_case(commits: Sequence[Commit], pattern: str, ignored: frozenset[str]) -> _Case:
    by_sha = {commit.sha: commit for commit in commits}
    texts = {c.sha: f"{c.subject}\n{c.body}" for c in commits if len(c.parents) < 2}
    habits, counts = fix_detection.learn(texts.values(), pattern)
    unused = {
        kind: counts[kind] for kind in fix_detection.KINDS if kind in counts and kind not in habits.kinds
    }
    reverts = _reverts(commits, texts)
    standing = _standing(reverts)
    skipped: Counter[str] = Counter()
    found: dict[str, str] = {}
    for sha, text in texts.items():
        kind = fix_detection.is_fix(text, habits)
        if not kind or sha in ignored:
            continue
        if sha in reverts and sha not in standing:
            skipped["reverted or reapplied"] += 1
        elif not _plausible(by_sha[sha]):
            skipped["implausible date"] += 1
        else:
            found[sha] = kind
    find_sha = _Finder(commits)
    named = {
        sha: find_sha.all(fix_detection.named(texts[sha])) for sha, kind in found.items() if kind == "trailer"
    }
    named |= {sha: reverts[sha] for sha in found if sha in reverts}
    ours = frozenset(ignored.intersection(by_sha))
    return _Case(by_sha, found, {k: v for k, v in named.items() if v}, reverts, ours, skipped, unused)


class _Finder:
    """Full ids of commits from short ones."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self.shas = sorted(commit.sha for commit in commits)

    def one(self, start: str) -> str | None:
        """The commit whose id begins so, None where there is none or several."""
        at = bisect_left(self.shas, start)
        found = [sha for sha in self.shas[at : at + 2] if sha.startswith(start)]
        return found[0] if len(found) == 1 else None

    def all(self, starts: Sequence[str]) -> tuple[str, ...]:
        """Those that are here, each once."""
        return tuple(dict.fromkeys(sha for start in starts if (sha := self.one(start))))


def _reverts(commits: Sequence[Commit], texts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """For each revert the earlier commits that it takes back: by their ids, or else by the subject it quotes.

    That of a merge names no single commit, and that of an unknown one none: these are left to the lines.
    """
    finder = _Finder(commits)
    seen: set[str] = set()
    latest: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    for commit in commits:
        text = texts.get(commit.sha, "")
        starts, subject = fix_detection.reverted(text), fix_detection.reverted_subject(text)
        targets = finder.all(starts) or ((latest[subject],) if subject in latest else ())
        if starts or subject:
            found[commit.sha] = tuple(sha for sha in targets if sha in seen and sha in texts)
        seen.add(commit.sha)
        latest[commit.subject] = commit.sha
    return found


def _standing(reverts: dict[str, tuple[str, ...]]) -> set[str]:
    """The reverts that take something back for good: not taken back themselves, and not of a revert.

    `reverts` is in the order of history; a later one decides over an earlier one, so the newest come first.
    """
    undone: set[str] = set()
    standing: set[str] = set()
    for sha in reversed(reverts):
        if sha in undone:
            continue
        again = [target for target in reverts[sha] if target in reverts]
        undone.update(again)
        if not again or len(again) < len(reverts[sha]):
            standing.add(sha)
    return standing


def _plausible(commit: Commit) -> bool:
    return _EPOCH <= commit.commit_time <= time.time() + DAY


class _Trial:
    """Collects what speaks against each commit while the history is replayed."""

    def __init__(self, case: _Case, edits: Callable[[str], Edit | None]) -> None:
        self.case = case
        self.edits = edits
        self.large: set[str] = set()
        self.evidence: dict[str, dict[str, set[tuple[str, int]]]] = {}
        self.passed: Counter[str] = Counter()
        self.traced = 0

    def hear(self, step: Step, replay: Replay) -> None:
        """Take the next commit; if it is a fix, trace the lines that it removes."""
        edit, sha = step.edit, step.commit.sha
        if edit and (edit.size[0] > LARGE_FILES or edit.size[1] > LARGE_LINES):
            self.large.add(sha)
        if sha not in self.case.fixes or edit is None:
            return
        self.passed.update(edit.passed)
        blamed = self._named(sha)
        for bug, path, line in self._origins(step, edit, replay):
            if blamed is None or bug in blamed:
                self.evidence.setdefault(bug, {}).setdefault(sha, set()).add((path, line))
                self.traced += 1
            else:
                self.passed["line: of a commit that the fix does not name"] += 1
        for bug in blamed or ():
            self.evidence.setdefault(bug, {}).setdefault(sha, set())

    def _named(self, fix: str) -> set[str] | None:
        """The commits that a fix names and that may have been wrong; None where it names none."""
        if fix not in self.case.named:
            return None
        found = set()
        for bug in self.case.named[fix]:
            reason = self._excuse(bug, fix) or ("" if self._has_code(bug) else "no code")
            if reason:
                self.passed[f"commit: named, {reason}"] += 1
            else:
                found.add(bug)
        return found

    def _has_code(self, sha: str) -> bool:
        edit = self.edits(sha)
        return edit is not None and any(not aside(path_text(file.path)) for file in edit.files)

    def _origins(self, step: Step, edit: Edit, replay: Replay) -> Iterator[tuple[str, str, int]]:
        """Commit, path and line of the origin of each suspect line whose commit has no excuse."""
        fix = step.commit.sha
        for old_path, numbers in edit.suspects.items():
            version = step.before.get(old_path)
            lines = version.lines if version and version.lines is not None else ()
            for number in numbers:
                origin = int(lines[number - 1]) if number <= len(lines) else -1
                if origin < 0:
                    self.passed["line: history not here"] += 1
                    continue
                bug, path, line = replay.owner(origin)
                if reason := self._excuse(bug, fix):
                    self.passed[f"line: {reason}"] += 1
                else:
                    yield bug, path_text(path), line

    def _excuse(self, bug: str, fix: str) -> str:
        """Why a commit cannot be the cause of what a fix repairs; empty where it can."""
        if bug in self.case.ignored:
            return "ignored revision"
        if bug in self.large:
            return "large commit"
        found = self.case.commits[bug]
        if not _plausible(found):
            return "implausible date"
        return "dated after its fix" if found.commit_time > self.case.commits[fix].commit_time else ""

    def close(self, commits: int, read: int, start: float) -> Labels:
        """The verdicts, in the order of when they became known."""
        times = {sha: commit.commit_time for sha, commit in self.case.commits.items()}
        verdicts = sorted(
            (_verdict(sha, by, times) for sha, by in self.evidence.items()), key=lambda v: (v.known, v.sha)
        )
        days = sorted((verdict.known - times[verdict.sha]) / DAY for verdict in verdicts)
        lines, files, skipped = (_under(kind, self.passed) for kind in ("line", "file", "commit"))
        report = Report(
            commits,
            read,
            dict(Counter(self.case.fixes.values())),
            self.case.unused,
            self.traced,
            lines,
            files,
            {**self.case.skipped, **skipped},
            time.monotonic() - start,
        )
        return Labels({verdict.sha: verdict for verdict in verdicts}, self.case.fixes, report, tuple(days))


def _verdict(sha: str, by: Mapping[str, set[tuple[str, int]]], times: Mapping[str, int]) -> Verdict:
    ordered = sorted(by, key=lambda fix: times[fix])
    return Verdict(sha, times[ordered[0]], tuple(ordered), tuple(sorted(set().union(*by.values()))))


def _under(kind: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts whose reasons begin with a kind, without it, the most frequent first."""
    found = [(reason[len(kind) + 2 :], n) for reason, n in counts.items() if reason.startswith(f"{kind}: ")]
    return dict(sorted(found, key=lambda pair: -pair[1]))
