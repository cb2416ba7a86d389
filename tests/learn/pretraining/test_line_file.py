"""Lines are those of the file, by number."""

from pathlib import Path

import pytest

from gitpeft.learn.pretraining.line_file import LineFile


@pytest.mark.parametrize(
    "content", [b"", b"one\n", b"one\n\nthree\n", b"one\ntwo", b"a\x85b\xe2\x80\xa8c\nd\n"]
)
def test_lines_are_found_by_number(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(content)
    lines = LineFile(tmp_path / "lines")
    wanted = content.removesuffix(b"\n").split(b"\n") if content else []
    assert [lines[place] for place in range(len(lines))] == wanted
    for place in (-1, len(wanted)):
        with pytest.raises(IndexError):
            lines[place]
