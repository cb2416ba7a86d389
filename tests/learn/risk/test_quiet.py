"""What is called quiet: chosen on older bugs, checked on newer ones, not claimed where it did not hold."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gitpeft.learn.risk import quiet
from gitpeft.learn.risk.classifiers import LabelledCommits, make_lines_added_model
from gitpeft.learn.risk.prequential import EvaluationBlock, FittedModels, RiskTrial
from gitpeft.risk import formats
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.model import LINES_ADDED, RiskModel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.risky import MODEL, change_core, fixed_often, give, load
from tests.support.sarifcheck import check_sarif


def trial(sizes: np.ndarray, truth: np.ndarray) -> RiskTrial:
    """Changes of these sizes, scored by size, after a thousand changes of all sizes from 0 to 999."""
    metrics = tuple(ChangeMetrics(nf=1, la=int(size)) for size in sizes)
    shas = tuple(f"{i:040x}" for i in range(len(sizes)))
    data = LabelledCommits(metrics, truth.astype(float), np.arange(len(sizes), dtype=float), shas)
    usual = np.log1p(np.arange(1000.0))
    part = EvaluationBlock(
        data, data, FittedModels({LINES_ADDED: make_lines_added_model()}, {LINES_ADDED: usual})
    )
    return RiskTrial(data, (part,), {}, LINES_ADDED)


def find_zone(tried: RiskTrial) -> quiet.QuietZone:
    return quiet.find_quiet_zone(quiet.compute_percentiles(LINES_ADDED, tried), tried.data.truth)


def test_the_limit_is_below_all_but_the_lowest_twentieth_of_older_bugs() -> None:
    sizes = np.tile(np.arange(1000), 4)
    found = find_zone(trial(sizes, sizes >= 500))
    assert found.below is not None and 51 < found.below < 54 and found.why == ""
    assert found.of == 1000 and found.bugs == found.of - round(found.of * found.outside[0])  # type: ignore[index]
    assert found.outside is not None and found.outside[1] < found.outside[0] >= quiet.RECALL
    assert found.n > 500 and found.bugs < 60


def test_what_does_not_hold_later_is_not_claimed() -> None:
    """Large changes were the bugs once, small ones are now."""
    sizes = np.tile(np.arange(1000), 4)
    truth = np.where(np.arange(4000) < 2000, sizes >= 500, sizes < 500)
    found = find_zone(trial(sizes, truth))
    assert found.below is None and "later bugs would have been" in found.why and found.bugs > 0


@pytest.mark.parametrize("bugs", [0, 1, 37])
def test_few_bugs_say_nothing_about_quiet(bugs: int) -> None:
    truth = np.zeros(400)
    truth[:bugs] = 1
    found = find_zone(trial(np.arange(400), truth))
    assert found.below is None and f"({bugs} later ones, 38 needed)" in found.why and found.outside is None


def test_intervals_of_shares() -> None:
    assert [round(x, 3) for x in quiet.compute_wilson_interval(27, 27)] == [1.0, 0.875, 1.0]
    assert [round(x, 3) for x in quiet.compute_wilson_interval(1, 2)] == [0.5, 0.095, 0.905]


ZONE = {"quiet": {"below": 70.0, "n": 412, "bugs": 3, "of": 40, "outside": [0.97, 0.9, 1.0]}}


@pytest.fixture
def calm(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository whose model knows what is quiet; only a large change is not."""
    fixed_often(repo)
    give(repo, replace(MODEL, report=ZONE))
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{repo.clock} +0000")
    repo.commit("docs: a word", **{"README.md": "hello you\n"})
    return repo


def test_the_verdict_has_counts_behind_it(calm: Repo, gitpeft: Call) -> None:
    [report] = load(gitpeft("risk", "HEAD", "--json", "--repo", calm.path).out)
    assert report["quiet"] is True and report["flagged"] is False and report["percentile"] < 70
    said = "quiet: of 412 later commits of this repository that ranked as low, 3 needed a fix"
    assert report["evidence"][0]["text"] == said
    text = gitpeft("risk", "HEAD", "--repo", calm.path).out
    assert said in " ".join(text.split()) and "[not flagged]" in text.splitlines()[0]
    change_core(calm, 90)
    [large] = load(gitpeft("risk", "--json", "--repo", calm.path).out)
    assert (
        large["quiet"] is False and large["flagged"] and not large["evidence"][0]["text"].startswith("quiet")
    )


def test_a_lower_limit_can_be_asked_for_but_no_higher_one(calm: Repo, gitpeft: Call) -> None:
    for below, verdict in (("0", False), ("100", True)):
        [report] = load(gitpeft("risk", "HEAD", "--json", "--quiet-below", below, "--repo", calm.path).out)
        assert report["quiet"] is verdict
    assert gitpeft("risk", "HEAD", "--quiet-below", "101", "--repo", calm.path).code == 2


def test_annotations_name_quiet_changes_where_they_are_asked_for(calm: Repo, gitpeft: Call) -> None:
    plain = gitpeft("risk", "HEAD", "--format", "github", "--repo", calm.path).out
    asked = gitpeft("risk", "HEAD", "--format", "github", "--quiet-below", "100", "--repo", calm.path).out
    assert plain == "" and asked.startswith("::notice title=gitpeft: a quiet change::")
    sarif = gitpeft("risk", "HEAD", "--format", "sarif", "--quiet-below", "100", "--repo", calm.path).out
    check_sarif(json.loads(sarif))
    [result] = json.loads(sarif)["runs"][0]["results"]
    assert result["kind"] == "pass" and result["level"] == "none"
    bare = json.loads(gitpeft("risk", "HEAD", "--format", "sarif", "--repo", calm.path).out)
    assert bare["runs"][0]["results"] == []


def test_a_model_of_an_older_version_has_no_verdict(repo: Repo, gitpeft: Call) -> None:
    fixed_often(repo)
    give(repo)
    [report] = load(gitpeft("risk", "HEAD", "--json", "--repo", repo.path).out)
    assert "quiet" not in report and MODEL.quiet_below is None
    assert RiskModel(report={"quiet": {"below": None, "why": "too few bugs"}}).quiet_below is None
    assert formats.format_sarif([], quiet=True)
