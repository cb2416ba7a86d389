"""`gitpeft risk`: what it counts, how it says so, and how it ends."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.config import Config
from gitpeft.git.repository import Repository
from gitpeft.history.store import History, MiningReport
from gitpeft.lazy import replace_fields
from gitpeft.risk import formats, model, precommit
from gitpeft.risk.assessor import RiskAssessor, RiskReport, assess_revision
from gitpeft.risk.evidence import Evidence
from tests.support.commands import Call
from tests.support.gitrepo import Repo, partial_clone
from tests.support.risky import MODEL, NOTHING, change_core, fixed_often, give, load
from tests.support.sarifcheck import check_sarif


@pytest.fixture
def core(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A history with a file that was fixed often, and a model."""
    fixed_often(repo)
    give(repo)
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{repo.clock} +0000")  # now: an hour after the last commit
    return repo


def texts(report: dict[str, Any]) -> list[str]:
    return [one["text"] for one in report["evidence"]]


def test_the_evidence_can_be_counted_in_git(core: Repo, gitpeft: Call) -> None:
    """H2: each line names what was counted, and git counts the same."""
    change_core(core)
    done = gitpeft("risk", "--staged", "--format", "json", "--repo", core.path)
    [report] = load(done.out)
    assert done.code == 0 and report["flagged"] is True and report["percentile"] > 90
    said = texts(report)
    fixes = len(core.git("log", "--format=%H", "--grep=^fix", "--", "src/core.py").split())
    changes = len(core.git("log", "--format=%H", "--", "src/core.py").split())
    assert f"src/core.py: {fixes} of its {changes} changes in the last year were fixes" in said
    assert "src/core.py, in “def step3(value):”: 5 fixes in the last year" in said
    assert "tests/test_core.py usually changes with src/core.py (7 of 7 times), but not here" in said
    assert any(line.startswith("42 lines added and 1 removed in 1 file: larger than") for line in said)
    assert len(said) <= 5 and report["files"] == ["src/core.py"] and report["model"] == "logistic regression"


def test_the_keys_are_those_that_were_promised(core: Repo, gitpeft: Call) -> None:
    [report] = load(gitpeft("risk", "HEAD", "--format", "json", "--repo", core.path).out)
    assert list(report) == ["rev", "probability", "percentile", "flagged", "evidence", "files", "model"]
    [more] = load(gitpeft("risk", "HEAD", "--format", "json", "--explain", "--repo", core.path).out)
    assert {"metrics", "parts"} == more.keys() - report.keys()
    assert more["metrics"]["nuc"] == 6 and set(more["parts"]) == {"la", "nuc"}


def test_nobody_is_named(core: Repo, gitpeft: Call) -> None:
    """H8: neither a name nor an address, in any format, with everything explained."""
    change_core(core)
    for format_ in formats.REPORT_FORMATS:
        for what in ("--staged", "HEAD~5..HEAD"):
            done = gitpeft("risk", what, "--format", format_, "--explain", "--repo", core.path)
            assert not re.search(r"zoe|person\d|@example|\bada\b|\bcarl\b", done.out + done.err, re.I), done


@pytest.mark.parametrize("scores", [MODEL.scores, tuple(range(100, 201))])
def test_the_hook_judges_as_the_command_does(core: Repo, scores: tuple[float, ...]) -> None:
    """It leaves out what only a report needs, and nothing else."""
    change_core(core)
    repository, known = Repository.open(core.path), replace(MODEL, scores=scores)
    hook = precommit.assess_staged_change(repository, Config(), known)
    with History.open(repository.state_dir) as history:
        command = RiskAssessor(history, repository, known, Config().risk_budget).assess_staged()
    assert hook.score is not None and hook.flagged is (scores == MODEL.scores)
    assert replace_fields(command, evidence=()) == replace_fields(hook, evidence=())
    assert hook.evidence == (command.evidence if hook.flagged else ())


