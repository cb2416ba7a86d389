"""From a change to an offer: the first suggestion depends neither on the command nor on the number wanted."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.errors import NothingStagedError
from gitpeft.git.repository import Repository
from gitpeft.suggest import postprocess, service
from gitpeft.suggest.service import Offer, SuggestionLimits
from gitpeft.suggest.suggester import open_active_suggester
from gitpeft.trace import HookTrace
from tests.support import standin, tinymodel
from tests.support.gitrepo import Repo
from tests.support.hooking import MODEL

MESSAGES = ("Accept tabs", "Allow tabs", "Teach the parser tabs", "Read tabs", "fix: accept tabs")
Ask = Callable[..., Offer]


@pytest.fixture
def ask(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks for suggestions for a staged change; the model answers `MESSAGES`, the team writes `fix: …`."""
    repo.commit("Start", **{"README": "hello\n"})
    repo.write("a.py", "a = 1\n")
    repo.git("add", ".")
    opened = Repository.open(repo.path)
    opened.state_dir.mkdir()
    (opened.state_dir / "current").write_text(MODEL)
    monkeypatch.setitem(sys.modules, "gitpeft.suggest.suggester", standin)
    monkeypatch.setenv("STANDIN", "say:" + "|".join(MESSAGES))
    facts = postprocess.MessageFacts(style={"types": ["fix"]})
    monkeypatch.setattr(postprocess, "gather_facts", lambda *_: facts)

    def ask(wanted: int = 0, config: Config | None = None) -> Offer:
        limits = SuggestionLimits(time.monotonic() + 30, 2048)
        return service.suggest_for_staged(opened, config or Config(), limits, HookTrace(), wanted=wanted)

    return ask


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 20])
def test_what_comes_first_does_not_depend_on_how_many_are_wanted(ask: Ask, wanted: int) -> None:
    """The model's fifth has the team's style; it still does not go before what the hook offers."""
    hook = ask()
    more = ask(wanted)
    assert more.messages[: len(hook.messages)] == hook.messages[:wanted]


def test_no_more_than_wanted_are_offered(ask: Ask) -> None:
    assert len(ask(2).messages) == 2


def test_every_suggestion_is_offered_when_all_are_wanted(ask: Ask) -> None:
    assert sorted(ask(20).messages) == sorted(MESSAGES)


def test_the_second_time_the_cache_answers_alike(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask()
    monkeypatch.setenv("STANDIN", "exit:3")  # the model would fail now
    assert ask() == first


def test_the_hook_offers_what_the_prefetch_stored(
    ask: Ask, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SuggestionLimits(time.monotonic() + 30, 2048)
    service.prefetch_suggestions(Repository.open(repo.path), Config(), limits)
    monkeypatch.setenv("STANDIN", "exit:3")
    assert ask().messages[0] == MESSAGES[0]


def test_only_somebody_who_waits_is_in_a_hurry(
    ask: Ask, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_HURRIED", str(tmp_path / "hurried"))
    ask()
    assert (tmp_path / "hurried").read_text() == "True"
    repo.write("a.py", "a = 2\n")
    repo.git("add", ".")
    limits = SuggestionLimits(time.monotonic() + 30, 2048)
    service.prefetch_suggestions(Repository.open(repo.path), Config(), limits)
    assert (tmp_path / "hurried").read_text() == "False"


def test_what_was_withheld_has_a_reason_and_a_score(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the model, and then of the cache."""
    for _ in range(2):
        offer = ask(config=Config(min_score=60))
        assert offer.withheld and offer.best_score == 0.5 and not offer.is_below_threshold
        assert offer.reason == "no suggestion reaches gitpeft.minScore (60); the best scores 50"
    monkeypatch.setenv("STANDIN_THRESHOLD", "0.6")
    assert ask().is_below_threshold and ask().reason == "no suggestion is good enough to offer"
    assert not ask(config=Config(min_score=40)).reason


def test_with_more_alternatives_more_are_ranked_together(ask: Ask) -> None:
    assert ask(config=Config(alternatives=4)).messages[0] == "fix: accept tabs"


def test_everything_staged_is_excluded_says_so(ask: Ask) -> None:
    with pytest.raises(NothingStagedError, match="everything that is staged is excluded"):
        ask(config=Config(exclude=("*.py",)))


def test_a_real_model_answers_a_commit_as_it_did_when_it_was_staged(repo: Repo) -> None:
    """The confined child for what is staged and this process for a commit give the same suggestions."""
    repo.commit("Start", **{"README": "hello\n"})
    opened = Repository.open(repo.path)
    tinymodel.bundle(opened.state_dir)
    repo.write("src/parser.py", "def parse(text):\n    return text.split()\n")
    repo.git("add", ".")
    limits = SuggestionLimits(time.monotonic() + 60, 2048)
    staged = service.suggest_for_staged(opened, Config(), limits, HookTrace(), wanted=3)
    repo.git("commit", "-qm", "Anything")
    committed = service.suggest_for_commit(
        opened, Config(), open_active_suggester(Path(opened.state_dir)), "HEAD", 3
    )
    assert staged.suggestions
    assert committed.suggestions == staged.suggestions
