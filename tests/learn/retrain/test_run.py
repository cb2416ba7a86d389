"""A challenger against the installed model: what it learns from, who wins, and what is kept of it."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history import step_share
from gitpeft.learn import budget as budgets
from gitpeft.learn import pipeline
from gitpeft.learn.budget import Paces
from gitpeft.learn.data import example_index
from gitpeft.learn.evaluation.messages import MeasuredMessages
from gitpeft.learn.models import bases, methods
from gitpeft.learn.retrain import challenger_data, champion_challenger
from gitpeft.learn.retrain import run as retrain_run
from gitpeft.learn.retrain.champion_challenger import SAVED, ChallengeResult, ChallengeVerdict
from gitpeft.learn.retrain.run import RetrainingResult
from gitpeft.learn.risk import last_comparison
from gitpeft.learn.risk.relabel import LabelChanges
from gitpeft.learn.szz import szz
from gitpeft.learn.szz.szz import SzzLabels
from gitpeft.monitor import acceptance
from gitpeft.risk.model import RiskModel
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import generated
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.killing import asked_meanwhile, every_kill
from tests.support.sharing import state
from tests.support.tinybase import CHANGE, FIRST, MORE, Built, loosen, nobody, plan


def run(
    repo: Repo, built: Built, listen: Callable[[str, float, str], None] = nobody, **how: Any
) -> RetrainingResult:
    changes = how.pop("plan", {})
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        patch.setattr(
            pipeline, "_list_milder_variants", lambda *_: {}
        )  # whether tuning pays is not asked here
        return retrain_run.run_retraining(Repository.open(repo.path), plan(built, **changes), listen, **how)


def risk_challenger(won: bool) -> retrain_run._RiskChallenger:
    return retrain_run._RiskChallenger(ChallengeVerdict(won, "as measured"), LabelChanges(0, 0, 0))


def judged(monkeypatch: pytest.MonkeyPatch, difference: float) -> None:
    """Let every comparison end like this."""
    one = ChallengeResult(SAVED, 30, 10.0, 10.0 + difference, difference, difference - 1, difference + 1)
    told = ChallengeVerdict.from_result(one), MeasuredMessages()
    monkeypatch.setattr(champion_challenger, "compare_message_models", lambda *_: told)


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tips whose history is traced from now on."""
    traced: list[str] = []
    trace = szz.trace_bug_introducing_commits

    def note(repo: Repository, tip: str, *rest: Any) -> SzzLabels:
        traced.append(tip)
        return trace(repo, tip, *rest)

    monkeypatch.setattr(szz, "trace_bug_introducing_commits", note)
    return traced


# --- what is learnt from ------------------------------------------------------------------------------------


