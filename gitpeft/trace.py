"""When each step of a hook was reached: written to the file that GITPEFT_TRACE names, for benchmarks."""

import json
import os
import time


class HookTrace:
    """Moments as Unix seconds, by the name of the step."""

    def __init__(self) -> None:
        self.started = time.time()
        self.moments: dict[str, object] = {"hook": self.started}

    def mark_step(self, step: str, moment: object = None) -> None:
        """Remember that a step was reached, now or at `moment`."""
        self.moments[step] = time.time() if moment is None else moment

    def write_trace(self) -> None:
        """Append one JSON line, where a file was asked for; a file that cannot be written is no matter."""
        self.mark_step("done")
        path = os.environ.get("GITPEFT_TRACE")
        if not path:
            return
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.moments) + "\n")
        except OSError:
            pass