def test_a_commit_is_judged_as_if_it_were_staged(core: Repo, gitpeft: Call) -> None:
    change_core(core)
    [staged] = load(gitpeft("risk", "--staged", "--format", "json", "--explain", "--repo", core.path).out)
    core.git("commit", "-q", "-m", "fix: everything")
    [commit] = load(gitpeft("risk", "HEAD", "--format", "json", "--explain", "--repo", core.path).out)
    for name in ("la", "ld", "lt", "nuc", "ndev", "nf"):
        assert staged["metrics"][name] == commit["metrics"][name]
    assert staged["percentile"] == commit["percentile"]
    assert [one["kind"] for one in staged["evidence"]] == [one["kind"] for one in commit["evidence"]]


def test_the_message_does_not_count(core: Repo, gitpeft: Call) -> None:
    change_core(core)
    core.git("commit", "-q", "-m", "harmless")
    before = load(gitpeft("risk", "HEAD", "--format", "json", "--repo", core.path).out)[0]["percentile"]
    core.git("commit", "-q", "--amend", "-m", "fix: a crash, a bug and a security hole")
    assert (
        load(gitpeft("risk", "HEAD", "--format", "json", "--repo", core.path).out)[0]["percentile"] == before
    )


def test_nothing_later_counts(core: Repo, gitpeft: Call) -> None:
    """What is said of a commit does not change with what comes after it."""
    revs = core.git("rev-list", "--reverse", "HEAD").split()
    before = gitpeft("risk", "--stdin", "--format", "json", "--repo", core.path, stdin="\n".join(revs)).out
    for number in range(5):
        core.commit("fix: again", **{"src/core.py": f"x = {number}\n"})
    after = gitpeft("risk", "--stdin", "--format", "json", "--repo", core.path, stdin="\n".join(revs)).out
    assert after == before and len(load(before)) == 7


def test_ranges_are_the_commits_that_are_no_merges(core: Repo, gitpeft: Call) -> None:
    core.git("checkout", "-q", "-b", "side", "HEAD~2")
    core.commit("beside", beside="1\n")
    core.git("checkout", "-q", "main")
    core.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    between = load(gitpeft("risk", "HEAD~2..HEAD", "--format", "json", "--repo", core.path).out)
    assert [one["rev"] for one in between] == core.git(
        "rev-list", "--no-merges", "--reverse", "HEAD~2..HEAD"
    ).split()
    merge = gitpeft("risk", "HEAD", "--repo", core.path)
    assert merge.code == 0 and "a merge has no change of its own" in merge.out


def test_text_is_for_people(core: Repo, gitpeft: Call) -> None:
    """H3: the place among the commits of this repository, not a probability."""
    change_core(core)
    done = gitpeft("risk", "--repo", core.path)
    assert re.match(r"Staged change: riskier than \d\d% of recent commits  \[flagged\]\n", done.out)
    assert "probability" not in done.out and "What goes into a score: --explain" in done.out
    explained = gitpeft("risk", "--explain", "--repo", core.path).out
    assert re.search(r"estimated bug probability: \d+%", explained)
    assert re.search(r"^ +lines added +42 +\+\d\.\d\d$", explained, re.M)
    assert re.search(r"^ +metric +value +effect$", explained, re.M) and "--explain" not in explained


def test_sarif_takes_no_link_from_a_change() -> None:
    """In SARIF a text in brackets with an address behind it is a link, which a viewer would show."""
    evidence = Evidence("size", "src/[Dismiss: verified](https://evil.example).py: 5 lines", "", {})
    report = RiskReport("a" * 40, flagged=True, percentile=99.0, evidence=(evidence,))
    text = json.loads(formats.format_sarif([report]))["runs"][0]["results"][0]["message"]["text"]
    assert r"\[Dismiss: verified\](https" in text and "[Dismiss" not in text.replace("\\[", "")


def test_sarif_holds_to_the_standard(core: Repo, gitpeft: Call) -> None:
    change_core(core)
    log = json.loads(gitpeft("risk", "--staged", "--format", "sarif", "--repo", core.path).out)
    check_sarif(log)
    [result] = log["runs"][0]["results"]
    uris = [one["physicalLocation"]["artifactLocation"]["uri"] for one in result["locations"]]
    assert uris == ["src/core.py"] and "src/core.py: 5 of its 7" in result["message"]["text"]
    quiet = json.loads(gitpeft("risk", "HEAD~3", "--format", "sarif", "--repo", core.path).out)
    check_sarif(quiet)
    assert quiet["runs"][0]["results"] == []


