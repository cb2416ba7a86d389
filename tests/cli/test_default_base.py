"""Which base model a command takes that names none."""

import inspect
from pathlib import Path

import pytest

from gitpeft.cli import session, train
from gitpeft.git.repository import Repository
from gitpeft.learn.models import bases
from tests.support import tinymodel
from tests.support.gitrepo import Repo


@pytest.mark.parametrize("command", [train.init, train.train])
def test_commands_that_learn_choose_the_base_by_the_memory(command: object) -> None:
    assert callable(command)
    assert inspect.signature(command).parameters["base"].default == "auto"


def test_the_choice_is_said_where_it_is_not_the_large_base(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Repository.open(repo.path)
    monkeypatch.setattr(bases, "choose_base", lambda: ("mini", "3.1 GB of memory are free"))
    assert session.make_plan(opened, "auto", "lora", "HEAD", 5.0).base == "mini"
    assert "3.1 GB of memory are free" in capsys.readouterr().err
    monkeypatch.setattr(bases, "choose_base", lambda: ("smol", ""))
    assert session.make_plan(opened, "auto", "lora", "HEAD", 5.0).base == "smol"
    assert capsys.readouterr().err == ""


def test_a_model_is_retrained_on_its_own_base(repo: Repo) -> None:
    opened = Repository.open(repo.path)
    assert session.find_active_base(opened) == ""
    opened.state_dir.mkdir(parents=True, exist_ok=True)
    for base, kept in (("smol", "smol"), ("mini", "mini"), ("codet5-small", "")):
        tinymodel.bundle(Path(opened.state_dir), base=base)
        assert session.find_active_base(opened) == kept
