"""Comparing methods: a plan that fits its time, runs that are never repeated, advice that follows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.learn import advice, compare, halving, page, tuning
from gitpeft.learn.halving import Candidate, Pace, Wish, candidates, promoted, short_plan
from tests import generated
from tests.gitrepo import Repo
from tests.hooking import CHECKOUT
from tests.learn.conftest import Built, loosen

# --- what is tried ------------------------------------------------------------------------------------------


def spelt(**wish: Any) -> list[str]:
    return [one.method for one in candidates(Wish(**wish))]


def test_every_method_by_its_default_first_and_then_others() -> None:
    found = spelt()
    assert found[:4] == ["lora", "adapter", "full", "hybrid"] and len(set(found)) == len(found) == 7


def test_what_is_asked_for_and_no_more() -> None:
    assert spelt(methods=("adapter", "lora:rank=4")) == ["adapter", "lora:rank=4"]
    assert spelt(methods=("lora", "full"), ranks=(4, 16)) == ["lora", "full", "lora:rank=4"]
    assert spelt(methods=("lora", "adapter"), placements=("query-value", "pfeiffer")) == [
        "lora", "adapter", "lora:placement=query-value", "adapter:placement=pfeiffer",
    ]  # fmt: skip
    assert len(candidates(Wish(methods=("lora",), bases=("mini", "other")))) == 2


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"methods": ("magic",)}, "no method magic"),
        ({"methods": ("lora:rank=x",)}, "rank cannot be x"),
        ({"methods": ("lora",), "placements": ("everywhere",)}, "no placement everywhere"),
    ],
)
def test_wrong_names_are_said_before_any_work(wish: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GitpeftError, match=sentence):
        candidates(Wish(**wish))


# --- successive halving -------------------------------------------------------------------------------------


PACE = Pace(step=1.0, around=8.0, finish=8.0)


def test_a_plan_fits_its_time_and_says_what_it_leaves_out() -> None:
    found = candidates(Wish())
    rich, poor = short_plan(found, 7200, PACE, 3), short_plan(found, 200, PACE, 3)
    assert len(rich["candidates"]) == 7 and rich["seeds"] == 3 and rich["left_out"] == []
    assert [one["method"] for one in poor["candidates"]][:4] == ["lora", "adapter", "full", "hybrid"]
    assert poor["seeds"] == 1 and "only 1 seed of those asked for" in poor["left_out"]
    assert len(poor["left_out"]) == 1 + 7 - len(poor["candidates"]) > 1
    for plan, seconds in ((rich, 7200), (poor, 200)):
        chosen = len(plan["candidates"])
        finals = halving.finalists_of(chosen, 4) * plan["seeds"]
        around = 8.0 * (chosen + 2 * finals)
        fits = plan["steps"] * (chosen + halving.LONG * finals) + around <= seconds
        assert fits and (plan["steps"] >= halving.LEAST_STEPS or chosen == 4)
    assert rich["steps"] > poor["steps"]


def test_where_all_would_go_on_there_are_no_short_runs() -> None:
    found = candidates(Wish(methods=("lora", "full")))
    assert short_plan(found, 7200, PACE, 1)["steps"] == 0
    assert short_plan(found[:1], 1, PACE, 1)["steps"] == 0
    steps = halving.long_steps([2.0, 2.0], 400, 1, 0, PACE)
    assert 2 * (steps * 2.0 + 16.0) <= 400 and steps > 60
    assert halving.long_steps([2.0], 0, 1, 9, PACE) == 9


def test_a_machine_that_becomes_slower_ends_runs_by_the_clock() -> None:
    assert halving.minutes_for(400, 2, PACE) == pytest.approx((200 - 16) / 60)
    assert halving.minutes_for(-5, 2, PACE) == pytest.approx(1 / 60)
    planned = halving.long_steps([2.0, 2.0], 400, 1, 0, PACE) * 2.0 / 60
    assert planned < halving.minutes_for(400, 2, PACE), "at the planned pace the clock ends nothing"


def result(label: str, loss: float, **more: Any) -> dict[str, Any]:
    name = label.partition(":")[0]
    return {
        "label": label, "name": name, "base": "mini", "valid_loss": loss,
        "candidate": {"method": label, "base": "mini", "seed": 0, "task": "messages"}, **more,
    }  # fmt: skip


def test_the_better_half_goes_on_and_the_best_of_each_method() -> None:
    short = [
        result("lora", 3.0), result("lora:rank=8", 2.9), result("adapter", 5.0), result("full", 4.0),
        result("adapter:width=8", 6.0), result("lora:rank=4", 3.1),
    ]  # fmt: skip
    assert [one["label"] for one in promoted(short, 3)] == ["lora:rank=8", "full", "adapter"]
    more = [*short, result("lora:rank=2", 2.95), result("full:lr=0.001", 4.1)]
    assert [one["label"] for one in promoted(more, 3)] == ["lora:rank=8", "lora:rank=2", "full", "adapter"]
    assert [one["label"] for one in promoted(short[:1], 1)] == ["lora"]


# --- advice -------------------------------------------------------------------------------------------------

REFERENCES = [(f"{i:010x}", f"parser: add read_{i} to the module") for i in range(40)]


def run_of(label: str, right: int, trainable: int = 1000, seed: int = 0) -> dict[str, Any]:
    """A long run whose first `right` offers are what the team wrote."""
    offers = [message if i < right else "nothing alike" for i, (_, message) in enumerate(REFERENCES)]
    cost = dict.fromkeys(advice.COSTS, 1.0) | {
        "trainable": trainable, "share": trainable / 1e6, "peak_memory": 2**30, "reserved": 0,
        "seconds": 60.0,
    }  # fmt: skip
    run = result(label, 3.0, offers=offers, cost=cost, steps=9, method={"name": label}, parity={})
    run["candidate"]["seed"] = seed
    return run


FACTS = {
    "task": "messages", "tip": "0" * 40, "repository": "a<b>&'\"", "commits": 400, "budget_minutes": 10,
    "device": "cpu", "steps": {"short": 6, "long": 9}, "seeds": 1, "left_out": ["hybrid:rest=adapter"],
    "short": [{"label": "lora", "valid_loss": 3.0, "steps": 6, "promoted": True}], "seconds": 66.0,
}  # fmt: skip


def reported(*runs: dict[str, Any]) -> dict[str, Any]:
    return advice.report(FACTS, runs, {"nearest neighbour": ["nothing"] * 40}, REFERENCES)


def test_a_winner_is_named_where_it_is_clear_of_all_others() -> None:
    found = reported(run_of("lora", 12), run_of("full", 36, 10**6), run_of("adapter", 10))
    assert found["advice"]["winner"] == "full" == found["advice"]["method"]
    assert "Adopt full" in found["advice"]["words"][0]
    assert [row["label"] for row in found["finalists"]] == ["full", "lora", "adapter"]
    assert [row["against_best"]["clear"] for row in found["finalists"]] == [False, True, True]


def test_inside_the_noise_no_winner_is_named_and_the_cheapest_is_advised() -> None:
    found = reported(run_of("full", 30, 10**6), run_of("lora", 29, 9000), run_of("adapter", 3, 10))
    assert found["advice"]["winner"] is None and found["advice"]["method"] == "lora"
    words = " ".join(found["advice"]["words"])
    assert "No winner: full" in words and "Adopt lora" in words and "inside the noise" in words
    assert "Against full tuning" in words and "Over nearest neighbour" in words
    assert "What would change this advice" in words and "40 validation commits" in words


def test_tuning_that_does_not_pay_is_said_to() -> None:
    runs, same = (
        [run_of("lora", 12)],
        [m if i < 12 else "nothing alike" for i, (_, m) in enumerate(REFERENCES)],
    )
    words = [
        " ".join(advice.report(FACTS, runs, {"mini, untuned": offers}, REFERENCES)["advice"]["words"])
        for offers in (same, ["nothing"] * 40)
    ]
    assert "not shown to pay" in words[0] and "not shown to pay" not in words[1]


def test_seeds_are_averaged_commit_by_commit() -> None:
    found = reported(run_of("lora", 40), run_of("lora", 0, seed=1), run_of("full", 30, 10**6))
    lora = next(row for row in found["finalists"] if row["label"] == "lora")
    assert lora["seeds"] == [0, 1] and lora["by_seed"][0] == pytest.approx(100)
    assert lora["scores"]["b_norm"]["mean"] == pytest.approx(sum(lora["by_seed"]) / 2)


def test_the_pareto_front_by_its_definition() -> None:
    points = [(1.0, 5.0), (2.0, 9.0), (2.0, 8.0), (3.0, 9.0), (0.5, 1.0), (1.0, 5.0)]
    assert advice.front(points) == [True, True, False, False, True, True]


# --- the page -----------------------------------------------------------------------------------------------


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
        if tag not in ("meta", "line", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_nobody() -> None:
    runs = [run_of("lora", 12), run_of("full", 36, 10**6)]
    runs[0]["offers"][0] = "<script>alert(1)</script>"
    text = page.html(reported(*runs))
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
    text = page.html(reported(run_of("lora", 12)))
    assert text.count("<circle") == 3 and "nan" not in text.lower().replace("finance", "")


# --- the whole ----------------------------------------------------------------------------------------------

WISH = {"methods": ("lora:rank=4", "adapter:width=8", "full", "hybrid:rank=4"), "minutes": 0.3}


@pytest.fixture
def team(tmp_path: Path) -> Repo:
    repo = Repo.create(tmp_path / "team")
    generated.put(repo, generated.team(120))
    return repo


def compared(repo: Repo, built: Built, watch: Any = lambda _rows, _now: None, **wish: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        asked = Wish(**{**WISH, "bases": (str(built.out),), **wish})
        return compare.compare(Repository.open(repo.path), asked, watch)


def test_all_methods_on_one_history_and_then_from_what_is_there(team: Repo, built: Built) -> None:
    states: list[set[str]] = []
    report = compared(team, built, lambda rows, _now: states.append({row.state for row in rows}))
    assert {row["name"] for row in report["finalists"]} == {"lora", "adapter", "full", "hybrid"}
    assert len({row["steps"] for row in report["finalists"]}) == 1, "equal steps"
    assert report["steps"]["long"] >= halving.LEAST_STEPS and report["steps"]["short"] == 0
    for row in report["finalists"]:
        cost = row["cost"]
        assert row["parity"]["exact"] < 1e-3 and 0 < cost["share"] <= 1
        assert min(cost[name] for name in ("seconds", "memory", "adapter_bytes", "answer_ms")) > 0
    assert {row["label"] for row in report["baselines"]} >= {"nearest neighbour"}
    assert {"waiting", "running", "done"} <= set().union(*states)
    folder = Path(report["page"]).parent
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads((folder / "report.json").read_text())["advice"] == report["advice"]
    assert not list(folder.rglob("*.onnx")) and not list(folder.rglob("*.safetensors"))
    assert compare.advised(Repository.open(team.path)) == report["advice"]

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    again = compared(team, built)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    assert again["seconds"] >= report["seconds"]


METHODS = ("lora:rank=4", "lora:rank=2", "adapter:width=8")
_KILLED = """\
import os, signal, sys
from functools import partial
from pathlib import Path
from gitpeft.git import Repository
from gitpeft.learn import compare, export
from gitpeft.learn.halving import Wish
METHODS = ("lora:rank=4", "lora:rank=2", "adapter:width=8")
export.Bounds = partial(export.Bounds, agreement=0.5, nats=0.5, drop=9.0)
def watch(rows, now):
    running = [row for row in rows if row.rung == "long" and row.state == "running" and row.done > 0.4]
    if running and any(row.rung == "long" and row.state == "done" for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
wish = Wish(methods=METHODS, bases=(sys.argv[2],), minutes=0.8)
compare.compare(Repository.open(Path(sys.argv[1])), wish, watch)
"""


def test_killed_in_the_middle_finished_runs_are_kept_and_nothing_changes(team: Repo, built: Built) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(team.path), str(built.out)],
        cwd=CHECKOUT, capture_output=True, timeout=200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    [folder] = (Repository.open(team.path).state_dir / "compare").iterdir()
    before = {path: path.read_bytes() for path in folder.rglob("result.json")}
    plans = {name: (folder / name).read_bytes() for name in ("plan.json", "final.json")}
    assert len(before) == 4 and not (folder / "report.json").exists()
    states: list[list[str]] = []

    def watch(rows: Any, _now: str) -> None:
        states.append([row.state for row in rows])

    report = compared(team, built, watch, methods=METHODS, minutes=0.8)
    assert Path(report["page"]).parent == folder and len(report["finalists"]) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert {name: (folder / name).read_bytes() for name in plans} == plans
    assert states[-1].count("kept") == 4


def test_what_cannot_be_compared(team: Repo, built: Built, tmp_path: Path) -> None:
    repository = Repository.open(team.path)
    with pytest.raises(GitpeftError, match="nothing was compared here yet"):
        compare.advised(repository)
    short = Repo.create(tmp_path / "short")
    generated.put(short, generated.team(20))
    with pytest.raises(GitpeftError, match="only 20 usable commits") as error:
        compared(short, built)
    assert "gitpeft init" in error.value.hint


def test_a_budget_that_ends_leaves_runs_out_and_says_which(
    team: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare.Comparison, "remaining", lambda _self: 0.0)

    def plan(found: Any, *_: Any) -> dict[str, Any]:
        chosen = [{"method": one.method, "base": one.base} for one in found]
        return {
            "candidates": chosen,
            "steps": 2,
            "pace": asdict(PACE),
            "seeds": 2,
            "least": 2,
            "left_out": [],
        }

    monkeypatch.setattr(compare, "short_plan", plan)
    report = compared(team, built, methods=("lora:rank=4", "full"), seeds=2)
    assert len(report["left_out"]) == 2 and all(re.search(r"seed 1$", one) for one in report["left_out"])
    assert report["seeds"] == 1 and all(row["seeds"] == [0] for row in report["finalists"])


def test_a_run_is_task_method_base_and_seed() -> None:
    assert Candidate("lora", "mini", 1).task == tuning.MESSAGES
    assert Candidate("lora", "/a/b").label == "lora on b" and Candidate("lora:rank=8", "mini").name == "lora"


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
    text = page.html(reported(run_of("lora", 12), run_of("lora:rank=8,placement=query-value", 14, 9)))
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
    assert json.loads(found[1]) == {"over": 0, "texts": 0, "dots": 6}
