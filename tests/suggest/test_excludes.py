"""What is excluded does not leak: neither side of a rename, no odd name, no sparse checkout; it is said."""

from pathlib import Path

import pytest

from gitpeft.config import Config, load_config
from gitpeft.diff.compact import split_compact
from gitpeft.errors import NothingStagedError
from gitpeft.git.repository import Repository
from gitpeft.hooks.doctor import examine_repository
from gitpeft.suggest.service import build_commit_request, build_staged_request
from tests.support.gitrepo import Repo

_PLAN = "".join(f"step {number} of the plan\n" for number in range(40))


def staged(repo: Repo, *exclude: str) -> str:
    return build_staged_request(Repository.open(repo.path), Config(exclude=exclude), 1).change


def committed(repo: Repo, *exclude: str) -> str:
    return build_commit_request(Repository.open(repo.path), Config(exclude=exclude), 1, "HEAD").change


@pytest.fixture
def secret(repo: Repo) -> Repo:
    repo.commit("Start", **{"secret/plan.py": _PLAN, "README": "r\n"})
    return repo


def test_a_rename_out_of_an_excluded_folder_is_a_new_file(secret: Repo) -> None:
    secret.git("mv", "secret/plan.py", "public.py")
    assert "secret" not in staged(secret, "secret/*") and staged(secret, "secret/*").startswith(
        "Apublic.py +40"
    )
    assert "secret" in staged(secret)


def test_a_rename_into_an_excluded_folder_is_a_deletion(secret: Repo) -> None:
    secret.write("notes/x", "")
    secret.git("mv", "secret/plan.py", "notes/private.py")
    assert staged(secret, "notes/").startswith("Dsecret/plan.py +0 -40") and "notes" not in staged(
        secret, "notes/"
    )


def test_a_rename_within_excluded_folders_is_not_read(secret: Repo) -> None:
    secret.write("notes/x", "")
    secret.git("mv", "secret/plan.py", "notes/private.py")
    secret.stage(README="changed\n")
    assert staged(secret, "notes/", "secret/").splitlines()[0] == " README +1 -1"


def test_other_renames_stay_renames_beside_one_that_is_split(secret: Repo) -> None:
    secret.commit("More", **{"a.py": _PLAN.replace("plan", "other")})
    secret.git("mv", "secret/plan.py", "public.py")
    secret.git("mv", "a.py", "b.py")
    lines = staged(secret, "secret/").splitlines()
    assert "Rb.py +0 -0 <a.py" in lines and "Apublic.py +40 -0" in lines


def test_a_commit_that_renames_out_of_an_excluded_folder(secret: Repo) -> None:
    secret.git("mv", "secret/plan.py", "public.py")
    secret.commit("Publish the plan")
    assert "secret" not in committed(secret, "secret/") and "public.py" in committed(secret, "secret/")


def test_an_amended_commit_is_compared_on_both_sides(secret: Repo) -> None:
    secret.git("mv", "secret/plan.py", "public.py")
    secret.commit("Publish")
    opened = Repository.open(secret.path)
    request = build_staged_request(opened, Config(exclude=("secret",)), 1, base="HEAD^")
    assert "secret" not in request.change and "public.py" in request.change


def test_the_exact_name_of_a_file_excludes_it(secret: Repo) -> None:
    names = ["secret/\u0645\u06cc\u200c\u062e.py", "a\u00a0b.py", "a b\tc.py", "-n.py", "\u2028.py"]
    for name in names:
        secret.stage(**{name: "x\n"})
    secret.stage(README="changed\n")
    assert split_compact(staged(secret, *names))[0] == [("README +1 -1", "README")]
    assert len(split_compact(staged(secret))[0]) == 6


def test_a_name_that_is_no_text_excludes_its_file(secret: Repo) -> None:
    (Path(secret.path) / "caf\udce9.py").write_text("x\n")
    secret.git("add", "-A")
    secret.git("config", "gitpeft.exclude", "caf\udce9.py")
    opened = Repository.open(secret.path)
    with pytest.raises(NothingStagedError, match="everything that is staged is excluded"):
        build_staged_request(opened, load_config(opened), 1)


def test_a_submodule_is_excluded_as_a_folder(secret: Repo) -> None:
    sha = secret.git("rev-parse", "HEAD")
    secret.git("update-index", "--add", "--cacheinfo", f"160000,{sha},lib")
    with pytest.raises(NothingStagedError, match="excluded"):
        staged(secret, "lib/")


