"""The page of a comparison: whole, self-contained, told apart without colour, and readable in any window."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gitpeft.cli import tables
from gitpeft.learn.compare import page
from gitpeft.learn.compare.report import TaskReport
from tests.support.comparisons import LABELS, compared, messages, reported, risk, run_of


def drawn(*tasks: TaskReport) -> str:
    return page.render_comparison_page(compared(*tasks))


class Seen(HTMLParser):
    """Tags in balance, and what is asked of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_nobody() -> None:
    runs = [run_of("lora", 12), run_of("full", 36, 10**6)]
    runs[0] = replace(runs[0], answers=["<script>alert(1)</script>", *runs[0].answers[1:]])
    text = drawn(reported(*runs))
    seen = Seen()
    seen.feed(text)
    assert seen.open == [] and seen.fetched == [] and "script" not in seen.tags
    assert seen.tags.count("svg") == 3 and seen.tags.count("circle") == 6
    assert "url(" not in text and "http" not in text
    assert "&lt;script&gt;" in text and "a&lt;b&gt;&amp;" in text
    assert "width=device-width" in text and "@media print" in text
    for told in ("Adopt full", "gitpeft init --method full", "hybrid:rest=adapter", "nearest neighbour"):
        assert told in text, told


def test_a_page_of_one_method_has_its_plots() -> None:
    text = drawn(reported(run_of("lora", 12)))
    assert text.count("<circle") == 3 and "nan" not in text.lower().replace("finance", "")


def test_a_page_of_both_tasks_with_everything_that_was_tried() -> None:
    text = drawn(messages(), risk())
    seen = Seen()
    seen.feed(text)
    assert seen.open == [] and seen.fetched == []
    for told in (
        "Commit messages", "Risk of changes", "With fewer commits", "1,200 commits", "python → go",
        "Layer probes", "TYP: identifier type", "Summary", "cost of a retraining", "time to verify",
        "tuning effort", "ROC AUC", "bugs in the riskiest 20%", "lines added", "fixed later", "no fix known",
    ):  # fmt: skip
        assert told in text, told
    assert text.count("<figure>") == 3 + 1 + 3 + 3
    words = " ".join(messages().advice.words)
    assert "Fewer commits:" in words
    assert "Trained on python, evaluated on go (90 training commits, 40 evaluated)" in words
    assert "Probe accuracy at the last layer of the encoder" in words
    assert "Adopt" in risk().advice.verdict


def test_systems_are_told_apart_without_colour() -> None:
    text = drawn(messages())
    for number in range(1, len(LABELS) + 1):
        assert text.count(f">{number}</text>") >= 3 and text.count(f">{number}</span>") >= 3


def test_what_was_left_out_is_on_the_page() -> None:
    left_out = ("not enough history to learn risk from",)
    text = page.render_comparison_page(compared(messages(), left_out=left_out))
    assert "Left out: not enough history to learn risk from." in text


def test_what_happened_in_runs_is_on_the_page_and_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    note = "lora: out of memory: each batch in 2 parts from now on"
    report = compared(reported(run_of("lora", 3), notes=[note]))
    assert f"<h3>Notes</h3><ul><li>{note}</li></ul>" in page.render_comparison_page(report)
    tables.print_comparison(report)
    assert f"Note: {note}" in " ".join(capsys.readouterr().out.split())
    assert "Notes" not in page.render_comparison_page(compared(reported(run_of("lora", 3))))


# --- in a browser -------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


_MEASURE = """
f.onload = () => {
  const page = f.contentDocument, root = page.documentElement
  const outside = [...page.querySelectorAll("svg text")].filter(text => {
    const box = text.getBBox()
    return box.x < 0 || box.y < 0 || box.x + box.width > 360 || box.y + box.height > 260
  })
  document.title = JSON.stringify({
    over: root.scrollWidth - root.clientWidth, texts: outside.length,
    dots: page.querySelectorAll("circle").length,
  })
}
"""


def browse(*options: str) -> str:
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_wide_and_in_a_narrow_window(width: int, tmp_path: Path) -> None:
    """It is drawn, nothing sticks out of the window sideways, and all text is inside its drawing."""
    text = drawn(messages(), risk())
    path, picture = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(text)
    size = f"--window-size={width},1600"
    browse(size, f"--screenshot={picture}", path.as_uri())
    head = picture.read_bytes()[:24]
    assert head[:4] == b"\x89PNG" and int.from_bytes(head[16:20], "big") == width
    assert picture.stat().st_size > 20_000, "a blank page is smaller"
    inside = text.replace("&", "&amp;").replace("'", "&#39;")
    (tmp_path / "asked.html").write_text(
        f"<iframe id=f width={width} height=1600 srcdoc='{inside}'></iframe><script>{_MEASURE}</script>"
    )
    dom = browse(size, "--virtual-time-budget=3000", "--dump-dom", (tmp_path / "asked.html").as_uri())
    found = re.search(r"<title>(\{.*?\})</title>", dom)
    assert found is not None
    assert json.loads(found[1]) == {"over": 0, "texts": 0, "dots": text.count("<circle")}
