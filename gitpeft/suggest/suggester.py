"""Suggestions from a bundle: candidates from retrieval and generation, ordered by the reranker.

Nothing heavy is imported before the first request, and a bundle without a generative model never imports more
than numpy.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.render import TokenBudget
from gitpeft.diff.stored import shorten_change
from gitpeft.diff.subjects import clean_subject
from gitpeft.lazy import lazy_dataclass, lazy_pattern, replace_fields
from gitpeft.runtime.background import BackgroundTask
from gitpeft.suggest import reranker
from gitpeft.suggest.analogy import fill_slots, unpack_slots
from gitpeft.suggest.commit_notes import join_kinds
from gitpeft.suggest.descriptions import describe_change
from gitpeft.suggest.read_errors import explain_read_errors
from gitpeft.suggest.reranker import MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import (
    ANALOGY,
    DESCRIBED,
    GIVEN,
    RETRIEVED,
    DraftMessage,
    RerankingContext,
)
from gitpeft.suggest.stage_timer import StageTimer
from gitpeft.suggest.suggestion import Suggestion
from gitpeft.suggest.team_wording import MAX_SUBJECTS, NEWEST_OPENINGS, ExpectedPrefix, TeamWording

if TYPE_CHECKING:
    from gitpeft.runtime.helper import Helper
    from gitpeft.suggest.generator import MessageGenerator
    from gitpeft.suggest.retrieval import CommitIndex, Neighbour
    from gitpeft.suggest.terms import IndexEntry

BEAM_WIDTH = 4
NEIGHBOUR_COUNT = 10
"""Retrieved messages among the candidates."""

MAX_SCORED_MESSAGES = 10
"""Messages that the model did not generate and that may be offered whose likelihood it computes."""

DEFAULT_SUBJECT_LENGTH = 100
"""Longest message in characters, where style.json has no `subject_length`."""


_COPIED = ANALOGY, RETRIEVED
"""The origins of messages that are an earlier commit's."""

_STANDS_ALONE = lazy_pattern(
    r"(?:(?:release|version)\s+)?v?\d[\w.+-]*$|[^\w`'\"]|\S+?(?:\(.*?\))? ?:", re.IGNORECASE
)
"""A version, and what begins with a mark or a prefix of any form."""


@lazy_dataclass(frozen=True, slots=True)
class _Groundwork:
    """What is known about a change without the model: what candidates are judged by, and other drafts."""

    context: RerankingContext
    others: Sequence[DraftMessage]
    previous: str
    exemplars: "Sequence[Neighbour]"


def open_active_suggester(state_dir: Path, helper: "Helper | None" = None) -> "Suggester":
    """A suggester for the active bundle; GitpeftError when there is none or it is damaged.

    `helper` is a process of `suggest.model_files.load_helper`.
    """
    return Suggester(bundles.require_active_bundle(state_dir), helper=helper)


