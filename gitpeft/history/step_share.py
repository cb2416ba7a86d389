"""How much of a step is done, told to whoever shows it: as a share of the step and in words."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

ShareListener = Callable[[float, str], None]
"""Called with the share of a step that is done (0..1), which does not fall within the step, and words."""

CountListener = Callable[[int, int], None]
"""Called with how many commits of how many are done."""

_TOLD_EVERY = 4096


def make_part_listener(
    listen: ShareListener, start: float = 0.0, end: float = 1.0, doing: str = ""
) -> CountListener:
    """Tells counts of commits as the part of a step between two shares, with what is done with them."""

    def listen_in_part(done: int, total: int) -> None:
        words = f"{doing} {done:,}/{total:,} commits".lstrip()
        listen(start + (end - start) * done / max(1, total), words)

    return listen_in_part


def tell_repository(number: int, total: int, name: str) -> str:
    """The words for a step at the repository `name`, behind the first `number` of all."""
    return f"{number:,}/{total:,} repositories · {name}"


def follow_commits(commits: Sequence[Item], listen: CountListener) -> Iterator[Item]:
    """The commits one after another; `listen` is called after every few thousand."""
    for number, commit in enumerate(commits):
        if number and number % _TOLD_EVERY == 0:
            listen(number, len(commits))
        yield commit
