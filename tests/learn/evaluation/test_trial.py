"""The backtest: what is asked of a model, and with what in its index."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.lazy import replace_fields
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.evaluation import trial
from gitpeft.learn.evaluation.kept_answers import ANSWERS_FOLDER, AnswerFolder
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.reranker_features import GENERATED, RETRIEVED
from gitpeft.suggest.retrieval import CommitIndex
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import tinymodel
from tests.support.tinybase import example


def test_a_sample_keeps_its_order_and_its_seed() -> None:
    examples = [example(i) for i in range(50)]
    few = trial.sample_examples(examples, 7, seed=1)
    assert len(few) == 7 and few == sorted(few, key=lambda e: e.sha)
    assert few == trial.sample_examples(examples, 7, seed=1) != trial.sample_examples(examples, 7, seed=2)
    assert trial.sample_examples(examples, 50, seed=1) == examples


def test_the_baseline_is_the_nearest_earlier_message() -> None:
    index = CommitIndex.build(tinymodel.CHANGES, tinymodel.SUBJECTS, tinymodel.SHAS)
    other = Example("", "x", "", (), "f" * 40)
    assert trial.nearest_messages(index, [example(2), other]) == ["add test for parser", ""]


def test_kept_up_each_question_sees_what_came_before_it(tmp_path: Path) -> None:
    older, newer = [example(0, "old")], [example(i, f"new {i}") for i in (1, 1, 2, 1)]
    newer = [replace(one, sha=f"{i:040x}") for i, one in enumerate(newer, 100)]
    index = dataset.build_example_index(older)
    assert trial.nearest_messages(index, newer) == ["old"] * 4
    assert trial.nearest_messages(index, newer, newer) == ["old", "new 1", "new 1", "new 1"]
    tinymodel.bundle(tmp_path)
    asked_about = trial.collect_candidates(open_active_suggester(tmp_path), newer[1:], since=newer)
    seen = [{sha for found in one.found for sha in found.like} - set(tinymodel.SHAS) for one in asked_about]
    assert seen == [{newer[0].sha}, {newer[1].sha}, {newer[1].sha, newer[2].sha}]


def test_a_trial_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    files, scratch = tmp_path / "model", tmp_path / "scratch"
    files.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    settings: dict[str, Any] = tinymodel.fill(files, tinymodel.pointer_t5())
    index = dataset.build_example_index([example(i, tinymodel.SUBJECTS[i]) for i in range(4)])
    heard: list[tuple[int, int]] = []
    with trial.open_trial_suggester(Manifest("model", "", settings=settings), files, index, {}) as suggester:
        assert (next(scratch.iterdir()) / "models").is_dir()
        found = trial.collect_candidates(
            suggester, [example(i) for i in range(2)], lambda a, b: heard.append((a, b))
        )
    assert list(scratch.iterdir()) == [] and heard == [(1, 2), (2, 2)]
    assert {c.origin for one in found for c in one.found} >= {GENERATED, RETRIEVED}
    assert found[0].offered_message(Reranker(mode=RETRIEVED)) == tinymodel.SUBJECTS[0]
    assert trial.score_reranker(found, Reranker(mode=RETRIEVED))[0] < 100
    assert bundles.open_active_bundle(tmp_path) is None


def test_a_trial_without_time_asks_about_a_random_part_in_order(tmp_path: Path) -> None:
    newer = [replace(example(i % 4, f"new {i}"), sha=f"{i:040x}") for i in range(100, 112)]
    tinymodel.bundle(tmp_path)
    suggester = open_active_suggester(tmp_path)
    whole = trial.collect_candidates(suggester, newer, since=newer)
    unlimited = trial.collect_candidates(suggester, newer, since=newer, limit=trial.TrialLimit(12))
    assert unlimited == whole, "the order in which they are asked changes nothing"
    heard: list[tuple[int, int]] = []
    limit = trial.TrialLimit(12, seconds=0.0, least=5)
    part = trial.collect_candidates(
        suggester, newer, lambda a, b: heard.append((a, b)), since=newer, limit=limit
    )
    assert heard == [(n, 12) for n in range(1, 6)]
    assert [one.example.sha for one in part] == sorted(one.example.sha for one in part)
    by_sha = {one.example.sha: one for one in whole}
    assert all(by_sha[one.example.sha] == one for one in part)
    assert [one.example.sha for one in part] != [one.sha for one in newer[:5]], "not the oldest"


def test_what_was_answered_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = [replace(example(i % 4, f"new {i}"), sha=f"{i:040x}") for i in range(100, 112)]
    tinymodel.bundle(tmp_path)
    suggester = open_active_suggester(tmp_path)
    manifest = suggester.bundle.manifest

    heard: list[int] = []

    def ask(most: int, run: str = "run") -> tuple[list[ExampleCandidates], int]:
        answers, limit = AnswerFolder(tmp_path / run), trial.TrialLimit(12, seconds=0.0, least=most)
        heard.clear()
        found = trial.collect_candidates(
            suggester, newer, lambda done, _: heard.append(done), newer, limit, answers.open(manifest, newer)
        )
        return found, answers.added

    whole, added = ask(12)
    assert (len(whole), added) == (12, 12)
    assert ask(12) == (whole, 0) and heard == list(range(1, 13))
    first, added = ask(5, "short")
    assert (len(first), added) == (5, 5)
    assert ask(12, "short") == (first, 0), "a trial that came to its end stays as it is"
    [file] = (tmp_path / "short" / ANSWERS_FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[: file.read_bytes().rindex(b"\n") - 9])  # killed while it wrote
    assert ask(12, "short") == (whole, 8)
    assert ask(12, "short") == (whole, 0)


def test_other_models_have_other_answers(tmp_path: Path) -> None:
    tinymodel.bundle(tmp_path)
    manifest = open_active_suggester(tmp_path).bundle.manifest
    newer, files = [example(1)], dict(manifest.files)
    changed = {name: replace(entry, sha256="0" * 64) for name, entry in files.items()}
    answers = AnswerFolder(tmp_path)
    for number, (one, since) in enumerate(
        [
            (manifest, newer),
            (manifest, []),
            *((replace_fields(manifest, files=files | {name: changed[name]}), newer) for name in files),
            (replace_fields(manifest, versions={"numpy": "0"}), newer),
        ]
    ):
        kept = answers.open(one, since)
        assert kept.find(example(1)) is None, number
        kept.add(example(1), [])
    again = answers.open(replace_fields(manifest, created="today", metrics={"cost": 1}), newer)
    assert again.find(example(1)) == ()


def test_where_answers_cannot_be_written_they_are_asked(tmp_path: Path) -> None:
    (tmp_path / ANSWERS_FOLDER).write_text("in the way")
    tinymodel.bundle(tmp_path)
    suggester = open_active_suggester(tmp_path)
    kept = AnswerFolder(tmp_path).open(suggester.bundle.manifest, ())
    assert len(trial.collect_candidates(suggester, [example(1)], kept=kept)) == 1
