"""Fits the default reranker of a causal base: what its messages are worth beside those that are retrieved.

Public histories are asked about commits that the base's adapter has not learnt from. The candidates of each
history are kept in the work folder, so that a run that was stopped goes on where it was.
"""

import base64
import csv
import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.bundle.embedded import ONNX_FOLDER
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.history.step_share import tell_repository
from gitpeft.lazy import replace_fields
from gitpeft.learn.data.dataset import Example, build_example_index
from gitpeft.learn.evaluation import reranker, trial
from gitpeft.learn.evaluation.reranker import MARKED_COVERAGE, Marks, OfferOutcome
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.learn.export import parity
from gitpeft.learn.models import bases
from gitpeft.learn.pretraining import commit_pairs
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.suggest.reranker import MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import RERANKER_FEATURES

FOLDS = 5
"""The threshold is chosen on histories that the reranker was fitted without, in so many groups."""

_MARKS = ("0", "1", "2", "3")
_PARITY_EXAMPLES = 8
_REPORT_FILE = "reranker.json"


@dataclass(frozen=True, slots=True)
class RerankerRules:
    """On which histories (OWNER/NAME) a reranker is fitted: the newest commits of each are read, and of
    their newest fifth all that have marks are asked about, and others up to `commits`.

    `marks` is a file of readers' marks beside the recipe, "" for none; see `read_marks`.
    """

    repositories: tuple[str, ...]
    newest: int = 2500
    commits: int = 20
    seed: int = 1
    marks: str = ""


class MarkRow(NamedTuple):
    """A reader's mark, as a file of marks has it: fields separated by tabs, below their names."""

    repository: str
    commit: str
    mark: str
    message: str


def read_marks(path: Path) -> Marks:
    """Readers' marks by commit and message; GitpeftError where the file cannot be read."""
    return {(row.commit, row.message): int(row.mark) for row in read_mark_rows(path)}


