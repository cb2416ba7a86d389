"""Acceptance is counted and forgotten, and one sentence says when retraining is due."""

import json
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.monitor import acceptance
from gitpeft.monitor.acceptance import Acceptance
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.hooking import MODEL, SUGGESTION, Hooked, make_python


@pytest.fixture
def hooked(repo: Repo, tmp_path: Path) -> Hooked:
    repo.commit("Start", **{"README": "hello\n"})
    return Hooked.create(repo, make_python(tmp_path / "python"), tmp_path / "tools")


def counted(repo: Repo) -> Acceptance:
    return acceptance.count_acceptance(Repository.open(repo.path)).get(MODEL, Acceptance())


def commit(hooked: Hooked, edit: str = ":") -> str:
    hooked.stage()
    done = hooked.git("commit", edit=edit)
    hooked.repo.tick()
    assert done.returncode == 0 or edit == "exit 1", done.stderr
    return hooked.repo.git("log", "-1", "--format=%s")


def test_kept_edited_and_discarded_are_told_apart(hooked: Hooked) -> None:
    assert commit(hooked) == SUGGESTION
    edited = commit(hooked, f'printf "%s\\n" "{SUGGESTION} at last" >"$file"')
    assert edited.startswith(SUGGESTION) and edited != SUGGESTION
    assert commit(hooked, 'echo "Quite another thing" >"$file"') == "Quite another thing"
    assert counted(hooked.repo) == Acceptance(1, 1, 1)
    assert counted(hooked.repo) == Acceptance(1, 1, 1), "once is enough"
    kept = (
        "".join(path.read_text() for path in hooked.state.glob("*offer*"))
        + (hooked.state / acceptance.ACCEPTANCE_FILE).read_text()
    )
    assert SUGGESTION not in kept, "only numbers stay"


def test_a_commit_that_is_given_up_and_tried_again_is_one(hooked: Hooked) -> None:
    commit(hooked, "exit 1")
    assert counted(hooked.repo) == Acceptance() and (hooked.state / acceptance.OFFERS_FILE).exists()
    commit(hooked)
    assert counted(hooked.repo) == Acceptance(kept=1)


def test_what_was_not_offered_is_not_counted(hooked: Hooked) -> None:
    for args in (["-m", "mine"], ["--amend", "--no-edit"], ["--allow-empty", "-m", "nothing"]):
        hooked.stage()
        hooked.git("commit", *args)
        hooked.repo.tick()
    assert not (hooked.state / acceptance.OFFERS_FILE).exists() and counted(hooked.repo) == Acceptance()


def test_what_was_withheld_lowers_the_coverage_and_is_no_verdict(hooked: Hooked) -> None:
    commit(hooked)
    hooked.repo.git("config", "gitpeft.minScore", "51")  # the stand-in's best message has 50
    commit(hooked, "exit 1")  # given up and tried again is one commit
    commit(hooked, 'echo mine >"$file"')
    hooked.repo.git("config", "gitpeft.quiet", "true")
    for text in ("more", "still more"):
        commit(hooked, f'echo {text} >"$file"')
    found = counted(hooked.repo)
    assert found == Acceptance(kept=1, withheld=3)
    assert found.decided_count == 1 and found.coverage == 0.25
    assert Acceptance(kept=2).coverage == Acceptance().coverage == 1


