"""The loss of an adapter's training as a picture for its card, from the log of the run.

python -m tests.bench.smol.draw_loss models/smol/loss.jsonl models/smol/loss.svg
"""

import json
import sys
from pathlib import Path

from gitpeft.learn import charts
from tests.bench.bench_year import extract_svg


def draw_loss(log: str) -> str:
    """An SVG image of the training loss in a log of JSON lines."""
    rows = [json.loads(line) for line in log.splitlines()]
    points = [(row["place"], row["loss"]) for row in rows if "loss" in row]
    return extract_svg(
        charts.render_line_chart("Training loss", "pairs", "nats a token", {"mean of 80 pairs": points})
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw_loss(Path(sys.argv[1]).read_text()))