def read_mark_rows(path: Path) -> list[MarkRow]:
    """The rows of a file of marks; GitpeftError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        found = [MarkRow(*(row[name] for name in MarkRow._fields)) for row in rows]
        if bad := [row.mark for row in found if row.mark not in _MARKS]:
            raise ValueError(f"{bad[0]!r} is no mark")
        if len({(row.commit, row.message) for row in found}) < len(found):
            raise ValueError("a message has two marks")
        return found
    except (OSError, KeyError, ValueError) as error:
        raise GitpeftError(
            f"the marks in {path} cannot be read: {error!r}", "take it from models/smol"
        ) from None


def fit_base_reranker(asker: "HistoryAsker", tips: Mapping[str, str], listen: ProgressListener) -> Reranker:
    """Write `onnx/chooser.json` into the base's folder, and a report beside it.

    `tips` are the commits to start from, by OWNER/NAME. GitpeftError where a clone is missing, or a history
    is one to measure with.
    """
    names = asker.rules.repositories
    _check_names(names, tips)
    asked: dict[str, list[ExampleCandidates]] = {}
    for number, name in enumerate(names):
        listen("choose", number / len(names), tell_repository(number, len(names), name))
        asked[name] = asker.ask_once(name, tips[name])
    marks = asker.marks
    fitted, found = fit_on_histories(list(asked.values()), marks)
    outcomes = [one.outcome for one in found]
    threshold = (
        reranker.choose_threshold(outcomes)
        if marks is None
        else reranker.find_threshold(outcomes, MARKED_COVERAGE)
    )
    fitted = replace_fields(fitted, threshold=threshold)
    folder = asker.base.folder / ONNX_FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / bundles.RERANKER_FILE, asdict(fitted))
    saved = 100 * sum(one.saving for one in outcomes) / max(1, len(outcomes))
    offers = reranker.summarise_outcomes(outcomes, fitted.threshold)
    counts = {name: len(found) for name, found in asked.items()}
    report = {"commits": counts, "offers": offers, "keystrokes_saved": saved}
    if marks is not None:
        report["marks"] = summarise_marks(found, marks, fitted.threshold or 0.0)
    write_json(folder / _REPORT_FILE, report)
    listen("choose", 1.0, f"{len(outcomes):,} commits, {saved:.1f}% of the keystrokes saved")
    return fitted


def _check_names(names: Sequence[str], tips: Mapping[str, str]) -> None:
    for name in names:
        if name in commit_pairs.HELD_OUT:
            raise GitpeftError(
                f"{name} is there to measure with, and is not learnt from", "take it out of the recipe"
            )
        if name not in tips:
            raise GitpeftError(f"the list of repositories has no {name}", "add it, with its commit")


class FoundOffer(NamedTuple):
    """What comes first for a commit (12 digits): the message, "" if there is none, and what it is worth."""

    commit: str
    message: str
    outcome: OfferOutcome


def fit_on_histories(
    asked: Sequence[Sequence[ExampleCandidates]], marks: Marks | None = None
) -> tuple[Reranker, list[FoundOffer]]:
    """A reranker fitted on all histories, and what comes first where it was fitted without a history."""
    found: list[FoundOffer] = []
    for fold in range(FOLDS):
        rest = [one for i, history in enumerate(asked) if i % FOLDS != fold for one in history]
        held = [one for history in asked[fold::FOLDS] for one in history]
        fitted = reranker.fit_reranker(rest, marks=marks)
        found += [
            FoundOffer(one.example.sha, one.offered_message(fitted, least=0.0), outcome)
            for one, outcome in zip(held, reranker.list_outcomes(held, fitted), strict=True)
        ]
    return reranker.fit_reranker([one for history in asked for one in history], marks=marks), found


def summarise_marks(
    found: Sequence[FoundOffer], marks: Marks, threshold: float
) -> dict[str, dict[str, float]]:
    """How many offers have a mark, and the shares of those with at least 2 and with 0: all, and those that
    reach the threshold."""
    parts = {"all": found, "offered": [one for one in found if one.outcome.score >= threshold]}
    told = {}
    for name, part in parts.items():
        known = [marks[key] for one in part if (key := (one.commit, one.message)) in marks]
        good = sum(mark >= 2 for mark in known)
        told[name] = {
            "n": len(known),
            "at_least_2": good / max(1, len(known)),
            "0": known.count(0) / max(1, len(known)),
        }
    return told


# --- asking -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HistoryAsker:
    """Asks a base about commits of the clones in `corpus`, but for those whose ids (12 digits) it has learnt
    from, and about all that have readers' `marks`: what a reader saw is judged by this model too, whether it
    proposes it or not, because the marks may be of messages that an earlier adapter wrote.

    Answers and exported files are kept in a folder of `work` for this base and adapter.
    """

    base: bases.BaseModel
    rules: RerankerRules
    corpus: Path
    learnt: frozenset[str]
    work: Path
    marks: Marks | None = None

    @property
    def folder(self) -> Path:
        """Where the answers are: those of an adapter say nothing of one that was trained further, and their
        features nothing to a reranker of other ones; other rules ask about other commits."""
        rules = [
            RERANKER_FEATURES,
            self.rules.newest,
            self.rules.commits,
            self.rules.seed,
            sorted(self.marks or ()),
        ]
        digest = hashlib.sha256(json.dumps(rules).encode()).hexdigest()
        return self.work / f"asked-{self.base.digest[:12]}-{digest[:6]}"

    def ask_once(self, name: str, tip: str) -> list[ExampleCandidates]:
        """The candidates for OWNER/NAME, from the work folder where they are there.

        GitpeftError where the clone is missing.
        """
        path = self.folder / f"{name.replace('/', '+')}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            clone = commit_pairs.open_clone(self.corpus, name)
            found = self._ask(commit_pairs.mine_examples(clone, tip, self.rules.newest))
            write_json(path, [_describe_answer(one) for one in found])
        return [_read_answer(one) for one in json.loads(path.read_text(encoding="utf-8"))]

    def _ask(self, examples: Sequence[Example]) -> list[ExampleCandidates]:
        files = self._export_once(examples)
        settings = json.loads((files / "settings.json").read_text(encoding="utf-8"))
        manifest = Manifest("model", "", budget=asdict(self.base.budget), settings=settings)
        newest = examples[len(examples) - len(examples) // 5 :]
        index = build_example_index(examples[: len(examples) - len(newest)])
        unseen = [one for one in newest if one.sha not in self.learnt]
        own = {one.sha: one.message for one in newest}
        marked = group_messages(self.marks or {}, own)
        chosen = self._choose_commits(unseen, marked.keys())
        with trial.open_trial_suggester(manifest, files, index, {}) as suggester:
            return trial.collect_candidates(suggester, chosen, since=newest, given=marked)

    def _choose_commits(self, unseen: Sequence[Example], seen: Container[str]) -> list[Example]:
        """Those that readers have seen, and others as long as there are fewer than the rules ask for; in
        their order."""
        marked = {one.sha for one in unseen if one.sha in seen}
        others = [one for one in unseen if one.sha not in marked]
        some = trial.sample_examples(others, max(0, self.rules.commits - len(marked)), self.rules.seed)
        chosen = marked | {one.sha for one in some}
        return [one for one in unseen if one.sha in chosen]

    def _export_once(self, examples: Sequence[Example]) -> Path:
        """The ONNX files of base and adapter; where torch makes them, the newest examples test them."""
        folder = self.folder / "onnx"
        if (folder / "settings.json").is_file():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        if ready := self.base.prepare_onnx_folder(folder):
            return ready
        pairs = [finetune.encode_example_for_base(self.base, one) for one in examples[-_PARITY_EXAMPLES:]]
        asked, wrapping = [(source, target[:-1]) for source, target in pairs], self.base.find_wrapping_ids()
        exported = parity.export_model(
            self.base.load(), self.base.tokenizer_path, folder, asked, wrapping=wrapping
        )
        write_json(folder / "settings.json", exported.settings)
        return folder


def group_messages(marks: Marks, own: Mapping[str, str]) -> dict[str, list[str]]:
    """The messages that have a mark, by commit, without the commit's own: no model proposed that."""
    found: dict[str, list[str]] = {}
    for commit, message in marks:
        found.setdefault(commit, [])
        if message != own.get(commit):
            found[commit].append(message)
    return found


def _describe_answer(one: ExampleCandidates) -> dict[str, object]:
    described: dict[str, object] = {"sha": one.example.sha, "message": one.example.message}
    for name, candidates in (("found", one.found), ("given", one.given)):
        described[name] = [asdict(c) | {"state": _pack_state(c.state)} for c in candidates]
    return described


def _pack_state(state: Sequence[float]) -> str:
    return base64.b64encode(np.array(state, np.float32).tobytes()).decode()


def _unpack_state(packed: str) -> tuple[float, ...]:
    return tuple(np.frombuffer(base64.b64decode(packed), np.float32).astype(float).tolist())


def _read_answer(stored: Mapping[str, Any]) -> ExampleCandidates:
    found, given = map(_read_candidates, (stored["found"], stored["given"]))
    return ExampleCandidates(Example("", stored["message"], "", (), stored["sha"]), found, given)


def _read_candidates(stored: Sequence[Mapping[str, Any]]) -> tuple[MessageCandidate, ...]:
    return tuple(
        MessageCandidate(
            **dict(one)
            | {"like": tuple(one["like"]), "features": tuple(one["features"])}
            | {"state": _unpack_state(one["state"])}
        )
        for one in stored
    )
