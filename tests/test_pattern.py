"""Expressions that wait, against those of `re`."""

import re
import subprocess
import sys

import pytest

from gitpeft.pattern import lazy_pattern


def test_a_pattern_is_what_re_compiles() -> None:
    waiting, ready = lazy_pattern(r"(?P<a>x)(y)?", re.IGNORECASE), re.compile(r"(?P<a>x)(y)?", re.IGNORECASE)
    for text in ("", "xy", "aXY", "yx xy"):
        for method in ("search", "match", "fullmatch", "findall", "split"):
            one, other = getattr(waiting, method)(text), getattr(ready, method)(text)
            assert getattr(one, "regs", one) == getattr(other, "regs", other)
        assert waiting.sub("<\\1>", text) == ready.sub("<\\1>", text)
    assert waiting.groups == 2 and waiting.flags == ready.flags and waiting.groupindex == {"a": 1}


def test_a_bad_one_shows_when_it_is_used() -> None:
    with pytest.raises(re.error):
        lazy_pattern("(").search("")


def test_none_is_compiled_by_an_import() -> None:
    program = (
        "from gitpeft import redaction; from gitpeft.history import filters;"
        "print([*vars(redaction._QUOTED_ASSIGNMENT), *vars(filters._BOT_IDENTITY)])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert "_given" in done.stdout and "search" not in done.stdout
