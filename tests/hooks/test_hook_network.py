"""D7 and F6 of the contract for everything that the hook does: its whole suite without a network.

    pytest -m slow tests/test_hook_network.py

or by hand `unshare -n pytest tests/test_hook_*.py`, as root; `unshare -rn` where the system lets users do it.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CHECKOUT = Path(__file__).parents[2]
SUITE = sorted(str(path) for path in Path(__file__).parent.glob("test_hook_*.py") if path != Path(__file__))
FOREIGN = re.compile(r"AF_(?!UNIX|LOCAL|NETLINK)\w+")


def run_suite(prefix: list[str], folder: Path, *options: str) -> None:
    """Run every test of the hook in a process of its own, in a namespace that has no network."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("no network namespace allowed here")
    suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    done = subprocess.run(
        ["unshare", "-n", *prefix, *suite, *options, *SUITE],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=1400,
    )
    print(done.stdout[-300:])
    assert done.returncode == 0, done.stdout[-5000:]


def test_d7_the_whole_suite_of_the_hook_needs_no_network(tmp_path: Path) -> None:
    """Every test passes where there is no interface, not even the loopback one."""
    run_suite([], tmp_path)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_d7_f6_nothing_in_the_whole_suite_opens_a_socket_to_anywhere(tmp_path: Path) -> None:
    """Counted by strace, git and all hooks included.

    Left out are the tests of F6, in which a socket is tried on purpose, and those that measure time.
    """
    log = tmp_path / "trace"
    trace = [
        "strace",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-o",
        str(log),
        "-e",
        "trace=socket,connect,sendto,sendmsg",
    ]
    run_suite(trace, tmp_path, "-k", "not f6 and not g1 and not g2 and not g4 and not d3 and not a15")
    if not log.exists():
        pytest.skip("strace may not trace here")
    calls = [line for line in log.read_text(errors="replace").splitlines() if FOREIGN.search(line)]
    print(f"{len(calls)} calls that could leave this machine")
    assert calls == []
