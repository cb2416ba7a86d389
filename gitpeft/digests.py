"""Hash functions for short texts that load no OpenSSL.

`hashlib` loads it, which is 2 ms of processor time in each commit. The modules of Python behind it are small;
`random` in the standard library asks them first for the same reason. Where they are missing, it is `hashlib`.
"""

import sys
from typing import TYPE_CHECKING

__all__ = ["blake2b", "hash_sha256"]

if TYPE_CHECKING:
    from hashlib import blake2b as blake2b
    from hashlib import sha256 as _sha256
else:
    try:
        from _blake2 import blake2b

        if sys.version_info >= (3, 12):
            from _sha2 import sha256 as _sha256
        else:
            from _sha256 import sha256 as _sha256
    except ImportError:
        from hashlib import blake2b
        from hashlib import sha256 as _sha256

_LONG_BYTES = 1 << 19
"""From this size on OpenSSL, which is five times as fast, is worth loading."""


def hash_sha256(content: bytes) -> str:
    """The SHA-256 of a content, in hexadecimal."""
    if len(content) < _LONG_BYTES:
        return _sha256(content).hexdigest()
    import hashlib

    return hashlib.sha256(content).hexdigest()
