"""`gitpeft.digests` against `hashlib`, and what it loads."""

import hashlib
import subprocess
import sys

import pytest

from gitpeft import digests
from tests.support.sources import CHECKOUT


@pytest.mark.parametrize("size", [0, 1, 1000, digests._LONG_BYTES - 1, digests._LONG_BYTES, 1 << 20])
def test_the_digests_are_those_of_hashlib(size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    assert digests.hash_sha256(content) == hashlib.sha256(content).hexdigest()
    for given in ({"digest_size": 6}, {"digest_size": 8, "key": b"salt"}):
        assert digests.blake2b(content, **given).digest() == hashlib.blake2b(content, **given).digest()


@pytest.mark.parametrize("missing", [(), ("_sha2", "_sha256")])
def test_openssl_is_loaded_only_where_the_small_modules_are_missing(missing: tuple[str, ...]) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        "from gitpeft import digests\n"
        "assert digests.hash_sha256(b'')[:8] == 'e3b0c442' and digests.blake2b(b'').digest_size == 64\n"
        "print('_hashlib' in sys.modules)"
    )
    env = {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(bool(missing))
