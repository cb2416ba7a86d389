"""Parts of a history: who teaches, who asks, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn.compare import comparison, run
from gitpeft.learn.compare.halving import ComparisonRequest
from gitpeft.learn.compare.report import ComparisonReport
from gitpeft.learn.compare.results import to_plain
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.data.subsets import (
    LANGUAGE_TRANSFER,
    LOW_RESOURCE,
    HistorySubset,
    LanguageSplit,
    detect_main_language,
)
from tests.support import generated
from tests.support.comparisons import hurry
from tests.support.gitrepo import Repo
from tests.support.tinybase import Built, loosen


@pytest.mark.parametrize(
    ("change", "language"),
    [
        (" src/parser.py +3 -1\n#src/parser.py\n+x", "python"),
        (" a.py +3 -1\n b.go +9 -0", "go"),
        ("Ra.tsx +1 -1 <b.ts", "typescript"),
        (" README +3 -1", ""),
        (" data.xyz +3 -1", "xyz"),
        (" +9 -9.py +1 -0\n b.c +2 -0", "c"),
        ("", ""),
    ],
)
def test_a_change_is_in_the_language_of_most_of_its_lines(change: str, language: str) -> None:
    assert detect_main_language(change) == language


def parts(train: str = "pg" * 40, valid: str = "pg" * 12) -> LanguageSplit[str]:
    return LanguageSplit(list(train), list(valid), lambda one: {"p": "python", "g": "go"}[one])


def test_the_newest_commits_and_as_many_of_either_language() -> None:
    known = parts("p" * 50 + "g" * 30)
    found = subsets.plan_subsets(known, (40, 20), (("python", "go"),))
    assert [cut.label for cut in found] == ["newest 20", "newest 40", "python → go", "go → go"]
    assert {cut.examples for cut in found if cut.kind == LANGUAGE_TRANSFER} == {30}
    train, chooses, asked = known.select_subset(HistorySubset(LOW_RESOURCE, "40", "", 40))
    assert train == ["p"] * 10 + ["g"] * 30 and chooses == asked == known.valid
    train, chooses, asked = known.select_subset(found[2])
    assert set(train) == set(chooses) == {"p"} and set(asked) == {"g"} and len(train) == 30


@pytest.mark.parametrize(
    ("sizes", "pairs", "sentence"),
    [
        ((80,), (), "cannot take 80 of the 80 training commits"),
        ((3,), (), "cannot take 3 of"),
        ((), (("python", "rust"),), "python:rust cannot be compared: only 0 training commits in rust"),
        ((), (("rust", "python"),), "only 0 training commits in rust"),
    ],
)
def test_parts_that_say_nothing_are_refused(sizes: Any, pairs: Any, sentence: str) -> None:
    with pytest.raises(GitpeftError, match=sentence) as error:
        subsets.plan_subsets(parts(), sizes, pairs)
    assert "--low-resource" in error.value.hint or "python (40), go (40)" in error.value.hint


def test_how_they_are_written() -> None:
    assert subsets.parse_sizes("50, 200,") == [50, 200] and subsets.parse_sizes("") == []
    assert subsets.parse_language_pairs("py:go,Java:.js") == [("python", "go"), ("java", "javascript")]
    for wrong in ("python", "py:python", ":go"):
        with pytest.raises(GitpeftError, match="does not name two languages"):
            subsets.parse_language_pairs(wrong)
    with pytest.raises(GitpeftError, match="is not a list of numbers"):
        subsets.parse_sizes("many")


def test_exemplars_come_from_what_teaches() -> None:
    bare = [
        Example(f" f.py +1 -0\n#f.py\n+read_{i % 5}", f"m{i}", "", ("x",), f"{i:040x}") for i in range(40)
    ]
    found = dataset.build_dataset_from_parts(bare[:30], bare[30:], 2)
    assert len(found.train) == 30 and len(found.valid) == 10 and found.test == ()
    assert found.train[0].like == ()
    taught = {example.message for example in bare[:30]}
    assert all(example.like and set(example.like) <= taught for example in found.valid)


# --- the whole ----------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Repo:
    """Two languages, turn by turn."""
    steps = []
    for number, step in enumerate(generated.team(240)):
        ending = ".go" if number % 2 else ".py"
        files = {path.replace(".py", ending): text for path, text in step.files.items()}
        steps.append(replace(step, files=files))
    repo = Repo.create(tmp_path / "mixed")
    generated.put(repo, steps)
    return repo


def compared(repo: Repo, built: Built, **wish: Any) -> ComparisonReport:
    """With six steps a run, whatever time it takes here."""
    asked = ComparisonRequest(("lora:rank=4", "full"), bases=(str(built.out),), **{"minutes": 60.0, **wish})
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        hurry(patch)
        return run.compare_methods(Repository.open(repo.path), asked, lambda _rows, _now: None)


def test_fewer_commits_and_another_language(mixed: Repo, built: Built) -> None:
    wish: dict[str, Any] = {"low": (30, 60), "transfer": (("python", "go"),)}
    whole = compared(mixed, built, **wish)
    [task] = whole.tasks
    report: Any = task.as_dict()
    low = report["low"]
    assert low["sizes"] == [30, 60, 192] and {"lora:rank=4 on out", "full on out"} <= low["systems"].keys()
    assert all(
        one and one["low"] <= one["mean"] <= one["high"] for one in low["systems"]["nearest neighbour"]
    )
    assert [gain["size"] for gain in low["gains"]] == low["sizes"]
    [table] = report["transfer"]
    assert (table["taught"], table["asked"]) == ("python", "go") and table["n"] >= 10
    rows = {row["label"]: row for row in table["rows"]}
    assert rows["full on out"]["gap"].keys() == {"mean", "low", "high", "clear"}
    words = " ".join(report["advice"]["words"])
    assert "Fewer commits:" in words and "Trained on python, evaluated on go" in words
    page = Path(whole.page).read_text()
    assert "With fewer commits" in page and "python → go" in page and "192 commits" in page
    folder = Path(whole.page).parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert len(before) == 2 + 2 * 4
    again = compared(mixed, built, **wish)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before
    assert json.dumps(to_plain(again.tasks[0].facts.low)) == json.dumps(low)
    for tasks in report["probes"].values():
        assert tasks.keys() == {"CCM", "LTP"} | ({"TYP"} & tasks.keys())
        for known in tasks.values():
            assert len(known["untuned"]) == 2 and known["tuned"].keys() == known["change"].keys()
            assert known["tuned"].keys() == {"lora:rank=4 on out", "full on out"}
    assert "Layer probes" in page and "static" in page


def test_what_time_does_not_allow_for_is_said(
    mixed: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison.Comparison, "remaining_seconds", lambda _self: 0.0)
    [task] = compared(mixed, built, minutes=0.5, low=(30,)).tasks
    assert task.facts.low is None and "newest 30" in task.facts.left_out
    assert "layer probes" in task.facts.left_out