def odd(path: str, text: str = "100 % of it:\r\nall, of it") -> RiskReport:
    fact = Evidence("fixes", text, path, {})
    return RiskReport("0" * 40, "", "logistic regression", 1.0, 0.5, 99.0, True, (fact,), (path,))


def test_github_annotations_are_escaped() -> None:
    line = formats.format_github_warning(odd("a,b:c%d\ne.py"))
    assert line.startswith("::warning file=a%2Cb%3Ac%25d%0Ae.py,title=gitpeft%3A a risky change::")
    assert "\n" not in line and "\r" not in line
    assert "100 %25 of it:??all, of it" in line  # what cannot be printed never gets that far
    assert formats.format_github_warning(RiskReport("x")) == ""


def test_any_name_makes_a_valid_log_and_a_harmless_line() -> None:
    for path in ("a b.py", "ü/测试.py", "x\x1b[31m.py", "%41.py", "-x", "a\\b"):
        check_sarif(json.loads(formats.format_sarif([odd(path)])))
        assert "\x1b" not in "".join(formats.format_report_lines(odd(path, f"{path} is odd")))


def test_the_exit_status_follows_the_limit(core: Repo, gitpeft: Call) -> None:
    change_core(core)
    assert gitpeft("risk", "--fail-above", "100", "--repo", core.path).code == 0
    done = gitpeft("risk", "--fail-above", "50", "--repo", core.path)
    assert done.code == 1 and "[flagged]" in done.out and "1 change is above the 50th percentile" in done.err
    assert gitpeft("risk", "--fail-above", "101", "--repo", core.path).code == 2


# --- what is not known --------------------------------------------------------------------------------------


def test_too_little_history_says_so_and_still_counts(core: Repo, gitpeft: Call) -> None:
    """H5: the number of known bugs and the number that is needed, no percentile, no flag."""
    give(core, NOTHING)
    change_core(core)
    done = gitpeft("risk", "--repo", core.path)
    assert done.code == 0 and "not enough history (3 known bugs, 40 needed)" in done.out
    assert "5 of its 7 changes" in done.out and "flagged" not in done.out
    [report] = load(gitpeft("risk", "--format", "json", "--repo", core.path).out)
    assert report["percentile"] is None and report["probability"] is None and report["why"]


FEW = {
    "n": 127,
    "buggy": 1,
    "chosen": "x",
    "test": {"x": {"auc": [0.944, 0.905, 0.984], "capture_20": [1.0, 1.0, 1.0]}},
}


@pytest.mark.parametrize("format_", ["text", "json", "sarif", "github"])
def test_no_figure_without_enough_behind_it(core: Repo, gitpeft: Call, format_: str) -> None:
    """An AUC of 0.944 (0.905 to 0.984) on one later-fixed commit means nothing: counts and words then."""
    give(core, replace(MODEL, report=FEW))
    change_core(core)
    done = gitpeft("risk", "--format", format_, "--repo", core.path)
    assert done.code == 0 and 'percentile": 9' not in done.out and "of recent commits" not in done.out
    assert "too few bugs to judge a score (1 of the 127 newest labelled commits, 10 needed)" in done.said
    if format_ in ("text", "json"):
        assert "5 of its 7 changes in the last year were fixes" in done.out
    assert gitpeft("risk", "--fail-above", "50", "--repo", core.path).code == 1, (
        "and a limit cannot be applied"
    )


@pytest.mark.parametrize("arguments", [("status",), ("status", "--verbose"), ("status", "--json")])
def test_nor_in_status(core: Repo, gitpeft: Call, arguments: tuple[str, ...]) -> None:
    give(core, replace(MODEL, report=FEW))
    done = gitpeft(*arguments, "--repo", core.path)
    assert "AUC" not in done.out and "0.944" not in done.out and "auc" not in done.out
    assert "1 of the 127 newest" in " ".join(done.out.split())


@pytest.mark.parametrize(("buggy", "judged"), [(9, False), (10, True)])
def test_ten_bugs_are_enough(buggy: int, judged: bool) -> None:
    found = model.reject_unjudged_model(replace(MODEL, report={**FEW, "buggy": buggy}))
    assert found.is_usable is judged and ("test" in found.report) is judged
    assert model.reject_unjudged_model(replace(MODEL, report={})).is_usable, "of earlier versions: not known"


