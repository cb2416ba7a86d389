"""Suggestions from a tiny exported model in a bundle, and from a bundle that only retrieves."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.diff.patch import parse_patch
from gitpeft.diff.prompt import PROMPT_BUDGET
from gitpeft.diff.stored import store_change
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks.doctor import examine_repository
from gitpeft.runtime.onnx_model import EncodedSource
from gitpeft.suggest import suggester as suggesting
from gitpeft.suggest.generator import MessageGenerator
from gitpeft.suggest.reranker import MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import (
    ANALOGY,
    DESCRIBED,
    GENERATED,
    GIVEN,
    RERANKER_FEATURES,
    RETRIEVED,
    DraftMessage,
    RerankingContext,
)
from gitpeft.suggest.suggester import Suggester, open_active_suggester
from gitpeft.suggest.suggestion import Suggestion
from gitpeft.suggest.team_wording import ExpectedPrefix, TeamWording, find_opening
from gitpeft.suggest.terms import IndexEntry, extract_terms, pack_terms
from tests.support import tinymodel
from tests.support.gitrepo import Repo

CHANGE, PREVIOUS = tinymodel.CHANGES[1], "fix typo in readme"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> Any:
    return tinymodel.taught(tinymodel.pointer_t5(), tinymodel.pairs(8))


@pytest.fixture(scope="module")
def ready(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with an active model, for tests that change nothing in it."""
    state = tmp_path_factory.mktemp("state")
    tinymodel.bundle(state, model)
    return state


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with an active model that reads prompts."""
    state = tmp_path_factory.mktemp("state")
    tinymodel.bundle(state, tinymodel.causal(), budget=asdict(PROMPT_BUDGET))
    return state


@pytest.fixture
def state(ready: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(ready, tmp_path / "state"))


def test_from_model_to_suggestion(ready: Path) -> None:
    suggester = open_active_suggester(ready)
    found = suggester.collect_candidates(CHANGE, PREVIOUS)
    assert {"generated", "retrieved"} <= {one.origin for one in found}
    assert next(one.message for one in found if one.origin == "retrieved") == "cache: drop stale entries"
    assert all(one.mean < 0 for one in found if one.origin == "generated")
    scored = {one.get_feature("is_scored") for one in found if one.origin != "generated" and not one.flaw}
    assert scored == {1.0}, "the model scores every message that may be offered"
    offered = suggester.suggest(CHANGE, PREVIOUS, 3)
    assert 1 <= len(offered) <= 3 and all(isinstance(one, Suggestion) for one in offered)
    assert all(
        0 <= one.score <= 1 and one.message and set(one.like) <= set(tinymodel.SHAS) for one in offered
    )
    stages = {"imports", "index", "retrieve", "draft", "tokenizer", "render", "encode", "decode", "choose"}
    assert stages <= suggester.timings.keys() and min(suggester.timings.values()) >= 0


def test_the_time_of_imports_is_measured_once(ready: Path) -> None:
    suggester = open_active_suggester(ready)
    suggester.prepare()
    suggester.timings["imports"] = 99.0
    suggester.suggest(CHANGE, PREVIOUS)
    assert suggester.timings["imports"] == 99.0


def test_the_loss_of_a_message_is_its_negative_score(ready: Path) -> None:
    suggester = open_active_suggester(ready)
    change = tinymodel.CHANGES[0]
    found = suggester.collect_candidates(change, "cho")
    earlier = [one.message for one in found if one.origin == "retrieved"]
    assert earlier
    generator = suggester._generator
    assert generator is not None
    encoded = generator.encode_source(change, "cho", suggester._find_nearest(change, None)[:3])
    together = generator.score_texts(encoded, earlier)
    for message, scored in zip(earlier, together, strict=True):
        loss = suggester.compute_loss(change, "cho", message)
        assert loss == pytest.approx(-scored.mean, rel=0.01), "int8 sees the batch"
    other = suggester.compute_loss(change, "cho", earlier[0], before=tinymodel.SHAS[1])
    assert other > 0 and other != pytest.approx(suggester.compute_loss(change, "cho", earlier[0]))
    near = []
    for asked in tinymodel.CHANGES:
        exemplars = suggester._find_nearest(asked, None)[:3]
        for draft in generator.generate_drafts(asked, "", exemplars):
            loss = suggester.compute_loss(asked, "", draft.message)
            near.append(draft.finished and loss == pytest.approx(-draft.mean, rel=0.02))
    assert any(near), "a text may be encoded with other tokens than it was generated with, but not always"


def test_the_newest_subjects_determine_the_usual_openings(ready: Path) -> None:
    """Those of the index and of later commits, and only those before a given commit."""
    suggester = open_active_suggester(ready)

    def opening(**options: Any) -> set[float]:
        found = suggester.collect_candidates(CHANGE, "", **options)
        return {one.get_feature("opening") for one in found if one.message == "cache: drop stale entries"}

    assert opening() == {math.log1p(1)}
    suggester.index_recent_commits([IndexEntry("f" * 40, "cache: wait", pack_terms(extract_terms(CHANGE)))])
    assert opening() == {math.log1p(2)}
    ages = [
        one.get_feature("age")
        for one in suggester.collect_candidates(CHANGE, "")
        if one.message == "cache: wait"
    ]
    assert ages == [math.log1p(1)]
    assert opening(before=tinymodel.SHAS[2]) == {math.log1p(1)}


def test_the_same_request_has_the_same_answer(ready: Path) -> None:
    first = open_active_suggester(ready)
    assert first.collect_candidates(CHANGE, PREVIOUS) == first.collect_candidates(CHANGE, PREVIOUS)
    assert open_active_suggester(ready).suggest(CHANGE, PREVIOUS, 5) == first.suggest(CHANGE, PREVIOUS, 5)


def test_only_commits_before_a_given_one_are_retrieved(ready: Path) -> None:
    found = open_active_suggester(ready).collect_candidates(CHANGE, "", before=tinymodel.SHAS[1])
    assert [one.like for one in found if one.origin == "retrieved"] == [(tinymodel.SHAS[0],)]


def test_an_unseen_change_and_an_empty_one(ready: Path) -> None:
    suggester = open_active_suggester(ready)
    assert any(
        one.origin == "generated" for one in suggester.collect_candidates("Anew/x.bin +0 -0 (binary)", "")
    )
    assert isinstance(suggester.suggest("", "", 1), list)


def test_more_beams_find_more(ready: Path) -> None:
    bundle = bundles.open_active_bundle(ready)
    assert bundle is not None
    few, many = (
        [one for one in Suggester(bundle, beams).collect_candidates(CHANGE, "") if one.origin == "generated"]
        for beams in (1, 4)
    )
    assert len(few) == 1 < len(many)


def test_a_reranker_that_only_retrieves_does_not_run_the_model(tmp_path: Path, model: Any) -> None:
    tinymodel.bundle(tmp_path, model, {"mode": "retrieved"})
    suggester = open_active_suggester(tmp_path)
    [best] = suggester.suggest(CHANGE, PREVIOUS)
    assert (best.message, best.origin) == ("cache: drop stale entries", "retrieved")
    assert "encode" not in suggester.timings
    assert any(one.origin == "generated" for one in suggester.collect_candidates(CHANGE, PREVIOUS))


def test_earlier_messages_are_there_before_the_model(ready: Path) -> None:
    """They are reranked among themselves; then comes the same answer as in one step."""
    model = open_active_suggester(ready)
    assert model.generates
    steps = model.suggest_in_steps(CHANGE, "", 3)
    found = next(steps)
    assert found
    assert "generated" not in {one.origin for one in found}
    assert "decode" not in model.timings
    assert list(steps) == [open_active_suggester(ready).suggest(CHANGE, "", 3)]
    assert list(model.suggest_in_steps(CHANGE, "", 3, least=1.01)) == [[], []]


@pytest.mark.parametrize(("lines", "hurried", "length"), [(99, False, 512), (99, True, 352), (3, True, None)])
def test_a_prompt_for_somebody_who_waits_is_shorter(
    prompted: Path, monkeypatch: pytest.MonkeyPatch, lines: int, hurried: bool, length: int | None
) -> None:
    """Of a long change; a short one is read whole, and gets the same answer as from somebody with time."""
    read, encode = [], MessageGenerator.encode_tokens

    def note_length(self: MessageGenerator, source: Sequence[int]) -> EncodedSource:
        read.append(len(source))
        return encode(self, source)

    monkeypatch.setattr(MessageGenerator, "encode_tokens", note_length)
    added = "".join(f"+value_{number} = compute({number})\n" for number in range(lines))
    start = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n"
    patch = f"{start}@@ -0,0 +1,{lines} @@\n{added}"
    change, suggester = store_change(parse_patch(patch.encode())), open_active_suggester(prompted)
    found = list(suggester.suggest_in_steps(change, "", 3, hurried=hurried))
    if length is None:
        assert found[-1] == suggester.suggest(change, "", 3) and read[0] == read[1] < 352
    else:
        assert length - 60 < read[0] < length


def test_in_a_strict_team_all_messages_get_the_prefix_of_the_models() -> None:
    """Those of others, that is: the model was led to write its own with one."""
    wording = TeamWording(["fix: a", "feat(x): b"] * 30)
    generated = [
        DraftMessage("fix: it", GENERATED, (), samples=2),
        DraftMessage("feat(x): it", GENERATED, (), samples=3),
        DraftMessage("Repair it", GENERATED, (), samples=3),
    ]
    others = [
        DraftMessage("Add a cache", DESCRIBED, ()),
        DraftMessage("docs: all", DESCRIBED, ()),
        DraftMessage("Update it", RETRIEVED, ("a",), age=300),
        DraftMessage("Update all", RETRIEVED, ("b",), age=3),
        DraftMessage("Release v1.2.3", ANALOGY, ("c",), age=300),
        DraftMessage(":bug: repair it", RETRIEVED, ("d",), age=300),
        DraftMessage("GitHub cache", RETRIEVED, ("e",), age=51),
        DraftMessage("GitHub caches", RETRIEVED, ("f",), age=50),
    ]
    found = suggesting._complete_prefixes(others, generated, wording)
    assert [one.message for one in found] == [
        "feat(x): add a cache", "docs: all", "feat(x): update it", "Update all", "Release v1.2.3",
        ":bug: repair it", "feat(x): GitHub cache", "GitHub caches",
    ]  # fmt: skip
    assert [one.like for one in found] == [one.like for one in others]
    assert suggesting._complete_prefixes(others, [], wording) == others
    assert suggesting._complete_prefixes(others, generated, TeamWording(["a", "b"])) == others


def test_the_model_is_told_how_a_strict_team_begins(prompted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both ways in which it is asked."""
    told = []
    write = MessageGenerator.write_drafts

    def note(self: Any, encoded: Any, exemplars: Any, prefixes: Any = ()) -> Any:
        told.append(prefixes)
        return write(self, encoded, exemplars, prefixes)

    monkeypatch.setattr(MessageGenerator, "write_drafts", note)
    monkeypatch.setattr(TeamWording, "strict_prefixes", ("fix: ", "feat(x): "))
    monkeypatch.setattr(TeamWording, "prefixes", Counter({"fix: ": 3, "feat(x): ": 2}))
    one = open_active_suggester(prompted)
    first = one.suggest(CHANGE, PREVIOUS, 3, least=0)
    assert list(one.suggest_in_steps(CHANGE, PREVIOUS, 3, least=0))[-1] == first
    expected = [ExpectedPrefix("fix: ", 3), ExpectedPrefix("feat(x): ", 2)]
    assert told == [expected] * 2
    generator = one._generator
    assert generator is not None
    [fix, feat], known = generator._encode_prefixes([*expected, ExpectedPrefix("feat(y): ", 1, 2.0)])
    codec = generator._codec.get_result()
    assert codec.decode(fix) == "fix:" and codec.decode(feat).startswith("feat(")
    assert [codec.decode(one.ids) for one in known] == ["fix:", "feat(x):", "feat(y):"]
    assert [(one.frequency, one.lift) for one in known] == [(3, 1.0), (2, 1.0), (1, 2.0)]


