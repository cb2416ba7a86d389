"""Measuring how long the stages of a suggestion take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Milliseconds by stage; a stage that is measured again replaces its earlier time."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measure the block, unless it raises."""
        start = time.perf_counter()
        yield
        self.milliseconds[stage] = round(1000 * (time.perf_counter() - start), 2)
