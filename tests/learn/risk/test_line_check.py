"""Whether the lines with large weights are those that fixes changed, compared with random lines."""

import numpy as np
import pytest

from gitpeft.git.repository import Repository
from gitpeft.learn.risk import line_check
from gitpeft.learn.szz.szz import BugIntroducingCommit
from tests.support.gitrepo import Repo


def test_lines_are_looked_up_in_the_commit(repo: Repo) -> None:
    sha = repo.commit("start", **{"a.py": "import os\n\ndef f():\n    return   1\n", "b.py": "x = 1\n"})
    verdict = BugIntroducingCommit(
        sha, 1, ("f" * 40,), (("a.py", 4), ("b.py", 1), ("b.py", 9), ("gone.py", 1))
    )
    found = line_check.make_fixed_line_lookup(Repository.open(repo.path), {sha: verdict})(["0" * 40, sha])
    assert found == {sha: frozenset({("a.py", "+return 1"), ("b.py", "+x = 1")})}


def test_chance_is_the_share_of_fixed_lines() -> None:
    lines = [("a", f"+{i}") for i in range(4)]
    found = line_check.measure_line_hits([(lines, frozenset(lines[:1]))] * 30)
    assert found.as_dict() == {"n": 30, "hits": 1.0, "chance": 0.25, "gain": [0.75, 0.75, 0.75]}
    # Where nothing or everything was fixed, no order is better than another.
    assert line_check.measure_line_hits([(lines, frozenset()), (lines, frozenset(lines))]).n == 0


def test_an_order_drawn_at_random_gains_nothing() -> None:
    dice = np.random.default_rng(0)
    lines = [("a", f"+{i}") for i in range(5)]
    rows = [([lines[i] for i in dice.permutation(5)], frozenset(lines[:2])) for _ in range(400)]
    found = line_check.measure_line_hits(rows)
    assert found.chance == 0.4 and found.gain[1] < 0 < found.gain[2]
    assert found.hits == pytest.approx(0.4, abs=0.06)
