"""`gitpeft.learn.szz.szz` on hand-made histories: exactly the commit that brought the bug in is labelled."""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn.szz import candidate_lines, szz
from gitpeft.learn.szz.szz import SzzLabels
from tests.support.gitrepo import EPOCH, HOUR, Repo, partial_clone

GOOD = "def area(width, height):\n    return width * height\n"
BAD = "def area(width, height):\n    return width + height\n"
OTHER = "def edge(width, height):\n    return 2 * (width + height)\n"


def find(repo: Repo, tip: str = "HEAD", config: Config | None = None) -> SzzLabels:
    return szz.trace_bug_introducing_commits(
        Repository.open(repo.path), tip, config or Config(), lambda *heard: None
    )


def causes(repo: Repo, config: Config | None = None) -> dict[str, tuple[str, ...]]:
    """The labelled commits with the fixes that speak against them."""
    return {sha: verdict.fixes for sha, verdict in find(repo, config=config).verdicts.items()}


def test_a_bug_is_traced_to_its_commit(repo: Repo) -> None:
    repo.commit("Add a module", **{"a.py": OTHER})
    bug = repo.commit("Add area", **{"a.py": OTHER + BAD})
    repo.commit("Add more", **{"a.py": "import math\n" + OTHER + BAD})
    fix = repo.commit("Fix area", **{"a.py": "import math\n" + OTHER + GOOD})
    found = find(repo)
    assert list(found.verdicts) == [bug]
    verdict = found.verdicts[bug]
    assert verdict == szz.BugIntroducingCommit(bug, EPOCH + 3 * HOUR, (fix,), (("a.py", 4),))
    assert found.fixes == {fix: "word"}
    report = found.report
    assert (report.commits, report.read, report.fixes, report.traced) == (4, 4, {"word": 1}, 1)
    assert found.bugs_known_at(EPOCH + 3 * HOUR) == {bug}
    assert found.bugs_known_at(EPOCH + 3 * HOUR - 1) == set()


def test_several_fixes_are_ordered_and_the_first_makes_it_known(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD + OTHER})
    one = repo.commit("Fix area", **{"a.py": GOOD + OTHER})
    two = repo.commit("Fix edge", **{"a.py": GOOD + OTHER.replace("2", "2.0")})
    verdict = find(repo).verdicts[bug]
    assert (verdict.known, verdict.fixes) == (EPOCH + HOUR, (one, two))
    assert verdict.lines == (("a.py", 2), ("a.py", 4))


def test_through_a_rename_the_line_is_named_where_it_was(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"old/a.py": OTHER + BAD})
    repo.git("mv", "old/a.py", "b.py")
    repo.commit("Move it")
    fix = repo.commit("Fix area", **{"b.py": OTHER + GOOD})
    found = find(repo)
    assert {sha: verdict.fixes for sha, verdict in found.verdicts.items()} == {bug: (fix,)}
    assert found.verdicts[bug].lines == (("old/a.py", 4),)


def test_through_white_space_and_line_breaks(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.c": "int area(int w, int h)\n{\n  return plus(w, h);\n}\n"})
    repo.commit("Indent", **{"a.c": "int area(int w, int h)\n{\n\treturn plus(w, h);\n}\n"})
    repo.commit("Break lines", **{"a.c": "int area(int w, int h)\n{\n\treturn plus(\n\t\tw,\n\t\th);\n}\n"})
    fix = repo.commit(
        "Fix area", **{"a.c": "int area(int w, int h)\n{\n\treturn times(\n\t\tw,\n\t\th);\n}\n"}
    )
    assert causes(repo) == {bug: (fix,)}


def test_a_comment_is_no_cause(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD + OTHER})
    repo.commit("Explain", **{"a.py": "# wrong words\n" + BAD + '"""Odd\n\nwords."""\n' + OTHER})
    fix = repo.commit("Fix area", **{"a.py": "# right words\n" + GOOD + '"""Fine\n\nspeech."""\n' + OTHER})
    assert causes(repo) == {bug: (fix,)}
    assert find(repo).report.lines == {"comment": 3}


def test_a_moved_block_is_no_cause(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD, "b.py": "import a\n"})
    repo.commit("Add edge", **{"a.py": BAD + OTHER})
    fix = repo.commit("Fix area, and move edge", **{"a.py": GOOD, "b.py": "import a\n" + OTHER})
    assert causes(repo) == {bug: (fix,)}
    assert find(repo).report.lines == {"moved": 2}


