"""What the commands show of a state folder."""

from pathlib import Path

from gitpeft.cli.views import measure_folder


def test_a_file_that_is_linked_twice_takes_room_once(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "weights").write_bytes(bytes(1000))
    (tmp_path / "runs" / "weights").hardlink_to(tmp_path / "weights")
    (tmp_path / "note").write_bytes(bytes(7))
    assert measure_folder(tmp_path) == 1007
