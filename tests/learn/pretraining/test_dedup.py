"""Near copies of changes: found whatever their digits, and let through a few times only."""

from gitpeft.learn.pretraining.dedup import NearDuplicateFilter


def change(name: str, lines: int, start: int = 0) -> str:
    body = "\n".join(
        f"+{name} says {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(start, start + lines)
    )
    return f" src/{name}.py +{lines} -0\n#src/{name}.py\n@\n{body}"


def test_a_copy_is_learnt_three_times() -> None:
    new = NearDuplicateFilter()
    bumps = [f" v.py +1 -1\n#v.py\n@\n-version = {i}\n+version = {i + 1}" for i in range(6)]
    assert [new(bump) for bump in bumps] == [True] * 3 + [False] * 3


def test_nearly_the_same_is_a_copy_and_half_the_same_is_not() -> None:
    new = NearDuplicateFilter()
    assert all(new(change("cache", 40)) for _ in range(3))
    assert not new(change("cache", 41)) and not new(change("cache", 40) + "\n context")
    assert new(change("cache", 40, start=14)) and new(change("parser", 40))


def test_one_line_in_another_file_is_another_change() -> None:
    new = NearDuplicateFilter()
    assert all(new(f" {name}.py +1 -0\n#{name}.py\n@\n+import os") for name in "abcdefgh")


def test_changes_without_lines_are_told_apart() -> None:
    new = NearDuplicateFilter()
    assert all(new(f"D{name}.bin +0 -9") for name in "abcdefgh")
    assert [new("Dx.bin +0 -9") for _ in range(4)] == [True] * 3 + [False]