class Suggester:
    """Suggests messages with a bundle; the same request always gets the same answer.

    `timings` holds milliseconds: imports and index (of the first request); retrieve, draft (messages without
    the model), tokenizer, render, encode, decode, score, weigh and choose (of the last one). `best_score`
    (0..1) is that of the last request where all its messages were withheld for their scores, else None.
    """

    def __init__(
        self,
        bundle: Bundle,
        beams: int = BEAM_WIDTH,
        helper: "Helper | None" = None,
        weighs_all: bool = False,
    ) -> None:
        """GitpeftError when the bundle's manifest, reranker or style is damaged.

        With `weighs_all`, a model that can weigh does so with all candidates, for a reranker in the making.
        """
        self.bundle = bundle
        self._timer = StageTimer()
        self._beams = beams
        self._helper, self._weighs_all = helper, weighs_all
        self._reranker = Reranker.from_data(bundle.read_json(bundles.RERANKER_FILE), bundle.manifest.kind)
        with explain_read_errors("the manifest"):
            budget = TokenBudget(**bundle.manifest.budget)
        self._exemplar_count = budget.exemplars
        with explain_read_errors(bundles.STYLE_FILE):
            self._longest = _read_longest_subject(bundle)
        self._index: CommitIndex | None = None
        self._generator: MessageGenerator | None = None
        self.best_score: float | None = None

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by stage."""
        return self._timer.milliseconds

    def suggest(
        self,
        change: str,
        previous: str,
        n: int = 1,
        *,
        least: float | None = None,
        before: str | None = None,
        branch: str = "",
    ) -> list[Suggestion]:
        """At most `n` messages for a stored or compact change, best first; [] if none is good enough.

        `previous` is the author's previous subject, "" if there is none; `least` the score (0..1) that each
        message needs, None for what the model was found to need. If the index contains the commit `before`,
        only earlier commits are retrieved. Numbers and names may come from that of the `branch`.
        """
        candidates = self.collect_candidates(
            change, previous, generate=self.generates, before=before, branch=branch
        )
        return self._choose_best(candidates, n, least)

    def suggest_in_steps(
        self,
        change: str,
        previous: str,
        n: int = 1,
        *,
        least: float | None = None,
        branch: str = "",
        hurried: bool = False,
    ) -> Iterator[list[Suggestion]]:
        """What earlier messages alone give, while the model reads the change; then the same as `suggest`.

        Where the model has no part in the suggestions, these are the same, and there is one step. `hurried`,
        for somebody who waits, it reads less of a long change.
        """
        self._load_missing(self.generates)
        change = self._fit_form(change)
        neighbours = self._find_nearest(change)
        reading, exemplars = None, neighbours[: self._exemplar_count]
        if (generator := self._generator if self.generates else None) is not None:
            source = generator.render_source(change, previous, exemplars, hurried=hurried)
            reading = BackgroundTask(lambda: generator.encode_tokens(source))
            reading.wait(generator.loading_seconds)
        work = self._lay_groundwork(change, previous, neighbours, branch=branch)
        yield self._choose_best(self._build_candidates(work, []), n, least)
        if generator is not None and reading is not None:
            generator.import_sampling()
            prefixes = self._list_prefixes(work.context)
            drafts = generator.write_drafts(reading.get_result(), exemplars, prefixes)
            yield self._choose_best(self._build_candidates(work, drafts), n, least)

    def _choose_best(
        self, candidates: Sequence[MessageCandidate], n: int, least: float | None
    ) -> list[Suggestion]:
        ranked = self._reranker.rank_candidates(candidates, least)
        self.best_score = None if ranked else self._reranker.find_best_score(candidates, least)
        return [Suggestion(one.message, score, one.origin, one.like) for score, one in ranked[:n]]

    def index_recent_commits(self, since: "Sequence[IndexEntry]") -> None:
        """Add commits made after the model to its index, oldest first, in place of any added earlier."""
        from gitpeft.suggest.retrieval import CommitIndex

        self._load_missing(False)
        self._index = (self._index or CommitIndex.build([], [], [])).with_later_commits(since)

    def prepare(self) -> None:
        """Load now what the first request would load."""
        self._load_missing(self.generates)

    @property
    def generates(self) -> bool:
        """Whether the model has a part in what is suggested; else suggestions are earlier messages."""
        return self._reranker.mode != RETRIEVED and self._has_model

    def collect_candidates(
        self,
        change: str,
        previous: str,
        *,
        generate: bool = True,
        before: str | None = None,
        branch: str = "",
        given: Sequence[str] = (),
    ) -> list[MessageCandidate]:
        """All different candidates, generated ones first, then retrieved ones, each kind best first.

        Arguments as for `suggest`; without `generate` the model is neither loaded nor run. Last come those
        `given` messages that are not among the candidates, to be judged like these; they change nothing in
        the features of the others.
        """
        generate = generate and self._has_model
        self._load_missing(generate)
        change, end = self._fit_form(change), self._count_commits_before(before)
        neighbours = self._find_nearest(change, end)
        drafts: list[DraftMessage] = []
        work = self._lay_groundwork(change, previous, neighbours, end, branch)
        if generate and self._generator is not None:
            prefixes = self._list_prefixes(work.context)
            drafts = self._generator.generate_drafts(change, previous, work.exemplars, prefixes)
        return self._build_candidates(work, drafts, given)

    def _lay_groundwork(
        self,
        change: str,
        previous: str,
        neighbours: "Sequence[Neighbour]",
        end: int | None = None,
        branch: str = "",
    ) -> _Groundwork:
        with self._timer.measure("draft"):
            newest = self._index.list_newest(MAX_SUBJECTS, end) if self._index is not None else []
            recent, kinds = [subject for subject, _ in newest], [kinds for _, kinds in newest]
            context = RerankingContext(change, clean_subject(previous), recent, branch, kinds)
            if self._reranker.is_of_earlier_version:
                others = list(map(_draft_from_neighbour, neighbours))
            else:
                others = _collect_other_drafts(neighbours, context)
            return _Groundwork(context, others, previous, neighbours[: self._exemplar_count])

    def _list_prefixes(self, context: RerankingContext) -> Sequence[ExpectedPrefix]:
        """What messages of a strict team begin with; a model of an earlier version goes on as it did."""
        earlier = self._reranker.is_of_earlier_version
        return () if earlier else context.wording.expect_prefixes(join_kinds(context.view))

    def _build_candidates(
        self, work: _Groundwork, drafts: Sequence[DraftMessage], given: Sequence[str] = ()
    ) -> list[MessageCandidate]:
        """The candidates from the model's drafts, which come first, from all others, and those given."""
        others, earlier = work.others, self._reranker.is_of_earlier_version
        if not earlier:
            others = _complete_prefixes(others, drafts, work.context.wording)
        if drafts and self._generator is not None and self._generator.scores_cheaply and not earlier:
            others = self._score_offerable(others, work.context)
        with self._timer.measure("choose"):
            found = [*drafts, *others]
            build = partial(
                reranker.build_candidates, context=work.context, longest=self._longest, grounded=not earlier
            )
            candidates = build(found)
            if given:
                found += [DraftMessage(one, GIVEN, ()) for one in given]
                candidates += [one for one in build(found) if one.origin == GIVEN]
        if drafts and self._weighs:
            candidates = self._weigh_best(candidates, found, work)
        best = self._generator.best_prefix if drafts and self._generator is not None else ""
        if not best:
            return candidates
        replaced = self._replace_prefixes(
            [one for one in candidates if one.origin != GIVEN], best, work.context
        )
        told = {one.message for one in replaced}
        judged = (one for one in candidates if one.message in given and one.message not in told)
        return [*replaced, *(replace_fields(one, origin=GIVEN) for one in judged)]

    def _replace_prefixes(
        self, candidates: Sequence[MessageCandidate], best: str, context: RerankingContext
    ) -> list[MessageCandidate]:
        """The candidates with the `best` prefix in place of another of a strict team's, each message once.

        Their features stay, so that they are ranked by what they say; of those that become the same message
        the first by this rank is kept. What is too long or has a flaw with the prefix stays as it is.
        """
        found = []
        for one in candidates:
            message = context.wording.replace_prefix(one.message, best)
            changed = message != one.message and not one.flaw and len(message) <= self._longest
            if changed and not context.find_flaw(message, one.origin in _COPIED):
                one = replace_fields(one, message=message)
            found.append(one)
        if len({one.message for one in found}) < len(found):
            ranked = [one for _, one in self._reranker.rank_candidates(found, least=0.0)]
            first = {one.message: one for one in [*found[::-1], *ranked[::-1]]}
            found = [one for one in found if first[one.message] is one]
        return found

    @property
    def _weighs(self) -> bool:
        """Whether candidates are weighed: for a reranker that knows what to make of it, or in a trial."""
        able = self._generator is not None and self._generator.weighs
        return able and (self._reranker.marked or self._weighs_all)

    def _weigh_best(
        self, candidates: Sequence[MessageCandidate], drafts: Sequence[DraftMessage], work: _Groundwork
    ) -> list[MessageCandidate]:
        """The candidates, the first of them weighed by the model."""
        assert self._generator is not None
        best = self._reranker.list_fitting(candidates)
        by_text = {one.message: one for one in reversed(drafts)}
        most = len(best) if self._weighs_all else reranker.MAX_WEIGHED
        asked = [by_text[one.message] for one in best[:most]]
        probes = self._weighs_all or bool(self._reranker.probe.weights)
        weighed = self._generator.weigh_drafts(asked, work.previous, work.exemplars, probes=probes)
        return reranker.update_candidates(
            candidates, weighed, self._reranker.probe, keep_states=self._weighs_all
        )

    def _score_offerable(
        self, others: Sequence[DraftMessage], context: RerankingContext
    ) -> list[DraftMessage]:
        """The drafts, the first that may be offered scored by the model."""
        assert self._generator is not None
        fitting = [one for one in others if not context.find_flaw(one.message, one.origin in _COPIED)]
        scored = self._generator.score_drafts(fitting[:MAX_SCORED_MESSAGES])
        by_text = {(one.origin, one.message): one for one in scored}
        return [by_text.get((one.origin, one.message), one) for one in others]

    def compute_loss(self, change: str, previous: str, message: str, *, before: str | None = None) -> float:
        """The loss of a given message: its mean negative log-probability in nats per token, end included.

        Arguments as for `suggest`. The bundle must have a model.
        """
        self._load_missing(True)
        assert self._generator is not None, "this bundle only retrieves"
        change = self._fit_form(change)
        exemplars = self._find_nearest(change, self._count_commits_before(before))[: self._exemplar_count]
        encoded = self._generator.encode_source(change, previous, exemplars)
        return -self._generator.score_texts(encoded, [message])[0].mean

    def _fit_form(self, change: str) -> str:
        """The change in the form that the model was trained on: the compact one, unless it reads prompts."""
        return change if self.bundle.manifest.reads_prompts else shorten_change(change)

    def _count_commits_before(self, before: str | None) -> int | None:
        """How many commits of the index are older than `before`; None for all."""
        return self._index.find_position(before) if before and self._index is not None else None

    def _find_nearest(self, change: str, end: int | None = None) -> "list[Neighbour]":
        with self._timer.measure("retrieve"):
            if self._index is None:
                return []
            return self._index.find_nearest(change, max(self._exemplar_count, NEIGHBOUR_COUNT), end)

    # --- loading --------------------------------------------------------------------------------------------

    @property
    def _has_model(self) -> bool:
        return self.bundle.manifest.kind == "model"

    def _load_missing(self, generate: bool) -> None:
        """Import the libraries and load index and model, as far as that has not been done.

        While the libraries are imported, the model's files are read and hashed in the background, and nothing
        else: imports on two threads would wait for each other.
        """
        _set_environment()
        if generate and self._generator is None:
            self._generator = self._load_generator()
        elif "imports" not in self.timings:
            with self._timer.measure("imports"):
                import numpy  # noqa: F401
        has_index = any(name.startswith(f"{bundles.INDEX_FOLDER}/") for name in self.bundle.manifest.files)
        if self._index is None and has_index:
            with self._timer.measure("index"), explain_read_errors(bundles.INDEX_FOLDER):
                from gitpeft.suggest.retrieval import CommitIndex

                self._index = CommitIndex.load_from_bundle(self.bundle)

    def _load_generator(self) -> "MessageGenerator":
        from gitpeft.suggest import generator
        from gitpeft.suggest.model_files import ModelFiles

        files = ModelFiles(self.bundle, self._helper)
        with self._timer.measure("imports"):
            generator.import_libraries(with_tokenizer=self._helper is None)
        return generator.MessageGenerator(self.bundle, files, self._beams, self._timer)


