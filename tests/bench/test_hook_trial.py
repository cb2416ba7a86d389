"""A hook that fails must not count as a fast one."""

from collections.abc import Callable

import pytest

from tests.bench.bench_scale import HookTrial
from tests.support.gitrepo import Repo


@pytest.fixture
def try_hook(repo: Repo) -> Callable[[str], HookTrial]:
    """A trial of a hook that is this line of shell, run once."""

    def run(line: str) -> HookTrial:
        repo.commit("Start", **{"a.py": "a = 1\n"})
        hook = repo.path / ".git" / "hooks" / "prepare-commit-msg"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{line}\n")
        hook.chmod(0o755)
        trial = HookTrial(repo.path)
        trial.run(1)
        return trial

    return run


def test_what_is_offered_and_what_is_not(try_hook: Callable[[str], HookTrial]) -> None:
    trial = try_hook('echo Add a value > "$1"')
    assert (len(trial.seconds), trial.silent) == (1, 0)
    assert try_hook("true").silent == 1


@pytest.mark.parametrize("line", ["exit 1", "mkdir -p .git/gitpeft; echo no model >> .git/gitpeft/hook.log"])
def test_a_hook_that_fails_ends_the_trial(
    line: str, repo: Repo, try_hook: Callable[[str], HookTrial]
) -> None:
    with pytest.raises(SystemExit, match="the hook of"):
        try_hook(line)
    assert repo.git("status", "--porcelain") == ""
