"""Times at which a hook reached each step, written to the file in GITPEFT_TRACE, for benchmarks."""

import json
import os
import time


class HookTrace:
    """The times of the steps by name, in Unix seconds."""

    def __init__(self) -> None:
        self.started = time.time()
        self.moments: dict[str, object] = {"hook": self.started}

    def mark_step(self, step: str, moment: object = None) -> None:
        """Record that a step was reached, now or at `moment`."""
        self.moments[step] = time.time() if moment is None else moment

    def write_trace(self) -> None:
        """Append one line of JSON if GITPEFT_TRACE names a file; errors of writing are ignored."""
        self.mark_step("done")
        path = os.environ.get("GITPEFT_TRACE")
        if not path:
            return
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.moments) + "\n")
        except OSError:
            pass