def test_who_does_not_want_to_be_counted_is_not(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.stats", "false")
    assert commit(hooked) == SUGGESTION
    assert not (hooked.state / acceptance.OFFERS_FILE).exists() and counted(hooked.repo) == Acceptance()


def test_the_first_commit_of_all(repo: Repo) -> None:
    state = Repository.open(repo.path).state_dir
    state.mkdir()
    (state / "current").write_text(MODEL)
    acceptance.record_offer(state, None, ["Start here"])
    repo.commit("Start here", **{"a": "1"})
    assert counted(repo) == Acceptance(kept=1)


def test_damage_costs_the_count_only(repo: Repo) -> None:
    repo.commit("Start", **{"a": "1"})
    state = Repository.open(repo.path).state_dir
    state.mkdir()
    (state / acceptance.OFFERS_FILE).write_text(
        '{"model": 1}\nno json\n[]\n{"model": "x", "head": "y", "offered": []}\n'
    )
    (state / acceptance.ACCEPTANCE_FILE).write_text('{"a": {"kept": "many"}}')
    assert acceptance.count_acceptance(Repository.open(repo.path)) == {}
    acceptance.record_offer(repo.path / "no such folder", "a" * 40, ["x"])


def test_what_waits_is_bounded(repo: Repo) -> None:
    repo.commit("Start", **{"a": "1"})
    state = Repository.open(repo.path).state_dir
    state.mkdir()
    for number in range(acceptance.MAX_PENDING_OFFERS + 30):
        acceptance.record_offer(state, f"{number:040x}", ["x"])
    counted(repo)
    lines = (state / acceptance.OFFERS_FILE).read_text().splitlines()
    assert len(lines) == acceptance.MAX_PENDING_OFFERS and json.loads(lines[-1])["head"].endswith("e5")
    (state / acceptance.OFFERS_FILE).write_text("x" * (1 << 19))
    acceptance.record_offer(state, "a" * 40, ["x"])
    assert (state / acceptance.OFFERS_FILE).stat().st_size < 1000


@pytest.mark.parametrize(
    ("count", "since", "accepted", "sentence"),
    [
        (1000, 99, Acceptance(), ""),
        (1000, 100, Acceptance(), "100 commits since"),
        (100, 49, Acceptance(), ""),
        (100, 50, Acceptance(), "50 commits since"),
        (1000, 3, Acceptance(5, 0, 14), ""),
        (1000, 3, Acceptance(6, 1, 14), ""),
        (1000, 3, Acceptance(3, 3, 14), "14 of 20 suggestions were discarded"),
        (1000, None, Acceptance(), "no longer here"),
    ],
)
def test_one_sentence_says_when(count: int, since: int | None, accepted: Acceptance, sentence: str) -> None:
    said = acceptance.describe_due_retraining({"count": count}, since, accepted)
    assert bool(said) == bool(sentence) and sentence in said
    assert not said or said.endswith("Run `gitpeft train`.")


def test_a_retraining_that_found_nothing_better_is_not_asked_for_again(tmp_path: Path) -> None:
    discarded = Acceptance(0, 0, 30)
    assert "30 of 30" in acceptance.describe_due_retraining({"count": 100}, 0, discarded)
    assert acceptance.describe_due_retraining({"count": 100}, 0, discarded, ["it is worse"], tried=True) == ""
    assert "50 commits since it was last tried" in acceptance.describe_due_retraining(
        {"count": 100}, 50, discarded, (), tried=True
    )
    assert acceptance.load_failed_retraining_tip(tmp_path, "a" * 64) == ""
    acceptance.record_failed_retraining(tmp_path, "a" * 64, "c" * 40)
    assert (
        acceptance.load_failed_retraining_tip(tmp_path, "a" * 64) == "c" * 40
        and acceptance.load_failed_retraining_tip(tmp_path, "b" * 64) == ""
    )
    for text in ("", "[]", '{"model": 1}', "{"):
        (tmp_path / acceptance.FAILED_RETRAINING_FILE).write_text(text)
        assert acceptance.load_failed_retraining_tip(tmp_path, "a" * 64) == ""


def test_what_is_measured_is_said_after_what_is_counted() -> None:
    complaints = ["the loss rose", "the score is wrong"]
    assert acceptance.describe_due_retraining({}, 3, Acceptance(), complaints) == (
        "due: the loss rose. Run `gitpeft train`."
    )
    assert "60 commits" in acceptance.describe_due_retraining({}, 60, Acceptance(), complaints)


def test_status_says_it(repo: Repo, gitpeft: Call) -> None:
    tip = repo.commit("Start", **{"a": "1"})
    state = Repository.open(repo.path).state_dir
    tinymodel.bundle(state, commits={"to": tip, "count": 3})
    assert "due" not in gitpeft("status", "--repo", repo.path).out
    acceptance.record_offer(state, tip, ["Number 0"])
    for number in range(50):
        repo.commit(f"Number {number}")
    shown = gitpeft("status", "--repo", repo.path).said
    assert "50 commits since the model was made. Run `gitpeft train`." in shown and "1 kept" in shown
    told = json.loads(gitpeft("status", "--repo", repo.path, "--json").out)["manifest"]
    assert told["acceptance"] == {"kept": 1, "edited": 0, "discarded": 0, "withheld": 0} and told["due"]
