"""What commit 2a643d2 installed and wrote keeps working: hooks, models, settings, histories and adapters.

The files are in tests/fixtures/2a643d2, where a README says how they came about.
"""

import hashlib
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.hooks import stubs
from gitpeft.hooks.install import install_hooks
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import generated
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.hooking import Hooked, make_python, script
from tests.support.sources import CHECKOUT
from tests.support.tinybase import CHANGE

WRITTEN = CHECKOUT / "tests" / "fixtures" / "2a643d2"
ANSWERS: dict[str, Any] = json.loads((WRITTEN / "answers.json").read_text())
MODEL = hashlib.sha256((WRITTEN / "bundle" / "manifest.json").read_bytes()).hexdigest()
PLACEHOLDER = "/opt/gitpeft/bin/python"
COMMITS = 120
OLD_HOOKS = (stubs.SUGGESTION_HOOK, stubs.RISK_HOOK)
"""The hooks that there were then."""


def old_stub(name: str, python: str) -> str:
    """A stub as that commit would have written it for another interpreter: its seal covers the path."""
    text = (WRITTEN / "hooks" / name).read_text()
    text = re.sub(r"seal [0-9a-f]{64}$", "seal @SEAL@", text, count=1, flags=re.MULTILINE)
    text = text.replace(PLACEHOLDER, python)
    return text.replace("@SEAL@", hashlib.sha256(text.encode()).hexdigest(), 1)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with today's package and no stand-in for its model."""
    return make_python(tmp_path_factory.mktemp("python"), fake=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repository in the state in which that commit left it, without hooks; not to be changed."""
    repo = Repo.create(tmp_path_factory.mktemp("upgraded") / "repo")
    generated.put(repo, generated.team(COMMITS))
    state = Repository.open(repo.path).state_dir
    shutil.copytree(WRITTEN / "bundle", state / "models" / MODEL)
    (state / "current").write_text(f"{MODEL}\n\n")
    with sqlite3.connect(state / "history.db") as history:
        history.executescript((WRITTEN / "history.sql").read_text())
    history.close()
    return repo


@pytest.fixture
def upgraded(template: Repo, tmp_path: Path) -> Repo:
    """The same, to be changed; with a change in its index."""
    shutil.copytree(template.path, tmp_path / "repo", symlinks=True)
    repo = Repo(tmp_path / "repo", template.clock)
    text = (repo.path / "src/parser.py").read_text()
    added = "".join(f"def tab_{i}(value):\n    return read(value, {i})\n" for i in range(20))
    repo.stage(**{"src/parser.py": text + added})
    return repo


@pytest.fixture
def committing(upgraded: Repo, python: str, tmp_path: Path) -> Hooked:
    """Both hooks as that commit installed them."""
    hooked = Hooked.with_editor(upgraded, python, tmp_path / "tools")
    for name in OLD_HOOKS:
        script(hooked.hook.with_name(name), old_stub(name, python))
    return hooked


def codes(gitpeft: Call, repo: Repo) -> set[str]:
    """What `gitpeft doctor` finds."""
    return {one["code"] for one in json.loads(gitpeft("doctor", "--repo", repo.path, "--json").out)}


# --- hooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OLD_HOOKS)
def test_an_installed_stub_is_known_as_ours_and_intact(name: str) -> None:
    raw = (WRITTEN / "hooks" / name).read_bytes()
    assert stubs.recognise_stub(raw) == stubs.Stub(1, PLACEHOLDER, True)
    assert old_stub(name, PLACEHOLDER).encode() == raw, "this file seals as that commit did"


def test_a_commit_with_the_installed_stub_opens_with_a_message(committing: Hooked) -> None:
    done = committing.git("commit")
    assert done.returncode == 0, done.stderr
    offered = committing.seen().splitlines()[0]
    assert offered, "the editor opened without a message"
    assert not offered.startswith("#")
    assert committing.message() == offered
    assert committing.log() == ""


def test_the_stub_before_a_commit_flags_it(committing: Hooked) -> None:
    done = committing.git("commit", "-m", "large")
    assert done.returncode == 0, done.stderr
    assert b"riskier than" in done.stderr
    assert b"src/parser.py" in done.stderr


def test_doctor_and_status_find_the_installed_hooks_in_order(committing: Hooked, gitpeft: Call) -> None:
    assert codes(gitpeft, committing.repo) == set()
    hooks = json.loads(gitpeft("status", "--repo", committing.repo.path, "--json").out)["hooks"]
    assert {hook["name"] for hook in hooks if hook["runs"]} == set(OLD_HOOKS)


def test_installing_again_leaves_or_renews_the_stub(committing: Hooked) -> None:
    before = committing.hook.read_bytes()
    repository = Repository.open(committing.repo.path)
    [again] = install_hooks(repository, python=committing.python)
    assert again.action == "unchanged", "the text of a stub of version 1 is pinned"
    assert committing.hook.read_bytes() == before
    [moved] = install_hooks(repository, python="/new/python")
    assert moved.action == "updated"
    assert stubs.recognise_stub(committing.hook.read_bytes()) == stubs.Stub(1, "/new/python", True)


def test_installing_again_adds_the_hook_that_works_ahead(committing: Hooked, gitpeft: Call) -> None:
    there = ("--repo", committing.repo.path)
    assert "not working ahead" in gitpeft("status", *there).out
    before = {name: committing.hook.with_name(name).read_bytes() for name in OLD_HOOKS}
    done = gitpeft("install", "--risk", *there)
    assert done.code == 0, done.said
    after = {name: stubs.recognise_stub(committing.hook.with_name(name).read_bytes()) for name in OLD_HOOKS}
    assert set(before) == {name for name, stub in after.items() if stub and stub.intact}
    assert committing.hook.with_name(stubs.AHEAD_HOOK).read_bytes() == stubs.render_stub(stubs.AHEAD_HOOK)
    assert "not working ahead" not in gitpeft("status", *there).out
    assert codes(gitpeft, committing.repo) == set()


def test_uninstall_takes_the_installed_stubs_out(committing: Hooked, gitpeft: Call) -> None:
    done = gitpeft("uninstall", "--repo", committing.repo.path)
    assert done.code == 0, done.said
    assert not [name for name in stubs.HOOK_NAMES if committing.hook.with_name(name).exists()]


def test_what_stubs_import_is_there() -> None:
    from gitpeft.hook import run
    from gitpeft.hooks.run import run as today

    assert run is today


# --- models -----------------------------------------------------------------------------------------------


def test_the_model_suggests_what_it_suggested(upgraded: Repo) -> None:
    model = open_active_suggester(Repository.open(upgraded.path).state_dir)
    found = model.suggest(CHANGE, "parser: add read_3", 3)
    messages, scores = zip(*ANSWERS["suggestions"], strict=True)
    assert tuple(one.message for one in found) == messages
    assert [one.score for one in found] == pytest.approx(scores, abs=1e-4)


def test_commands_know_the_model(upgraded: Repo, gitpeft: Call) -> None:
    there = ("--repo", upgraded.path)
    [model] = json.loads(gitpeft("models", *there, "--json").out)
    assert (model["id"], model["state"]) == (MODEL, "active")
    assert (model["base"], model["method"], model["commits"]["count"]) == ("tiny", "lora", COMMITS)
    status = gitpeft("status", *there)
    assert status.code == 0, status.said
    assert MODEL[:12] in status.said
    suggested = gitpeft("suggest", "--staged", "-n", "3", *there)
    assert suggested.code == 0, suggested.said
    assert len(suggested.out.splitlines()) == 3


def test_the_risk_model_scores_what_is_staged_as_it_did(upgraded: Repo, gitpeft: Call) -> None:
    report = json.loads(gitpeft("risk", "--staged", "--repo", upgraded.path, "--json").out)
    assert {name: report[name] for name in ANSWERS["risk"]} == ANSWERS["risk"]
    assert report["files"] == ["src/parser.py"]


def test_a_history_is_read_on_not_again(upgraded: Repo) -> None:
    repository = Repository.open(upgraded.path)
    upgraded.git("commit", "-q", "-m", "parser: add tabs")
    with History.open(repository.state_dir) as history:
        done = history.mine_commits(repository)
        assert (done.new, done.total, done.pruned) == (1, COMMITS + 1, 0)
        assert len(history.load_records(repository)) == COMMITS + 1


@pytest.mark.parametrize("target", ["folder", "model.bundle"])
def test_the_model_is_published_and_pulled(
    upgraded: Repo, gitpeft: Call, tmp_path: Path, target: str
) -> None:
    sent = gitpeft("publish", "--repo", upgraded.path, "--to", tmp_path / target, "--no-sign")
    assert sent.code == 0, sent.said
    other = upgraded.clone(tmp_path / "other")
    taken = gitpeft("pull", "--repo", other.path, "--from", tmp_path / target, "--accept", "unsigned")
    assert taken.code == 0, taken.said
    state = Repository.open(other.path).state_dir
    assert (state / "current").read_text().split()[0] == MODEL
    assert open_active_suggester(state).suggest(CHANGE, "", 1)


# --- settings ---------------------------------------------------------------------------------------------


def test_the_least_score_keeps_its_effect(committing: Hooked, gitpeft: Call) -> None:
    committing.repo.git("config", "gitpeft.leastScore", "99")
    assert codes(gitpeft, committing.repo) == {"score"}, "the doctor says that nothing reaches it"
    committing.git("commit", edit='echo "by hand" >"$file"')
    assert re.fullmatch(r"(\s*|#.*\n?)*", committing.seen()), "nothing reaches 99"


# --- adapters ---------------------------------------------------------------------------------------------


def test_peft_loads_a_saved_bottleneck_adapter() -> None:
    """As the documentation of that commit says: import the module that registers the method, then PEFT."""
    import torch
    from peft import PeftModel

    import gitpeft.learn.adapter
    from tests.support import tinymodel

    model = PeftModel.from_pretrained(tinymodel.plain_t5(), str(WRITTEN / "bottleneck")).eval()
    assert isinstance(model.peft_config["default"], gitpeft.learn.adapter.BottleneckConfig)
    with torch.no_grad():
        given = {"input_ids": torch.arange(10, 27)[None], "decoder_input_ids": torch.tensor([[0, 11, 12]])}
        logits = model(**given).logits[0, -1, :8].tolist()
    assert logits == pytest.approx(ANSWERS["bottleneck logits"], abs=1e-4)


def test_the_adapter_of_a_model_loads_as_a_challengers_start() -> None:
    from safetensors import safe_open

    from gitpeft.learn.models import methods

    method = json.loads((WRITTEN / "bundle" / "manifest.json").read_text())["method"]
    made = methods.make_method(method.pop("name"), {**method, "layers": tuple(method["layers"])})
    assert (made.name, made.rank, made.alpha) == ("lora", 4, 8)
    with safe_open(WRITTEN / "bundle" / "adapter" / "adapter_model.safetensors", framework="pt") as weights:
        assert all(".lora_" in name for name in weights.keys())  # noqa: SIM118
