"""`doctor` and `status` promise an offer exactly where the hook makes one; the oracle is a `git commit`."""

import sys
import time
from pathlib import Path

import pytest

from gitpeft.config import load_config
from gitpeft.git.repository import Repository
from gitpeft.hooks import doctor, rehearsal
from gitpeft.hooks.doctor import examine_repository, read_status
from tests.support import standin
from tests.support.hooking import SUGGESTION, Hooked

SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "nothing set": ({}, ""),
    "a template": ({"commit.template": "TEMPLATE"}, "setting"),
    "a template, opted in": ({"commit.template": "TEMPLATE", "gitpeft.template": "true"}, ""),
    "a template, opted in, kept comments": (
        {"commit.template": "TEMPLATE", "gitpeft.template": "true", "commit.cleanup": "whitespace"},
        "setting",
    ),
    "an encoding that is not ASCII": ({"i18n.commitEncoding": "utf-16"}, "setting"),
    "an unknown encoding": ({"i18n.commitEncoding": "klingon"}, "setting"),
    "Latin-1": ({"i18n.commitEncoding": "latin1"}, ""),
    "only comments, and an automatic character": (
        {"gitpeft.prefill": "false", "core.commentChar": "auto"},
        "setting",
    ),
    "only comments, where they are kept": (
        {"gitpeft.prefill": "false", "commit.cleanup": "verbatim"},
        "setting",
    ),
    "only comments": ({"gitpeft.prefill": "false"}, ""),
    "scissors": ({"commit.cleanup": "scissors"}, ""),
    "no status": ({"commit.status": "false"}, ""),
    "off": ({"gitpeft.enabled": "false"}, "off"),
    "an editor that shows nothing": ({"core.editor": "true"}, "editor"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_doctor_promises_an_offer_where_the_hook_makes_one(
    hooked: Hooked, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, code = SETTINGS[name]
    (tmp_path / "template").write_text("Ticket:\n\n# What and why\n")
    for key, value in settings.items():
        hooked.repo.git("config", key, value.replace("TEMPLATE", str(tmp_path / "template")))
    if "core.editor" in settings:
        del hooked.env["GIT_EDITOR"]
    else:
        monkeypatch.setenv("GIT_EDITOR", hooked.env["GIT_EDITOR"])
    repo = Repository.open(hooked.repo.path)
    said = [one.code for one in examine_repository(repo) if one.code != "model"]
    assert said == ([code] if code else [])
    assert bool(read_status(repo).silence) is bool(code)
    assert read_status(repo).is_working is not bool(code)

    hooked.git("commit", edit='printf "Mine\\n" >"$file"')
    seen = hooked.tools / "seen"
    offered = seen.exists() and SUGGESTION.encode() in seen.read_bytes()
    assert offered is not bool(code), "what git shows in the editor"


def test_a_template_that_is_not_there_is_named(hooked: Hooked) -> None:
    hooked.repo.git("config", "commit.template", "absent")
    hooked.repo.git("config", "gitpeft.template", "true")
    assert hooked.git("commit").returncode, "git itself stops there"
    said = list(rehearsal.find_silence(Repository.open(hooked.repo.path), load_config(repo_of(hooked))))
    assert any("commit.template names" in one.text and "absent" in one.text for one in said)


def repo_of(hooked: Hooked) -> Repository:
    return Repository.open(hooked.repo.path)


@pytest.fixture
def modelled(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> Hooked:
    """The stand-in answers in this process, too."""
    monkeypatch.setitem(sys.modules, "gitpeft.suggest.suggester", standin)
    return hooked


def rehearse(hooked: Hooked) -> list[str]:
    repo = repo_of(hooked)
    return [one.code for one in rehearsal.find_model_refusals(repo, load_config(repo))]


@pytest.mark.parametrize(("limit", "codes"), [("100", ["timeouts"]), ("30000", [])])
def test_a_time_limit_that_the_model_cannot_keep_is_found_before_the_first_commit(
    modelled: Hooked, monkeypatch: pytest.MonkeyPatch, limit: str, codes: list[str]
) -> None:
    monkeypatch.setenv("STANDIN", "sleep:0.3")
    modelled.repo.git("config", "gitpeft.timeoutMs", limit)
    assert rehearse(modelled) == codes
    modelled.git("commit", edit='printf "Mine\\n" >"$file"')
    assert ("Mine" in modelled.message()) and (SUGGESTION in modelled.seen()) is not bool(codes)


def test_the_doctor_advises_one_time_limit(modelled: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the log says and what was measured just now lead to the same command."""
    monkeypatch.setattr(rehearsal, "measure_answer_time", lambda *_: 1200)
    monkeypatch.setattr(doctor, "_check_model", lambda *_: ())  # the stand-in has no files
    modelled.repo.git("config", "gitpeft.timeoutMs", "100")
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    (modelled.state / "hook.log").write_text(f"{now} no suggestion within 100 ms (gitpeft.timeoutMs)\n")
    found = [one for one in examine_repository(repo_of(modelled)) if one.code == "timeouts"]
    assert [one.remedy for one in found] == ["git config gitpeft.timeoutMs 2500"] * 2


@pytest.mark.parametrize(("score", "codes"), [("51", ["score"]), ("50", []), ("0", [])])
def test_a_least_score_that_no_message_reaches_is_found(
    modelled: Hooked, score: str, codes: list[str]
) -> None:
    modelled.repo.git("config", "gitpeft.minScore", score)
    assert rehearse(modelled) == codes
    modelled.git("commit", edit='printf "Mine\\n" >"$file"')
    assert (SUGGESTION in modelled.seen()) is not bool(codes)


@pytest.mark.parametrize("behaviour", ["exit:3", "segfault"])
def test_a_model_that_fails_in_the_hook_fails_in_the_rehearsal(
    modelled: Hooked, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    monkeypatch.setenv("STANDIN", behaviour)
    assert rehearse(modelled) == ["model"]


@pytest.mark.parametrize("score", ["0", "50"])
def test_commits_of_excluded_files_alone_are_no_failure_of_the_model(modelled: Hooked, score: str) -> None:
    modelled.git("commit", "-m", "Staged before")
    modelled.repo.commit("Lock", **{"one.lock": "1\n"})
    modelled.repo.git("config", "gitpeft.minScore", score)
    modelled.repo.git("config", "gitpeft.exclude", "*.lock")
    assert rehearse(modelled) == []
    modelled.repo.git("config", "gitpeft.exclude", "*")
    assert rehearse(modelled) == []


def test_an_empty_history_has_nothing_to_rehearse_with(repo_path: Path) -> None:
    repo = Repository.open(repo_path)
    assert list(rehearsal.find_model_refusals(repo, load_config(repo))) == []


@pytest.fixture
def repo_path(tmp_path: Path) -> Path:
    from tests.support.gitrepo import Repo

    return Repo.create(tmp_path / "empty").path
