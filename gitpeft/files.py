"""Small files that save work and may be deleted at any time: hides how one is replaced."""

import json
import os
from pathlib import Path
from typing import Any


def write_json_cache(path: Path, data: Any) -> None:
    """Replace a cache by `data` (JSON) in one rename; a failure costs the next look its cache, no more."""
    spare = path.with_name(f".{path.stem}.{os.getpid()}")
    try:
        spare.write_text(json.dumps(data), encoding="utf-8")
        spare.replace(path)
    except OSError:
        spare.unlink(missing_ok=True)