def _read_longest_subject(bundle: Bundle) -> int:
    """The longest message in characters; ValueError when style.json does not hold a number."""
    length = bundle.read_json(bundles.STYLE_FILE).get("subject_length", DEFAULT_SUBJECT_LENGTH)
    if not isinstance(length, int | float | str):
        raise ValueError("subject_length is not a number")
    return int(length)


def _collect_other_drafts(neighbours: "Sequence[Neighbour]", context: RerankingContext) -> list[DraftMessage]:
    """Analogies, descriptions and retrieved messages."""
    subjects = [one.subject for one in neighbours]
    described = describe_change(context.view, context.wording, subjects)
    return [
        *_draft_analogies(neighbours, context),
        *(DraftMessage(text, DESCRIBED, ()) for text in described),
        *map(_draft_from_neighbour, neighbours),
    ]


def _complete_prefixes(
    others: Sequence[DraftMessage], generated: Sequence[DraftMessage], wording: TeamWording
) -> list[DraftMessage]:
    """The other drafts, those without a prefix with the one that most of the model's samples have.

    They stay as they are where the team is not strict or the model has no part, and so do a version alone,
    what has a prefix of another form, and a message of one of the newest commits: that is how a strict team
    writes such a message.
    """
    counts = Counter[str]()
    for one in generated:
        if prefix := wording.find_strict_prefix(one.message):
            counts[prefix] += max(1, one.samples)
    if not counts:
        return list(others)
    [(prefix, _)] = counts.most_common(1)
    return [
        one
        if _STANDS_ALONE.match(one.message) or (one.origin != DESCRIBED and one.age <= NEWEST_OPENINGS)
        else replace_fields(one, message=wording.add_prefix(one.message, prefix))
        for one in others
    ]


def _draft_analogies(neighbours: "Sequence[Neighbour]", context: RerankingContext) -> list[DraftMessage]:
    """The messages of the nearest commits about this change, the nearest first."""
    found: dict[str, DraftMessage] = {}
    for one in neighbours:
        try:
            slots = unpack_slots(one.slots)
        except ValueError:
            continue  # an index that was damaged, or made by a later version: its subjects still serve
        text = fill_slots(one.subject, slots, context.view)
        if text and text not in found:
            found[text] = DraftMessage(text, ANALOGY, (one.sha,), similarity=one.score, age=one.age)
    return list(found.values())


def _draft_from_neighbour(neighbour: "Neighbour") -> DraftMessage:
    return DraftMessage(
        neighbour.subject, RETRIEVED, (neighbour.sha,), similarity=neighbour.score, age=neighbour.age
    )


def _set_environment() -> None:
    """Set what libraries read when they are imported.

    numpy's BLAS would start a thread for each core, which takes a fifth of all start-up and is never used.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