def test_suggestions_have_the_prefix_that_fits_best(prompted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix that the team writes for such files is preferred, whatever a model that knows nothing says."""
    monkeypatch.setattr(TeamWording, "openings", ("fix:", "feat(", "docs:"))
    monkeypatch.setattr(TeamWording, "prefixes", Counter({"fix: ": 3, "feat(x): ": 2, "docs: ": 1}))
    said = ["fix: it", "feat(x): all", "docs: it", "it"]
    monkeypatch.setattr(
        suggesting, "_collect_other_drafts", lambda *_: [DraftMessage(one, RETRIEVED, ()) for one in said]
    )
    for best in ("docs: ", "feat(x): "):
        lifts = {"fix:": 1.0, "feat(": 1.0, "docs:": 1.0, find_opening(best): 1e9}
        monkeypatch.setattr(TeamWording, "_compute_lifts", lambda *_, lifts=lifts: lifts)
        found = open_active_suggester(prompted).collect_candidates(CHANGE, "", given=["fix: given"])
        strict = [one for one in found if find_opening(one.message) and not one.flaw]
        assert {one.message.startswith(best) for one in strict if one.origin != GIVEN} == {True}
        texts = [one.message for one in found]
        assert texts.count(f"{best}it") == 1 and {f"{best}all", "fix: given"} <= set(texts)


def make_features(first: float = 0.0) -> tuple[float, ...]:
    return (first, *(0.0 for _ in RERANKER_FEATURES[1:]))


def test_of_messages_that_become_the_same_the_best_is_kept(
    prompted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wording = TeamWording(["fix: a", "docs: b"] * 30)
    context = RerankingContext(" docs/a.md +1 -1\n#docs/a.md\n@\n-an size\n+a size", recent=wording.subjects)
    candidates = [
        MessageCandidate("docs: repair size", GENERATED, (), make_features(1), "not finished"),
        MessageCandidate("docs: repair the size", GENERATED, (), make_features(2)),
        MessageCandidate("fix: repair size", GENERATED, (), make_features(3)),
        MessageCandidate("fix: repair the size", GENERATED, (), make_features(4)),
    ]
    monkeypatch.setattr(Reranker, "score_candidate", lambda _, one: one.features[0] / 10)
    monkeypatch.setattr(
        Reranker,
        "list_fitting",
        lambda _, found: sorted((o for o in found if not o.flaw), key=lambda o: -o.features[0]),
    )
    found = open_active_suggester(prompted)._replace_prefixes(candidates, "docs: ", context)
    assert [(one.message, one.features[0]) for one in found] == [
        ("docs: repair size", 3.0),
        ("docs: repair the size", 4.0),
    ]


def test_what_was_given_is_judged_as_it_was_given(prompted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is a candidate of which the prefix is replaced, or one becomes what was given."""
    monkeypatch.setattr(TeamWording, "openings", ("fix:", "docs:"))
    monkeypatch.setattr(TeamWording, "prefixes", Counter({"fix: ": 3, "docs: ": 1}))
    monkeypatch.setattr(TeamWording, "_compute_lifts", lambda *_: {"fix:": 1.0, "docs:": 1e9})
    drafts = [DraftMessage("fix: it", RETRIEVED, ()), DraftMessage("fix: all", RETRIEVED, ())]
    monkeypatch.setattr(suggesting, "_collect_other_drafts", lambda *_: drafts)
    asked = open_active_suggester(prompted)
    found = asked.collect_candidates(CHANGE, "", given=["fix: it", "docs: all", "fix: other"])
    texts = {one.message: one.origin for one in found}
    assert len(texts) == len(found) and texts["docs: it"] == texts["docs: all"] == RETRIEVED
    assert texts["fix: it"] == texts["fix: other"] == GIVEN and found[-1].origin == GIVEN


def test_a_prefix_is_replaced_unless_the_message_is_spoilt_by_it(prompted: Path) -> None:
    wording = TeamWording(["fix: a", "docs: b"] * 30)
    suggester = open_active_suggester(prompted)
    long = "fix: " + "x" * (suggester._longest - 5)
    texts = ["fix: add a cache", "fix: repair it", "docs: repair it", long]
    candidates = [
        *(MessageCandidate(text, GENERATED, (), make_features()) for text in texts),
        MessageCandidate("fix: wrong", GENERATED, (), make_features(), "a flaw"),
    ]
    context = RerankingContext(" docs/a.md +0 -9\n#docs/a.md\n@\n-what it does", recent=wording.subjects)
    assert context.find_flaw("docs: add a cache", False), "a verb that is not what the change does"
    found = suggester._replace_prefixes(candidates, "docs: ", context)
    assert [one.message for one in found] == [
        "fix: add a cache",
        "docs: repair it",
        long,
        "fix: wrong",
    ]


def test_there_is_one_step_where_the_model_has_no_part(tmp_path: Path, model: Any) -> None:
    tinymodel.bundle(tmp_path, model, {"mode": "retrieved"})
    suggester = open_active_suggester(tmp_path)
    assert list(suggester.suggest_in_steps(CHANGE, PREVIOUS)) == [suggester.suggest(CHANGE, PREVIOUS)]
    assert "encode" not in suggester.timings


def test_each_message_needs_the_least_score(ready: Path) -> None:
    suggester = open_active_suggester(ready)
    every = suggester.suggest(CHANGE, PREVIOUS, 9)
    middle = sorted(one.score for one in every)[len(every) // 2]
    some = suggester.suggest(CHANGE, PREVIOUS, 9, least=middle)
    assert some == [one for one in every if one.score >= middle] != every
    assert suggester.suggest(CHANGE, PREVIOUS, 9, least=1.01) == []


def test_a_reranker_of_another_version_is_replaced(tmp_path: Path, model: Any, repo: Repo) -> None:
    """After an upgrade of gitpeft the hook still works, and `gitpeft doctor` says what to do."""
    state = Repository.open(repo.path).state_dir
    tinymodel.bundle(state, model, {"mode": "chooser", "features": ["unheard_of"], "weights": [1.0]})
    assert open_active_suggester(state).suggest(CHANGE, PREVIOUS)
    assert [
        one.remedy for one in examine_repository(Repository.open(repo.path)) if one.code == "reranker"
    ] == ["run `gitpeft init` to fit it again"]


def test_nothing_is_offered_below_the_threshold(tmp_path: Path, model: Any) -> None:
    stored = {"mode": "chooser", "features": ["words"], "weights": [0.0], "bias": -1.0, "threshold": 0.5}
    tinymodel.bundle(tmp_path, model, stored)
    assert open_active_suggester(tmp_path).suggest(CHANGE, PREVIOUS, 3) == []


# --- retrieval only -----------------------------------------------------------------------------------------


def test_retrieval_only(tmp_path: Path) -> None:
    tinymodel.bundle(tmp_path)
    best, *_ = open_active_suggester(tmp_path).suggest(CHANGE, PREVIOUS, 3)
    assert best.message == "cache: drop stale entries"
    assert best.origin == "retrieved" and best.like == (tinymodel.SHAS[1],) and best.score > 0.9
    assert open_active_suggester(tmp_path).suggest("", "") == []


def test_retrieved_messages_are_reranked_without_a_model_too(tmp_path: Path) -> None:
    """Here by age, the newest first."""
    stored = {"mode": "chooser", "features": ["age"], "weights": [-1.0]}
    tinymodel.bundle(tmp_path, None, stored)
    found = open_active_suggester(tmp_path).suggest(tinymodel.CHANGES[0], PREVIOUS, 9)
    ages = [tinymodel.SHAS[::-1].index(one.like[0]) for one in found]
    assert len(found) > 1 and ages == sorted(ages)


def test_the_previous_subject_is_cleaned_as_in_training(ready: Path) -> None:
    """Without the number that a forge appends, because nobody can know the next one."""
    suggester = open_active_suggester(ready)
    texts = ("cache: drop", "cache: drop (#1234)")
    plain, numbered = (suggester.collect_candidates(CHANGE, text) for text in texts)
    assert plain == numbered and max(one.get_feature("previous") for one in plain) > 0.5


def test_retrieval_imports_neither_onnxruntime_nor_tokenizers(tmp_path: Path) -> None:
    tinymodel.bundle(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from gitpeft.suggest.suggester import open_active_suggester\n"
        f"found = open_active_suggester(Path({str(tmp_path)!r})).suggest({CHANGE!r}, '', 2)\n"
        "assert found\n"
        "print(*sorted({'onnxruntime', 'tokenizers', 'torch', 'tempfile', 'shutil'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- damage ----------------------------------------------------------------------------------------------


def test_no_model_yet(tmp_path: Path) -> None:
    with pytest.raises(GitpeftError, match="there is no model yet") as raised:
        open_active_suggester(tmp_path)
    assert raised.value.hint == "run `gitpeft init`"


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "tokenizer.json"])
def test_a_flipped_bit_in_a_file_that_is_loaded(state: Path, name: str) -> None:
    path = state / "models" / bundles.read_active_ids(state)[0] / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(GitpeftError, match=f"{name} of the model is damaged"):
        open_active_suggester(state).suggest(CHANGE, PREVIOUS)


def replace_in_bundle(state: Path, name: str, raw: bytes) -> None:
    """Replace a file of the active bundle, and its entry in the manifest."""
    old = state / "models" / bundles.read_active_ids(state)[0]
    (old / name).write_bytes(raw)
    data = json.loads((old / "manifest.json").read_bytes())
    data["files"][name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    text = json.dumps(data).encode()
    (old / "manifest.json").write_bytes(text)
    new = old.rename(old.with_name(hashlib.sha256(text).hexdigest()))
    (state / "current").write_text(f"{new.name}\n\n")


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("encoder.onnx", b"no model"),
        ("decoder.onnx", b""),
        ("tokenizer.json", b"{}"),
        ("index/rows.bin", b""),
        ("index/heads.bin", b""),
        ("index/places.bin", b""),
        ("index/checksums.bin", b"\0"),
        ("index/vocabulary.bin", b"\0\0\0\0"),
        ("chooser.json", b'{"mode": 3}'),
        ("chooser.json", b"[]"),
        ("chooser.json", b"{"),
        ("style.json", b'{"subject_length": "long"}'),
    ],
)
def test_a_malformed_file_is_named(state: Path, name: str, raw: bytes) -> None:
    replace_in_bundle(state, name, raw)
    with pytest.raises(GitpeftError) as raised:
        open_active_suggester(state).suggest(CHANGE, PREVIOUS)
    assert raised.value.hint and "\n" not in raised.value.message