@pytest.mark.parametrize("file", ["a.py", "b.py"])
def test_through_a_moved_block(repo: Repo, file: str) -> None:
    """Moved to another place in its file, or to another file: what was wrong in it came with its writer."""
    between = "".join(f"value_{i} = {i}\n" for i in range(20))
    bug = repo.commit("Add area", **{"a.py": BAD + between + OTHER, "b.py": "import a\n" + between})
    after = {"a.py": between + OTHER, "b.py": "import a\n" + between}
    repo.commit("Move area", **{**after, file: after[file] + BAD})
    fix = repo.commit("Fix area", **{file: after[file] + GOOD})
    assert causes(repo) == {bug: (fix,)}
    assert find(repo).verdicts[bug].lines == (("a.py", 2),)


def test_a_revert_names_what_it_takes_back(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": GOOD})
    bug = repo.commit("Simplify", **{"a.py": BAD})
    repo.git("revert", "--no-edit", "HEAD")
    assert causes(repo) == {bug: (repo.git("rev-parse", "HEAD"),)}
    assert find(repo).fixes == {repo.git("rev-parse", "HEAD"): "revert"}


def test_a_revert_may_quote_the_subject_only(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": GOOD})
    bug = repo.commit("Simplify (#3)", **{"a.py": BAD})
    fix = repo.commit('Revert "Simplify (#3)" (#4)', **{"a.py": GOOD})
    assert causes(repo) == {bug: (fix,)}


def test_a_reverted_revert_repairs_nothing(repo: Repo) -> None:
    repo.commit("Add a module", **{"a.py": OTHER})
    repo.commit("Add area", **{"a.py": OTHER + GOOD})
    repo.git("revert", "--no-edit", "HEAD")
    repo.tick()
    repo.git("revert", "--no-edit", "HEAD")
    found = find(repo)
    assert (found.verdicts, found.fixes) == ({}, {})
    assert found.report.skipped == {"reverted or reapplied": 1}


def test_lines_that_a_reverted_revert_brings_back_are_their_first_writers(repo: Repo) -> None:
    repo.commit("Add a module", **{"a.py": OTHER})
    bug = repo.commit("Add area", **{"a.py": OTHER + BAD})
    repo.git("revert", "--no-edit", "HEAD")
    repo.tick()
    repo.git("revert", "--no-edit", "HEAD")
    repo.tick()
    fix = repo.commit("Fix area", **{"a.py": OTHER + GOOD})
    found = find(repo)
    assert {sha: verdict.fixes for sha, verdict in found.verdicts.items()} == {bug: (fix,)}
    assert found.verdicts[bug].lines == (("a.py", 4),)


def test_a_reverted_revert_of_a_merge_is_no_bug(repo: Repo) -> None:
    repo.commit("Add a module", **{"a.py": OTHER})
    repo.git("checkout", "-qb", "side")
    repo.commit("Add area", **{"a.py": OTHER + GOOD})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "Merge branch 'side'", "side")
    repo.tick()
    repo.git("revert", "--no-edit", "-m", "1", "HEAD")
    repo.tick()
    repo.git("revert", "--no-edit", "HEAD")
    assert causes(repo) == {}


def test_a_third_revert_decides_again(repo: Repo) -> None:
    repo.commit("Add a module", **{"a.py": OTHER})
    bug = repo.commit("Add area", **{"a.py": OTHER + BAD})
    for _ in range(3):
        repo.git("revert", "--no-edit", "HEAD")
        repo.tick()
    first = repo.git("rev-parse", "HEAD~2")
    assert causes(repo) == {bug: (first,)}


def test_a_bug_from_a_branch_is_not_the_merges(repo: Repo) -> None:
    repo.commit("Add a module", **{"a.py": OTHER})
    repo.git("checkout", "-qb", "side")
    bug = repo.commit("Add area", **{"a.py": OTHER + "\n\n" + BAD})
    repo.git("checkout", "-q", "main")
    repo.commit("Add a line", **{"a.py": "import math\n" + OTHER})
    repo.git("merge", "-q", "--no-ff", "-m", "Merge branch 'side'", "side")
    repo.tick()
    fix = repo.commit("Fix area", **{"a.py": "import math\n" + OTHER + "\n\n" + GOOD})
    assert causes(repo) == {bug: (fix,)}


def test_a_bug_made_in_settling_a_conflict_is_the_merges(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": GOOD})
    repo.git("checkout", "-qb", "side")
    repo.commit("Say int", **{"a.py": GOOD.replace("width * height", "int(width * height)")})
    repo.git("checkout", "-q", "main")
    repo.commit("Say float", **{"a.py": GOOD.replace("width * height", "float(width * height)")})
    repo.git("merge", "side", check=False)
    bug = repo.commit("Merge branch 'side'", **{"a.py": BAD})
    fix = repo.commit("Fix area", **{"a.py": GOOD})
    assert causes(repo) == {bug: (fix,)}


def test_an_octopus(repo: Repo) -> None:
    base = repo.commit("Start", **{"a.py": "x = 1\n"})
    for name, content in (("one", BAD), ("two", OTHER)):
        repo.git("checkout", "-qb", name, base)
        repo.commit(f"Add {name}", **{f"{name}.py": content})
    bug = repo.git("rev-parse", "one")
    repo.git("checkout", "-q", "main")
    repo.commit("Go on", **{"b.py": "y = 1\n"})
    repo.git("merge", "-q", "-m", "Merge branches 'one' and 'two'", "one", "two")
    repo.tick()
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    fix = repo.commit("Fix area", **{"one.py": GOOD})
    assert causes(repo) == {bug: (fix,)}


def test_a_trailer_names_the_cause(repo: Repo) -> None:
    writer = repo.commit("Add area", **{"a.py": BAD})
    bug = repo.commit("Use it", **{"b.py": "import a\nprint(a.area(1, 2))\n"})
    fix = repo.commit(f"area: multiply\n\nFixes: {bug[:12]} (Use it)", **{"a.py": GOOD})
    found = find(repo)
    assert {sha: (v.fixes, v.lines) for sha, v in found.verdicts.items()} == {bug: ((fix,), ())}
    assert writer not in found.verdicts
    assert found.fixes == {fix: "trailer"}
    assert found.report.lines == {"of a commit that the fix does not name": 1}


def test_ignored_revisions_pass_their_lines_on(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    quoted = repo.commit("Reformat", **{"a.py": BAD.replace("width + height", "(width + height)")})
    repo.commit("Ignore it", **{".git-blame-ignore-revs": f"# style\n{quoted} # and more\n\nnonsense\n"})
    fix = repo.commit("Fix area", **{"a.py": GOOD})
    assert causes(repo) == {bug: (fix,)}
    repo.commit("Ignore nothing", **{".git-blame-ignore-revs": None})
    assert causes(repo) == {quoted: (fix,)}


def test_impossible_dates_are_left_out(repo: Repo) -> None:
    repo.clock = 200_000_000  # 1976
    repo.commit("Add area", **{"a.py": BAD})
    repo.clock = EPOCH + 100 * HOUR
    repo.commit("Add edge", **{"b.py": OTHER})
    repo.clock = EPOCH
    repo.commit("Fix both", **{"a.py": GOOD, "b.py": OTHER.replace("2", "4")})
    repo.clock = 4_000_000_000
    late = repo.commit("Fix it later", **{"b.py": OTHER.replace("2", "8")})
    found = find(repo)
    assert found.verdicts == {}
    assert found.report.lines == {"implausible date": 1, "dated after its fix": 1}
    assert found.report.skipped == {"implausible date": 1}
    assert late not in found.fixes


def test_an_import_is_no_cause(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(szz, "LARGE_COMMIT_FILES", 2)
    repo.commit("Import", **{f"f{i}.py": BAD for i in range(3)})
    repo.commit("Fix area", **{"f1.py": GOOD})
    found = find(repo)
    assert (found.verdicts, found.report.lines) == ({}, {"large commit": 1})


def test_the_teams_pattern_decides(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Fix nothing in particular", **{"a.py": BAD + OTHER})
    fix = repo.commit("TOKEN-7: multiply", **{"a.py": GOOD + OTHER})
    assert causes(repo) == {}
    assert causes(repo, Config(fix_pattern=r"^TOKEN-\d+")) == {bug: (fix,)}


def test_a_shallow_clone_is_counted(repo: Repo, tmp_path: Path) -> None:
    repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Go on", **{"b.py": "x = 1\n"})
    bug = repo.commit("Add edge", **{"c.py": OTHER})
    fix = repo.commit("Fix both", **{"a.py": GOOD, "c.py": OTHER.replace("2", "4")})
    shallow = repo.clone(tmp_path / "shallow", "--depth=2")
    found = find(shallow)
    assert (found.verdicts, found.fixes) == ({}, {fix: "word"})
    assert found.report.lines == {"history not here": 2}
    assert found.report.skipped == {"shallow": 1}
    assert bug in find(repo).verdicts


def test_missing_blobs_are_counted(repo: Repo, tmp_path: Path) -> None:
    bug = repo.commit("Add edge", **{"small.py": OTHER})
    repo.commit("Add area", **{"large.py": BAD + "#" * 1000 + "\n"})
    repo.commit("Shrink", **{"large.py": BAD})
    fix = repo.commit("Fix both", **{"large.py": GOOD, "small.py": OTHER.replace("2", "4")})
    clone = partial_clone(repo, tmp_path / "partial", "blob:limit=500")
    found = find(clone)
    assert {sha: verdict.fixes for sha, verdict in found.verdicts.items()} == {bug: (fix,)}
    assert found.report.lines == {"history not here": 1}
    assert found.report.skipped == {"missing": 2}


def test_odd_content_does_no_harm(repo: Repo) -> None:
    odd = 'dir/a "b"\té ü.py'
    repo.stage(**{"latin.py": b"x = '\xe9'\ny = 1\n", "bin.py": b"\0\1"})
    bug = repo.commit("Add it", **{odd: BAD})
    name = b"caf\xe9.py".decode("utf-8", "surrogateescape")
    repo.write(name, BAD)
    repo.git("add", "-A")
    other = repo.commit(b"Caf\xe9")
    repo.write(name, GOOD)
    repo.git("add", "-A")
    files: dict[str, str | bytes | None] = {
        odd: GOOD,
        "latin.py": b"x = '\xe9'\ny = 2\n",
        "bin.py": b"\0\2",
        "go.sum": "x\n",
    }
    fix = repo.commit("Fix area", **files)
    found = find(repo)
    assert {sha: verdict.fixes for sha, verdict in found.verdicts.items()} == {bug: (fix,), other: (fix,)}
    assert found.verdicts[other].lines == (("caf\udce9.py", 2),)
    assert found.report.files == {"binary, link or submodule": 1, "added": 1}


def test_no_one_is_named(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Fix area", **{"a.py": GOOD})
    assert "Ada" not in repr(find(repo))
    assert "example.org" not in repr(find(repo))
    state = Repository.open(repo.path).state_dir
    assert all(b"Ada" not in path.read_bytes() for path in state.iterdir())


def test_a_grown_history_reads_only_what_is_new(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Go on", **{"b.py": "x = 1\n"})
    assert find(repo).report.read == 2
    assert find(repo).report.read == 0
    fix = repo.commit("Fix area", **{"a.py": GOOD})
    grown = find(repo)
    assert (grown.report.read, list(grown.verdicts)) == (1, [bug])
    shutil.rmtree(Repository.open(repo.path).state_dir)
    fresh = find(repo)
    assert (fresh.report.read, fresh.verdicts, fresh.fixes) == (3, grown.verdicts, {fix: "word"})
    # what is asked of a commit can change without the commit: then it is read again
    repo.git("revert", "--no-edit", "HEAD")
    assert find(repo).report.read == 2


def test_an_older_tip_and_a_rewritten_history(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Fix area", **{"a.py": GOOD})
    assert list(find(repo).verdicts) == [bug]
    assert find(repo, "HEAD~1").verdicts == {}
    repo.git("reset", "-q", "--hard", "HEAD~1")
    other = repo.commit("Fix it differently: area", **{"a.py": GOOD + "\n"})
    assert find(repo).verdicts[bug].fixes == (other,)


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_damaged_cache_is_made_anew(repo: Repo, content: bytes) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Fix area", **{"a.py": GOOD})
    find(repo)
    path = Repository.open(repo.path).state_dir / "lines.db"
    path.write_bytes(content)
    assert list(find(repo).verdicts) == [bug]
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert find(repo).report.read == 2


def test_a_state_directory_that_cannot_be_made(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Fix area", **{"a.py": GOOD})
    Repository.open(repo.path).state_dir.write_text("a file in the way")
    assert list(find(repo).verdicts) == [bug]


def test_a_tip_that_names_nothing(repo: Repo) -> None:
    repo.commit("Start")
    with pytest.raises(GitpeftError, match="unknown revision"):
        find(repo, "nowhere")


def test_progress_ends_at_one(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": BAD})
    heard: list[tuple[str, float, str]] = []
    szz.trace_bug_introducing_commits(
        Repository.open(repo.path), "HEAD", Config(), lambda *one: heard.append(one)
    )
    assert {step for step, _, _ in heard} == {"labels"}
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)
    assert heard[-1][1] == 1.0


def test_latency_is_interpolated_and_needs_enough(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": BAD})
    found = find(repo)
    assert found.latency_quantile(0.5) is None
    few = dataclasses.replace(found, _days=tuple(range(szz.MIN_LATENCY_SAMPLES - 1)))
    assert few.latency_quantile(0.5) is None
    some = dataclasses.replace(found, _days=tuple(float(i) for i in range(21)))
    assert [some.latency_quantile(q) for q in (0.0, 0.25, 0.5, 0.975, 1.0)] == [0.0, 5.0, 10.0, 19.5, 20.0]


def test_a_limit_traces_the_newest_and_the_next_run_goes_on(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = repo.commit("Add area", **{"a.py": OTHER + BAD})
    for number in range(4):
        repo.commit(f"Add text {number}", **{"b.txt": f"{number}\n"})
    bug = repo.commit("Add edge", **{"c.py": BAD})
    repo.commit("Fix edge", **{"c.py": GOOD})
    repo.commit("Fix area", **{"a.py": OTHER + GOOD})
    monkeypatch.setattr("gitpeft.learn.szz.edit_cache._COMMITS_AT_ONCE", 3)

    def trace(limit: szz.TraceLimit | None) -> SzzLabels:
        return szz.trace_bug_introducing_commits(
            Repository.open(repo.path), "HEAD", Config(), lambda *heard: None, limit
        )

    part = trace(szz.TraceLimit(0, least=3))
    assert list(part.verdicts) == [bug] and old in part.untraced and bug not in part.untraced
    assert (part.report.commits, part.report.read, part.report.untraced) == (3, 3, 5)
    assert part.report.lines == {"history not here": 1}
    again = trace(szz.TraceLimit(1e9, least=3))
    assert set(again.verdicts) == {old, bug} and not again.untraced
    assert (again.report.commits, again.report.read) == (8, 5), "what was read before is not read again"
    assert dataclasses.replace(again, report=part.report) == dataclasses.replace(
        trace(None), report=part.report
    )


def test_a_fix_that_only_adds_is_traced_to_the_newer_of_the_lines_beside(repo: Repo) -> None:
    check = "    if not width:\n        return 0\n"
    repo.commit("Add edge", **{"a.py": OTHER})
    bug = repo.commit("Add area", **{"a.py": GOOD + OTHER})
    fix = repo.commit("Fix area of nothing", **{"a.py": GOOD.replace("\n", f"\n{check}", 1) + OTHER})
    found = find(repo)
    assert {sha: (one.fixes, one.lines) for sha, one in found.verdicts.items()} == {bug: ((fix,), ())}


def test_an_addition_between_two_commits_speaks_against_the_newer(repo: Repo) -> None:
    first, second = "def show(total):\n", "    print(total)\n"
    repo.commit("Add a function", **{"a.py": first + "    pass\n"})
    bug = repo.commit("Print it", **{"a.py": first + second})
    fix = repo.commit("Fix a missing bound", **{"a.py": first + "    total = min(total, 9)\n" + second})
    assert causes(repo) == {bug: (fix,)}


@pytest.mark.parametrize("added", [OTHER, "import math\n", "AREA = area(1, 1)\n"])
def test_what_is_added_outside_of_definitions_speaks_against_nobody(repo: Repo, added: str) -> None:
    repo.commit("Add area", **{"a.py": GOOD})
    repo.commit("Fix what is missing", **{"a.py": GOOD + added})
    assert causes(repo) == {}


@pytest.mark.parametrize("added", ["# why\n", "\n\n", '"""Why."""\n'])
def test_an_added_comment_speaks_against_nobody(repo: Repo, added: str) -> None:
    repo.commit("Add area", **{"a.py": GOOD})
    repo.commit("Fix what is missing", **{"a.py": GOOD + added})
    assert causes(repo) == {}


def test_an_addition_beside_a_wrong_line_speaks_against_that_line_alone(repo: Repo) -> None:
    bug = repo.commit("Add area", **{"a.py": BAD})
    repo.commit("Add edge", **{"a.py": BAD + OTHER})
    fix = repo.commit("Fix area", **{"a.py": "import math\n" + GOOD + OTHER + "AREA = area(1, 1)\n"})
    assert causes(repo) == {bug: (fix,)}


def test_a_large_addition_is_no_evidence(repo: Repo) -> None:
    repo.commit("Add area", **{"a.py": GOOD})
    many = "".join(f"    x{i} = {i}\n" for i in range(candidate_lines.LARGE_FIX_LINES + 1))
    repo.commit("Fix what is missing", **{"a.py": GOOD.replace("\n", f"\n{many}", 1)})
    assert causes(repo) == {}