def test_without_a_model_the_way_to_one_is_named(repo: Repo, gitpeft: Call) -> None:
    fixed_often(repo)
    done = gitpeft("risk", "HEAD", "--repo", repo.path)
    assert done.code == 0 and "gitpeft init" in done.out and "fixes in the last year" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "unknown revision"),
        (("HEAD~99",), "unknown revision"),
        (("HEAD..nowhere",), "unknown revision"),
        (("..",), "unknown revision"),
        (("HEAD...nowhere",), "unknown revision"),
        (("--until", "nowhere"), "unknown revision"),
        (("HEAD:src/core.py",), "unknown revision"),
    ],
)
def test_bad_input_is_a_sentence(arguments: tuple[str, ...], said: str, core: Repo, gitpeft: Call) -> None:
    done = gitpeft("risk", *arguments, "--repo", core.path)
    assert done.code == 1 and said in done.said and done.out == ""


def test_until_asks_a_model_of_that_time_and_not_the_active_one(core: Repo, gitpeft: Call) -> None:
    active = gitpeft("risk", "HEAD", "--repo", core.path)
    then = gitpeft("risk", "HEAD", "--until", "HEAD~3", "--repo", core.path)
    assert "riskier than" in active.out and then.code == 0
    assert re.search(r"not enough history \(\d+ known bugs, 40 needed\)", then.said)


def test_a_bad_revision_does_not_stop_the_others(core: Repo, gitpeft: Call) -> None:
    done = gitpeft(
        "risk", "--stdin", "--format", "json", "--repo", core.path, stdin="HEAD\nnowhere\n\nHEAD~1\n"
    )
    assert done.code == 1 and "1 revision failed" in done.said
    assert ["why" in one for one in load(done.out)] == [False, True, False]


def test_nothing_staged_and_only_generated_files(core: Repo, gitpeft: Call) -> None:
    assert gitpeft("risk", "--staged", "--repo", core.path).out == "Nothing staged\n"
    core.stage(**{"yarn.lock": "a\n" * 900})
    done = gitpeft("risk", "--staged", "--repo", core.path)
    assert done.code == 0 and "only generated files are changed" in done.out


def test_a_damaged_model_is_a_sentence(core: Repo, gitpeft: Call) -> None:
    [path] = Repository.open(core.path).state_dir.glob("models/*/risk.json")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"0.5", b"0.6", 1))
    done = gitpeft("risk", "HEAD", "--repo", core.path)
    assert done.code == 1 and "risk.json of the model is damaged" in done.said
    path.write_bytes(raw[:-9])
    assert gitpeft("risk", "HEAD", "--repo", core.path).code == 1


def test_a_damaged_history_is_read_again(core: Repo, gitpeft: Call) -> None:
    before = gitpeft("risk", "HEAD", "--format", "json", "--repo", core.path).out
    path = Repository.open(core.path).state_dir / "history.db"
    for raw in (b"", b"no database at all" * 300, path.read_bytes()[:5000] + b"\0" * 5000):
        path.write_bytes(raw)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        done = gitpeft("risk", "HEAD", "--format", "json", "--repo", core.path)
        assert (done.code, done.out) == (0, before), done


def test_a_clock_in_the_future_and_one_in_the_past(core: Repo, gitpeft: Call) -> None:
    now = core.clock
    for clock in (now + 400_000_000, 200_000_000, now):
        core.clock = clock
        core.commit("odd times", **{"src/core.py": f"x = {clock}\n"})
    done = gitpeft("risk", "HEAD~3..HEAD", "--format", "json", "--explain", "--repo", core.path)
    assert done.code == 0
    for report in load(done.out):
        numbers: Any = report["metrics"]
        assert numbers["age"] >= 0 and numbers["rexp"] >= 0 and numbers["exp"] > 0