def test_a_commit_of_excluded_files_alone_says_so(secret: Repo) -> None:
    secret.commit("Plan more", **{"secret/more.py": "x\n"})
    with pytest.raises(NothingStagedError, match="everything that this commit changes is excluded"):
        committed(secret, "secret/")
    secret.commit("Nothing")
    assert committed(secret, "secret/") == ""


def test_a_mistake_beside_it_does_not_lift_an_exclusion(secret: Repo) -> None:
    secret.git("config", "--add", "gitpeft.exclude", "secret/")
    secret.git("config", "--add", "gitpeft.exclude", "x" * 200)
    config = load_config(Repository.open(secret.path))
    assert config.exclude == ("secret/",) and len(config.problems) == 1


# --- the team's settings where the work tree lacks them -----------------------------------------------------


@pytest.fixture
def team(repo: Repo) -> Repo:
    files = {".gitpeft": "[gitpeft]\n\texclude = src/\n", "src/a.py": "x\n", "docs/d": "d\n"}
    repo.commit("Start", **files)
    return repo


def loaded(repo: Repo) -> Config:
    return load_config(Repository.open(repo.path))


def test_a_sparse_checkout_keeps_the_exclusion(team: Repo) -> None:
    team.git("sparse-checkout", "set", "--no-cone", "/src/*", "/docs/*")
    assert not (team.path / ".gitpeft").exists() and loaded(team).exclude == ("src/",)


@pytest.mark.parametrize("version", ["2", "3", "4", "split"])
def test_an_index_of_any_form_keeps_it(team: Repo, version: str) -> None:
    team.git("update-index", "--skip-worktree", ".gitpeft")
    if version == "split":
        team.git("update-index", "--split-index")
        team.commit("More", a="1\n")
    else:
        team.git("update-index", "--index-version", version)
    (team.path / ".gitpeft").unlink()
    assert loaded(team).exclude == ("src/",)


def test_in_a_folder_below_and_with_another_index_it_is_kept(
    team: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (team.path / ".gitpeft").unlink()
    assert load_config(Repository.open(team.path / "src")).exclude == ("src/",)
    (team.path / ".git/index").rename(tmp_path / "index")
    assert loaded(team).exclude == ()
    monkeypatch.chdir(team.path)
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert load_config(Repository.open()).exclude == ("src/",)


def test_a_conflict_leaves_our_side(team: Repo) -> None:
    team.git("checkout", "-qb", "side")
    team.commit("Theirs", **{".gitpeft": "[gitpeft]\n\texclude = theirs\n"})
    team.git("checkout", "-q", "main")
    team.commit("Ours", **{".gitpeft": "[gitpeft]\n\texclude = ours\n"})
    team.git("merge", "side", check=False)
    (team.path / ".gitpeft").unlink()
    assert loaded(team).exclude == ("ours",)


def test_a_deletion_that_is_staged_counts(team: Repo) -> None:
    team.git("rm", "-q", ".gitpeft")
    assert loaded(team).exclude == ()


def test_a_link_or_an_enormous_file_in_the_index_is_not_read(team: Repo) -> None:
    for content, mode in (("[gitpeft]\n\tenabled = false\n", "120000"), ("#" * 20_000, "100644")):
        text = content + "\n[gitpeft]\n\tenabled = false\n"
        blob = team.git("hash-object", "-w", "--stdin", input=text)
        team.git("update-index", "--cacheinfo", f"{mode},{blob},.gitpeft")
        (team.path / ".gitpeft").unlink(missing_ok=True)
        assert loaded(team).enabled


# --- the doctor ---------------------------------------------------------------------------------------------


def test_the_doctor_names_a_pattern_that_matches_nothing(team: Repo) -> None:
    for pattern in ("src", "*.rs", "/docs/"):
        team.git("config", "--add", "gitpeft.exclude", pattern)
    said = [one.text for one in examine_repository(Repository.open(team.path)) if one.code == "exclude"]
    assert said == ["the pattern '*.rs' of gitpeft.exclude matches no tracked file"]


def test_the_doctor_says_that_everything_is_excluded(team: Repo) -> None:
    for pattern in ("src/", "docs/", ".gitpeft"):
        team.git("config", "--add", "gitpeft.exclude", pattern)
    found = examine_repository(Repository.open(team.path))
    assert "off" in [one.code for one in found] and "exclude" not in [one.code for one in found]
