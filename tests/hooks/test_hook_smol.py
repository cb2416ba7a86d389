"""Group D with the large base itself: it is loaded, or fails, and the commit exists either way."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.manifest import Manifest
from gitpeft.learn.evaluation import trial
from gitpeft.learn.models import bases
from tests.support.gitrepo import Repo
from tests.support.hooking import Hooked, eventually, make_python

pytestmark = pytest.mark.slow

MINE = 'sed "/^#/d" "$file" | grep -q . || echo mine >"$file"'
"""Write a message of one's own where none is offered."""

PATIENCE_MS = 30_000
ONE_GIGABYTE = 1 << 20
"""In the units of `ulimit -v`."""


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of smol without tuning."""
    found = bases.find_base("smol").prepare_onnx_folder(tmp_path_factory.mktemp("smol"))
    assert found is not None
    return found


def make_hooked(folder: Path, untuned: Path) -> Hooked:
    """A repository with a staged change, whose active model is smol without tuning."""
    hooked = Hooked.with_editor(
        Repo.create(folder / "repo"), make_python(folder / "python", fake=False), folder / "tools"
    )
    hooked.repo.commit("Start", **{"a.py": "a = 1\n"})
    hooked.install()
    base = bases.find_base("smol")
    settings = json.loads((untuned / bases.SETTINGS_FILE).read_text())
    given = Manifest(
        kind="model",
        created="2024-01-01T00:00:00Z",
        base="smol",
        base_digest=base.digest,
        budget=asdict(base.budget),
        settings=settings,
    )
    with bundles.staging_folder(hooked.state) as staged:
        trial.copy_model_files(untuned, staged)
        bundles.activate_bundle(hooked.state, bundles.write_bundle(staged, given))
    hooked.repo.git("config", "gitpeft.timeoutMs", str(PATIENCE_MS))
    hooked.repo.git("config", "gitpeft.minScore", "0")
    hooked.repo.git("config", "gitpeft.ahead", "false")
    hooked.stage(**{"parser.py": "def parse_dates(text):\n    return text.split('-')\n"})
    return hooked


@pytest.fixture
def hooked(tmp_path: Path, untuned: Path) -> Hooked:
    return make_hooked(tmp_path, untuned)


def begin(hooked: Hooked, limit: str = "") -> "subprocess.Popen[bytes]":
    """Start `git commit`; `limit` is what a shell does first."""
    return subprocess.Popen(
        ["sh", "-c", f"{limit or ':'}; exec git commit"],
        cwd=hooked.repo.path,
        env={**hooked.full_env(), "EDIT_WITH": MINE},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def finish(hooked: Hooked, running: "subprocess.Popen[bytes]") -> tuple[str, list[str]]:
    """The message of the commit that was made, and the lines that the hook printed."""
    errors = running.communicate(timeout=4 * PATIENCE_MS / 1000)[1].decode()
    assert running.returncode == 0, errors
    assert hooked.repo.git("rev-list", "--count", "HEAD").strip() == "2"
    assert "Traceback" not in errors
    return hooked.message(), [line for line in errors.splitlines() if "gitpeft" in line]


def check_failure(hooked: Hooked, message: str, lines: list[str], reason: str) -> None:
    """One sentence where nothing was offered; the log has the reason also where the model was not needed.

    What a change provably does can be said without the model.
    """
    assert message in ("mine", "Add parser.py", "Add parse_dates") and len(lines) <= 1
    assert message != "mine" or lines
    assert hooked.log().count("\n") == 1 and reason in hooked.log() and all(reason in one for one in lines)


def find_child(hooked: Hooked) -> int:
    """The process with the model, 0 where there is none yet."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"decoder.safetensors" in (entry / "maps").read_bytes() and (
                hooked.env["EDIT_SEEN"].encode() in (entry / "environ").read_bytes()
            ):
                return int(entry.name)
        except OSError:
            continue
    return 0


def test_it_answers(hooked: Hooked) -> None:
    message, lines = finish(hooked, begin(hooked))
    assert message != "mine" and not lines


def test_two_repositories_at_once(tmp_path: Path, untuned: Path) -> None:
    both = [make_hooked(tmp_path / name, untuned) for name in ("one", "two")]
    found = [finish(one, running) for one, running in [(one, begin(one)) for one in both]]
    assert found[0] == found[1] and found[0][0] != "mine" and not found[0][1]


def test_d4_the_model_is_killed(hooked: Hooked) -> None:
    running = begin(hooked)
    assert eventually(lambda: find_child(hooked) > 0, PATIENCE_MS / 1000)
    os.kill(find_child(hooked), signal.SIGKILL)
    check_failure(hooked, *finish(hooked, running), "SIGKILL")


@pytest.mark.parametrize("size", [ONE_GIGABYTE, ONE_GIGABYTE // 4, ONE_GIGABYTE // 8])
def test_d4_little_memory(hooked: Hooked, size: int) -> None:
    """A message, or one sentence; with one gigabyte, a message."""
    message, lines = finish(hooked, begin(hooked, f"ulimit -v {size}"))
    assert (message == "mine") == (len(lines) == 1) and len(lines) <= 1
    assert message != "mine" or size < ONE_GIGABYTE


def test_d4_the_memory_that_it_is_allowed(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.memoryMb", "256")
    message, lines = finish(hooked, begin(hooked))
    assert (message == "mine") == (len(lines) == 1) and len(lines) <= 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flip 0.001", "flip 0.5", "flip 0.999"])
def test_d1_damaged_weights(hooked: Hooked, damage: str) -> None:
    path = hooked.state / "models" / bundles.read_active_id(hooked.state) / bundles.WEIGHTS_FILE
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)  # it is linked to the files of the other tests
    copy.replace(path)
    size = path.stat().st_size
    kind, _, place = damage.partition(" ")
    if kind == "flip":
        with path.open("r+b") as file:
            file.seek(int(float(place) * size))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))
    else:
        os.truncate(path, size // 2 if kind == "cut" else 0)
    message, lines = finish(hooked, begin(hooked))
    check_failure(hooked, message, lines, "damaged")
    assert len(lines) == 1 and "gitpeft init" in lines[0]


def test_d6_a_full_disk(hooked: Hooked, tmp_path: Path) -> None:
    """On a tmpfs that is full to the last byte, where this test may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    program = f"""
mount -t tmpfs -o size=220m none {small} || exit 77
cp -R {hooked.repo.path} {small}/repo && cd {small}/repo || exit 78
: >.git/COMMIT_EDITMSG
cat /dev/zero >filler 2>/dev/null
.git/hooks/prepare-commit-msg .git/COMMIT_EDITMSG; code=$?
test -s .git/COMMIT_EDITMSG && echo written
exit $code
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", program], env=hooked.full_env(), capture_output=True, timeout=120
    )
    if done.returncode == 77 or b"unshare" in done.stderr:
        pytest.skip("no mount allowed here")
    assert done.returncode == 0 and done.stderr.count(b"gitpeft: ") == 1
    assert b"space" in done.stderr and b"written" not in done.stdout