def test_the_duel_is_on_commits_that_neither_has_seen(grown: Repo) -> None:
    repo = Repository.open(grown.path)
    champion = retrain_run.find_champion(repo)
    assert champion is not None
    mined = pipeline.mine_history(repo, "HEAD", nobody)
    split = challenger_data.split_for_challenger(mined.records, champion, 0)
    data, replayed = split.data, split.replayed
    assert data is not None and split.new == MORE
    order = grown.git("rev-list", "--reverse", "HEAD").split()
    tested = [example.sha for example in data.test]
    assert tested == order[-len(tested) :] and len(tested) == (MORE + FIRST // 10) // 2
    champion_saw = set(order[: FIRST - FIRST // 10])
    challenger_saw = {example.sha for example in (*data.train, *data.valid)}
    assert not champion_saw & set(tested) and not challenger_saw & set(tested)
    taught = set(order[: int(0.8 * FIRST)])
    fresh = [example for example in data.train if example.sha not in taught]
    assert len(data.train) == len(fresh) + replayed and replayed == min(
        len(taught), challenger_data.MIN_REPLAYED
    )
    assert [example.sha for example in data.train] == sorted(
        (example.sha for example in data.train), key=order.index
    )


def test_an_older_branch_that_was_merged_late_brings_nothing_known_into_the_duel(grown: Repo) -> None:
    """Its commits stand between those that the champion knows: the newest that it does not are not enough."""
    repo = Repository.open(grown.path)
    champion = retrain_run.find_champion(repo)
    assert champion is not None
    records = pipeline.mine_history(repo, "HEAD", nobody).records
    known = challenger_data.load_known_commits(champion)
    order = [record for record in records if record.sha in set(known)]
    late = [record for record in records if record.sha not in set(known)]
    mixed = [*order[:20], *late[:30], *order[20:], *late[30:]]
    data = challenger_data.split_for_challenger(mixed, champion, 0).data
    seen = set(known[: len(known) - FIRST // 10])
    assert data is not None and not seen & {example.sha for example in data.test}
    data = challenger_data.split_for_challenger([*order[:20], *late, *order[20:]], champion, 0).data
    assert data is None or not seen & {example.sha for example in data.test}


def test_a_replay_is_a_sample_where_there_is_much(monkeypatch: pytest.MonkeyPatch, grown: Repo) -> None:
    monkeypatch.setattr(challenger_data, "MIN_REPLAYED", 7)
    repo = Repository.open(grown.path)
    champion = retrain_run.find_champion(repo)
    assert champion is not None
    records = pipeline.mine_history(repo, "HEAD", nobody).records
    found = [challenger_data.split_for_challenger(records, champion, seed) for seed in (0, 0, 1)]
    first, again, other = (one.data.train for one in found if one.data)
    assert first == again != other and len(first) == len(other)
    assert found[0].replayed < 0.8 * FIRST


def test_a_warm_start_is_where_the_champion_ended(grown: Repo, built: Built) -> None:
    champion = bundles.open_active_bundle(state(grown))
    assert champion is not None
    base, method = bases.find_base(str(built.out)), replace(methods.make_method("lora"), rank=4, alpha=8)
    folder = str(champion.path / bundles.ADAPTER_FOLDER)
    model = methods.warm_start_model(methods.attach_method(base.load(), method), method, folder)
    merged = model.merge_and_unload().state_dict()
    theirs = methods.load_merged_model(
        base.load(), method, champion.path / bundles.ADAPTER_FOLDER
    ).state_dict()
    assert all((merged[name] - theirs[name]).abs().max() < 1e-6 for name in theirs)
    plain = base.load().state_dict()
    assert any((merged[name] - plain[name]).abs().max() > 1e-3 for name in theirs), "it was tuned"
    for wrong in (replace(method, rank=8), methods.make_method("full")):
        with pytest.raises((GitpeftError, FileNotFoundError)):
            methods.warm_start_model(methods.attach_method(base.load(), wrong), wrong, folder)


# --- who wins -----------------------------------------------------------------------------------------------


def test_a_retraining_from_end_to_end(copied: Repo, built: Built) -> None:
    before = bundles.read_active_ids(state(copied))[0]
    done = run(copied, built)
    assert done.warm and done.new == MORE and done.cost["steps"] > 0 and done.champion == before
    one = done.tasks["message"].result
    assert one is not None and one.n == 36 and one.low <= one.difference <= one.high
    assert one.difference == pytest.approx(one.challenger - one.champion)
    assert done.action == ("activated" if round(one.difference, 1) > 0 else "aside")
    made = bundles.open_bundle(state(copied) / "models" / done.bundle)
    bundles.verify_bundle(made)
    kept = made.manifest.metrics["duel"]
    assert (
        kept["champion"] == before
        and kept["tasks"] == json.loads(json.dumps(done.as_dict()["tasks"]))
        and kept["verdict"] == done.reason
    )
    assert made.manifest.commits["held"] == 36 and made.manifest.commits["count"] == FIRST + MORE
    assert bundles.read_active_ids(state(copied))[0] == (
        done.bundle if done.action == "activated" else before
    )
    assert open_active_suggester(state(copied)).suggest(CHANGE, "")
    config = json.loads(made.read("adapter/adapter_config.json"))
    assert config["base_model_name_or_path"] is None and "/" not in made.manifest.base


@pytest.mark.parametrize("difference", [-3.0, -0.001, 0.0, 0.04, 2.0])
def test_only_a_better_challenger_replaces_the_champion(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    before = bundles.read_active_ids(state(copied))[0]
    judged(monkeypatch, difference)
    monkeypatch.setattr(retrain_run, "_challenge_risk_model", lambda *_: None)
    done = run(copied, built, plan={"minutes": 0.02})
    listed = {one.id: one for one in registry.list_model_versions(state(copied))}
    if difference > 0.05:
        assert done.action == "activated" and bundles.read_active_ids(state(copied)) == (done.bundle, before)
        assert listed[done.bundle].aside == ""
    else:
        assert done.action == "aside" and bundles.read_active_ids(state(copied))[0] == before
        assert listed[done.bundle].aside == done.reason and "keystrokes saved" in done.reason
    assert not pipeline.find_last_trained_plan(Repository.open(copied.path)).rival, (
        "export goes round no duel"
    )


@pytest.mark.parametrize("message", [1.0, -1.0])
@pytest.mark.parametrize("risk", [True, False])
def test_each_task_goes_its_own_way(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch, message: float, risk: bool
) -> None:
    """The winner of one task takes its place beside the champion of the other."""
    old = bundles.open_active_bundle(state(copied))
    assert old is not None
    judged(monkeypatch, message)
    monkeypatch.setattr(retrain_run, "_challenge_risk_model", lambda *_: risk_challenger(risk))
    done = run(copied, built, plan={"minutes": 0.02})
    new = bundles.open_active_bundle(state(copied))
    assert new is not None and (new.id == done.bundle) == (done.action == "activated")
    assert done.action == ("activated" if message > 0 or risk else "aside")
    assert (new.read("encoder.onnx") != old.read("encoder.onnx")) == (message > 0)
    assert (new.read("risk.json") != old.read("risk.json")) == risk
    bundles.verify_bundle(new)
    assert open_active_suggester(state(copied)).suggest(CHANGE, "")
    assert done.tasks["message"].won == (message > 0) and done.tasks["risk"].won == risk
    listed = {one.id: one for one in registry.list_model_versions(state(copied))}
    lost = done.aside or (done.bundle if done.action == "aside" else "")
    assert bool(lost) == (message < 0) and (not lost or "keystrokes saved" in listed[lost].aside)
    tip = copied.git("rev-parse", "HEAD")
    assert acceptance.load_failed_retraining_tip(state(copied), new.id) == ("" if message > 0 else tip)
    if risk and message < 0:
        assert new.manifest.commits == old.manifest.commits, "what it was taught is what it was"
        assert new.manifest.metrics["duel"]["won"] and listed[new.id].state == "active"


def test_only_the_score_is_new(copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """No new commit for messages, but other bugs are known: the score alone is held against the old one."""
    copied.git("reset", "-q", "--hard", f"HEAD~{MORE}")
    copied.git("config", "gitpeft.fixPattern", "parser")
    before = bundles.read_active_ids(state(copied))[0]
    monkeypatch.setattr(retrain_run, "_challenge_risk_model", lambda *_: risk_challenger(True))
    done = run(copied, built)
    assert done.action == "activated" and done.taught == 0 and list(done.tasks) == ["risk"]
    assert bundles.read_active_ids(state(copied)) == (done.bundle, before)
    assert open_active_suggester(state(copied)).suggest(CHANGE, "")


def test_who_is_asked_may_say_no(copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bundles.read_active_ids(state(copied))[0]
    judged(monkeypatch, 1.0)
    done = run(copied, built, agreed=lambda _: False, plan={"minutes": 0.02})
    assert done.action == "aside" and done.reason.startswith("not wanted")
    assert bundles.read_active_ids(state(copied))[0] == before


def test_a_model_that_was_pulled_meanwhile_is_not_overrun(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support import tinymodel

    def pulled(*_: object) -> tuple[ChallengeVerdict, MeasuredMessages]:
        tinymodel.bundle(state(copied), created="2030-01-01T00:00:00Z")
        one = ChallengeResult(SAVED, 30, 10, 12, 2, 1, 3)
        return ChallengeVerdict.from_result(one), MeasuredMessages()

    monkeypatch.setattr(champion_challenger, "compare_message_models", pulled)
    done = run(copied, built, plan={"minutes": 0.02})
    assert done.action == "aside" and "another model was activated" in done.reason
    assert bundles.read_active_ids(state(copied))[0] not in (done.bundle, done.champion)


def test_nothing_new_is_nothing_to_do(copied: Repo, built: Built) -> None:
    copied.git("reset", "-q", "--hard", f"HEAD~{MORE}")
    done = run(copied, built)
    assert (done.action, done.bundle) == ("none", "") and not list((state(copied) / "models").glob(".new-*"))
    assert done.reason == retrain_run.UP_TO_DATE and done.taught == 0


def test_a_base_selected_without_tuning_is_up_to_date_as_well(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest does not name the method that was tried, and there is still nothing new to learn."""
    copied.git("reset", "-q", "--hard", f"HEAD~{MORE}")
    champion = retrain_run.find_champion(Repository.open(copied.path))
    assert champion is not None
    made = replace(champion.manifest, method={"name": "none"}, metrics={"tuning": {"untuned": 9.0}})
    monkeypatch.setattr(retrain_run, "find_champion", lambda _repo: replace(champion, manifest=made))
    monkeypatch.setattr(retrain_run, "_train_challenger", lambda *_: pytest.fail("trained"))
    done = run(copied, built)
    assert (done.action, done.reason) == ("none", retrain_run.UP_TO_DATE)


def test_what_did_not_change_is_not_done_again(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score is fitted and compared once for what decides it, with one tracing of the history."""
    traced = count_traces(monkeypatch)

    def retrain() -> tuple[set[str], int, str]:
        """The steps that are announced, how often the history is traced, and the reason."""
        traced.clear()
        heard: set[str] = set()
        done = run(copied, built, lambda step, *_: heard.add(step))
        assert done.action == "none" and done.taught == 0
        return heard & {"labels", "risk", "train"}, len(traced), done.reason

    again, nothing = ({"labels", "risk"}, 1), (set[str](), 0)
    copied.git("reset", "-q", "--hard", f"HEAD~{MORE}")
    note = state(copied) / last_comparison.NOTE_FILE
    note.unlink(missing_ok=True)  # as an earlier version leaves a model
    assert retrain() == (*again, retrain_run.UP_TO_DATE)
    assert retrain() == (*nothing, retrain_run.UP_TO_DATE)
    copied.git("config", "gitpeft.fixPattern", "^parser")
    assert retrain() == (*again, retrain_run.UP_TO_DATE)
    assert retrain() == (*nothing, retrain_run.UP_TO_DATE)
    copied.commit("Read names of two words", **{"src/words.py": "def read():\n    return 2\n"})
    heard, times, reason = retrain()
    assert (heard, times) == again and reason.startswith("too few commits")
    heard, times, reason = retrain()
    assert (heard, times) == nothing and reason.startswith("too few commits")
    assert reason.endswith("nothing has changed since it was fitted or last compared")


def test_where_there_is_no_score_none_is_said_to_stay(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.git("reset", "-q", "--hard", f"HEAD~{MORE}")
    copied.commit("Read names of two words", **{"src/words.py": "def read():\n    return 2\n"})
    monkeypatch.setattr(step_share, "_TOLD_EVERY", 100)
    monkeypatch.setattr(last_comparison, "was_compared", lambda *_: True)
    monkeypatch.setattr(retrain_run, "load_risk_model", lambda _: RiskModel())
    told: list[tuple[float, str]] = []
    done = run(copied, built, lambda step, *one: told.append(one) if step == "examples" else None)
    assert done.reason.startswith("too few commits") and "risk" not in done.reason and not done.tasks
    assert (0.1 * 100 / (FIRST + 1), f"filtering 100/{FIRST + 1} commits") in told, "also while it filters"
    assert [share for share, _ in told] == sorted(share for share, _ in told)


def test_after_a_training_the_score_is_not_compared_again(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The challenger's labels serve the comparison too."""
    judged(monkeypatch, 1.0)
    traced = count_traces(monkeypatch)
    assert run(copied, built, plan={"minutes": 0.02}).action == "activated" and len(traced) == 1
    done = run(copied, built, plan={"minutes": 0.02})
    assert (done.reason, len(traced)) == (retrain_run.UP_TO_DATE, 1)


def test_a_score_that_was_not_wanted_is_offered_again(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.git("reset", "-q", "--hard", f"HEAD~{MORE}")
    copied.git("config", "gitpeft.fixPattern", "parser")
    monkeypatch.setattr(retrain_run, "_challenge_risk_model", lambda *_: risk_challenger(True))
    assert run(copied, built, agreed=lambda _: False).reason.startswith("not wanted")
    assert run(copied, built).action == "activated"
    assert run(copied, built).reason == retrain_run.UP_TO_DATE


def test_a_killed_run_takes_the_same_examples_again(copied: Repo, built: Built) -> None:
    """As many as there was time for are remembered before the training, and the pace of preparing them."""
    champion = retrain_run.find_champion(Repository.open(copied.path))
    assert champion is not None

    def stop(step: str, _done: float, _detail: str) -> None:
        if step == "risk":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(copied, built, stop)
    paces = Paces(state(copied) / budgets.PACES_FILE)
    name = f"{copied.git('rev-parse', 'HEAD')} {champion.id[:12]} 3"
    assert paces.recall_count(name) == FIRST + MORE
    paces.remember_count(name, 150)
    heard: list[str] = []
    done = run(copied, built, lambda step, _, detail: heard.append(detail) if step == "examples" else None)
    assert "150 usable commits" in heard and done.tasks["message"].result is not None
    assert done.budget is not None
    assert f"examples of the newest 150 of {FIRST + MORE} commits" in done.budget.left_out
    told = json.loads(json.dumps(done.as_dict()))
    assert told["left_out"] == told["budget"]["left_out"] and told["budget"]["minutes"] == 3


def test_few_examples_are_tested_on_the_same_commits(grown: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_index, "_BATCH_SIZE", 10)
    repo = Repository.open(grown.path)
    champion = retrain_run.find_champion(repo)
    assert champion is not None
    records = pipeline.mine_history(repo, "HEAD", nobody).records
    whole = challenger_data.split_for_challenger(records, champion, 0).data
    every = challenger_data.ChallengerExamples.select(records, champion)
    bounded = challenger_data.ChallengerExamples.select(records, champion, most=100)
    assert (len(bounded.examples), bounded.since) == (100, FIRST + MORE)
    for split in (
        bounded.split(0),
        every.take_newest(90).split(0),
        every.split(0, is_enough=lambda prepared: prepared >= 100),
    ):
        assert split.new == MORE and split.data is not None and whole is not None
        assert len(split.data.examples) <= 100
        assert [one.sha for one in split.data.test] == [one.sha for one in whole.test]


def test_there_must_be_a_champion(repo: Repo, built: Built) -> None:
    generated.put(repo, generated.team(20))
    with pytest.raises(GitpeftError, match="no model is installed to compare with"):
        run(repo, built)


@pytest.mark.slow
def test_killed_at_any_step_the_model_answers_and_the_next_run_goes_on(
    copied: Repo, built: Built, tmp_path: Path
) -> None:
    before = bundles.read_active_ids(state(copied))[0]
    with asked_meanwhile(state(copied), tmp_path, CHANGE):
        for step in ("train", "export", "choose", "risk", "measure"):
            child = os.fork()
            if child == 0:

                def listen(name: str, _done: float, _detail: str, step: str = step) -> None:
                    if name == step:
                        os.kill(os.getpid(), signal.SIGKILL)

                try:
                    run(copied, built, listen, plan={"minutes": 0.02})
                finally:
                    os._exit(0)
            assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), step
            assert bundles.read_active_ids(state(copied))[0] == before
            assert open_active_suggester(state(copied)).suggest(CHANGE, "")
    heard: list[str] = []
    done = run(copied, built, lambda _step, _share, detail: heard.append(detail), plan={"minutes": 0.02})
    assert "already trained" in heard and done.bundle


@pytest.mark.slow
def test_killed_anywhere_while_a_score_is_renewed(
    copied: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pipeline, "format_current_time", lambda: "2030-01-01T00:00:00Z"
    )  # each try makes the same bundle
    repo = Repository.open(copied.path)
    champion = bundles.open_active_bundle(state(copied))
    assert champion is not None
    (tmp_path / "risk").mkdir()
    (tmp_path / "risk" / "risk.json").write_text(RiskModel(why="another one").to_json())

    def renew() -> None:
        retrain_run.replace_risk_model(repo, champion, tmp_path / "risk", {"duel": {"won": True}})

    number = 0
    with asked_meanwhile(state(copied), tmp_path, CHANGE):
        for step in every_kill(renew, stride=3):
            number = step
            now = bundles.open_active_bundle(state(copied))
            assert now is not None
            bundles.verify_bundle(now)
            assert now.read("encoder.onnx") == champion.read("encoder.onnx")
    assert number > 30
    now = bundles.open_active_bundle(state(copied))
    assert now is not None and now.read_json("risk.json")["why"] == "another one"


# --- the command --------------------------------------------------------------------------------------------


def test_train_where_a_model_is_installed(
    copied: Repo, built: Built, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    judged(monkeypatch, -1.0)
    monkeypatch.setattr(retrain_run, "_challenge_risk_model", lambda *_: None)
    here = ("train", "--repo", copied.path, "--base", built.out, "--budget", "0.05")
    lost = gitpeft(*here, "--yes", "--json")
    assert lost.code == 0 and lost.err == ""
    told = json.loads(lost.out)
    assert told["action"] == "aside" and not told["warm"], "rank 16 does not start from rank 4"
    assert "not activated" in gitpeft("models", "--repo", copied.path).said
    judged(monkeypatch, 1.0)
    won = gitpeft(*here, "--from-scratch")
    assert won.code == 0 and "Trained from the base" in won.said and "gitpeft rollback" in won.said
    assert told["champion"] == bundles.read_active_ids(state(copied))[1]
