"""The files of a model in this process and in a helper: the same answers, and the same refusal of damage."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.errors import GitpeftError
from gitpeft.runtime.helper import Helper, serve_requests
from gitpeft.runtime.worker import Worker
from gitpeft.suggest import service
from gitpeft.suggest.model_files import ModelFiles, load_helper
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import tinymodel

CHANGE = tinymodel.CHANGES[0]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    tinymodel.bundle(tmp_path, tinymodel.causal())
    return tmp_path


@pytest.fixture
def helper(state: Path) -> Iterator[Helper]:
    """A helper of the state folder's model, on a thread of this process."""
    (helper_reads, requests), (answers, helper_writes) = os.pipe(), os.pipe()
    arguments = (lambda: load_helper(state), helper_reads, helper_writes)
    thread = threading.Thread(target=serve_requests, args=arguments)
    thread.start()
    found = Helper(requests, answers)
    yield found
    found.close()
    thread.join()


def test_with_a_helper_the_suggestions_are_the_same(state: Path, helper: Helper) -> None:
    alone = open_active_suggester(state).suggest(CHANGE, "Add tests", 3)
    assert alone and open_active_suggester(state, helper).suggest(CHANGE, "Add tests", 3) == alone


def test_the_child_of_the_hook_answers_with_a_helper_and_without(state: Path) -> None:
    request = {"change": CHANGE, "previous": "", "n": 3}
    answers = []
    for helper in (service.load_helper, None):
        with Worker(
            state, service.load_message_handler, time.monotonic() + 60, 2048, helper=helper
        ) as worker:
            answers.append(worker.get_answer(request)["suggestions"])
    assert answers[0] and answers[0] == answers[1]


def test_a_helper_is_only_started_where_a_core_is_free_for_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(service, "Worker", lambda *_, helper: started.append(helper))
    for cores in ({0, 1}, {0}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        service._start_worker(state, service.SuggestionLimits(0.0, 256))
    assert started == [service.load_helper, None]


@pytest.mark.parametrize("name", [bundles.TOKENIZER_FILE, bundles.WEIGHTS_FILE])
def test_a_helper_finds_damaged_files(state: Path, name: str) -> None:
    path = bundles.require_active_bundle(state).path / name
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 4
    path.write_bytes(raw)
    request = {"change": CHANGE, "previous": "", "n": 3}
    with Worker(
        state, service.load_message_handler, time.monotonic() + 60, 2048, helper=service.load_helper
    ) as worker:
        try:
            worker.get_answer(request)
        except GitpeftError as error:
            assert f"{name} of the model is damaged" in str(error)
        else:
            assert f"{name} of the model is damaged" in worker.problem


def test_a_helper_reads_the_files_of_the_bundle_that_is_asked_for(state: Path, helper: Helper) -> None:
    """Another model may become the active one between the start of a helper and that of its child."""
    old = bundles.require_active_bundle(state)
    codec = ModelFiles(old, helper).load_codec()
    assert codec.decode(codec.encode_message("fix cache", "prompt")) == "fix cache"
    new = bundles.open_bundle(state / "models" / tinymodel.bundle(state, tinymodel.causal(seed=1)))
    assert new.id != old.id
    weights = new.path / bundles.WEIGHTS_FILE
    weights.write_bytes(bytes(weights.stat().st_size))
    ModelFiles(old, helper).check_weights()
    with pytest.raises(GitpeftError, match="damaged"):
        ModelFiles(new, helper).check_weights()