def test_a_shallow_clone_counts_what_is_there(core: Repo, tmp_path: Path, gitpeft: Call) -> None:
    clone = core.clone(tmp_path / "clone", "--depth", "3")
    give(clone)
    done = gitpeft("risk", "HEAD", "--format", "json", "--explain", "--repo", clone.path)
    [report] = load(done.out)
    assert done.code == 0 and report["metrics"]["nuc"] == 1
    cut = gitpeft("risk", "HEAD~2", "--repo", clone.path)
    assert cut.code == 0 and "its change is not here (shallow)" in cut.out


def test_a_partial_clone_fetches_nothing(core: Repo, tmp_path: Path, gitpeft: Call) -> None:
    clone = partial_clone(core, tmp_path / "clone", "blob:none")
    give(clone)
    done = gitpeft("risk", "HEAD~1", "--repo", clone.path)
    assert done.code == 0 and "its change is not here (missing)" in done.out


def test_odd_files_degrade(core: Repo, gitpeft: Call) -> None:
    core.write("bin", bytes(range(256)) * 9)
    core.write("large.txt", "x" * 3_000_000)
    (core.path.joinpath(b"n\xff\n\x1b.py".decode("utf-8", "surrogateescape"))).write_text("x = 1\n")
    (core.path / "link").symlink_to("nowhere")
    core.git("add", "-A")
    core.git("commit", "-q", "-m", "odd")
    core.write("bin", b"\0other")
    core.git("add", "-A")
    for what in ("HEAD", "--staged"):
        done = gitpeft("risk", what, "--repo", core.path)
        assert done.code == 0 and "\x1b" not in done.out, done


def test_the_first_commit_can_be_judged(repo: Repo, gitpeft: Call) -> None:
    repo.stage(a="1\n")
    done = gitpeft("risk", "--staged", "--repo", repo.path)
    assert done.code == 0 and "no risk model" in done.out
    repo.commit("first", a="2\n")
    assert gitpeft("risk", "HEAD", "--repo", repo.path).code == 0


def test_the_bundle_keeps_the_model(core: Repo) -> None:
    bundle = bundles.open_active_bundle(Repository.open(core.path).state_dir)
    assert bundle is not None and model.load_risk_model(bundle) == MODEL


# --- without a score ----------------------------------------------------------------------------------------


def test_fail_above_does_not_pass_without_a_score(core: Repo, gitpeft: Call) -> None:
    give(core, NOTHING)
    change_core(core)
    done = gitpeft("risk", "--staged", "--fail-above", "50", "--repo", core.path)
    assert done.code == 1
    assert "--fail-above was not applied: not enough history (3 known bugs, 40 needed)" in done.said
    merged = gitpeft("risk", "--staged", "--format", "github", "--fail-above", "50", "--repo", core.path)
    assert merged.code == 1
    assert merged.out.startswith("::warning title=gitpeft::no risk score: not enough history")


def test_fail_above_passes_where_there_is_nothing_to_assess(core: Repo, gitpeft: Call) -> None:
    assert gitpeft("risk", "--staged", "--fail-above", "50", "--repo", core.path).code == 0


def test_a_range_says_once_why_there_is_no_score(core: Repo, gitpeft: Call) -> None:
    give(core, NOTHING)
    done = gitpeft("risk", "HEAD~3..HEAD", "--repo", core.path)
    assert done.code == 0
    assert done.out.count("not enough history") == 1
    assert done.out.splitlines()[0].startswith(core.git("log", "-1", "--format=%h %s", "HEAD~2"))


def test_json_is_the_same_by_either_option(core: Repo, gitpeft: Call) -> None:
    by_name = gitpeft("risk", "HEAD", "--json", "--repo", core.path)
    assert by_name.out == gitpeft("risk", "HEAD", "--format", "json", "--repo", core.path).out
    assert gitpeft("risk", "HEAD", "--json", "--format", "sarif", "--repo", core.path).code == 2


def test_the_history_is_looked_through_once_for_head(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit("Add a", **{"a.py": "x = 1\n"})
    mined: list[str] = []
    mine = History.mine_commits

    def record(history: History, repository: Repository, tip: str) -> MiningReport:
        mined.append(tip)
        return mine(history, repository, tip)

    monkeypatch.setattr(History, "mine_commits", record)
    repository = Repository.open(repo.path)
    assert len(list(assess_revision(repository, Config(), "HEAD"))) == 1
    assert mined == [repository.resolve_head()]
