"""`gitpeft base build` for the adapter of a pretrained base, small: from clones to `adapter/`, in pieces."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import PromptedExamples
from gitpeft.learn.models import bases, methods
from gitpeft.learn.pretraining import adapter_build, commit_pairs
from gitpeft.learn.pretraining.adapter_build import AdapterRecipe, PairReader
from gitpeft.learn.pretraining.adapter_checkpoint import read_position
from gitpeft.learn.pretraining.adapter_run import AdapterRun, AdapterSettings
from gitpeft.learn.pretraining.base_reranker import HistoryAsker, RerankerRules, fit_base_reranker
from gitpeft.learn.pretraining.line_file import LineFile
from gitpeft.learn.training import devices, resident
from gitpeft.learn.training.checkpoint_writer import CheckpointWriter
from tests.support import tinymodel
from tests.support.adapter_recipe import RECIPE, build, make_place
from tests.support.tinybase import nobody


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("adapter"))


def test_from_clones_to_an_adapter_that_the_base_has(place: Path) -> None:
    assert adapter_build.is_adapter_recipe(place / "recipe.toml")
    assert build(place, "whole")
    counts = json.loads((place / "whole" / "counts.json").read_text())
    assert counts["mined: usable"] == 60 and sum(n for name, n in counts.items() if "kept" in name) >= 20
    log = [json.loads(line) for line in (place / "whole" / "run" / "log.jsonl").read_text().splitlines()]
    checks = [row["valid: grounded"] for row in log if "valid: grounded" in row]
    assert len(checks) == 3 and checks[-1] < checks[0], "it has learnt"
    base = bases.find_base(str(place / "out"))
    start = base.find_start(methods.make_method("lora", {"rank": 4}))
    assert start is not None and start == base.find_adapter()
    assert base.find_start(methods.make_method("lora", {"rank": 8})) is None
    assert base.find_start(methods.make_method("full")) is None
    with torch.no_grad():
        ids = torch.arange(10, 40)[None]
        plain, whole = base.load(adapted=False)(ids).logits, base.load()(ids).logits
    assert float((plain - whole).abs().max()) > 1e-3
    config = json.loads((start / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None and {p.suffix for p in start.iterdir()} == {
        ".json", ".safetensors"
    }  # fmt: skip


def test_notes_are_told_as_long_as_it_trains(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, failed, heard = AdapterRun._compute_loss, list[bool](), list[str]()

    def fail_first(*given: Any) -> torch.Tensor:
        if failed.count(torch.is_grad_enabled()) == 0:  # once in a validation and once in a step
            failed.append(torch.is_grad_enabled())
            raise MemoryError
        return compute(*given)

    def choose(name: str | None = None, notes: list[str] | None = None) -> torch.device:
        (notes if notes is not None else []).append("no GPU here")
        return torch.device("cpu")

    monkeypatch.setattr(AdapterRun, "_compute_loss", fail_first)
    monkeypatch.setattr(devices, "pick_device", choose)
    recipe = AdapterRecipe.load(place / "recipe.toml")
    out = shutil.copytree(place / "out", place / "noted-out")
    adapter_build.build_adapter(
        recipe, place / "corpus", place / "noted", out,
        lambda step, _, detail: heard.append(detail) if step == "train" else None,
    )  # fmt: skip
    pairs = recipe.settings.count_pairs(len(LineFile(place / "noted" / commit_pairs.TRAIN_FILE))).pairs
    places = [int(one.split("/")[0]) for one in heard]
    assert set(range(0, pairs, recipe.settings.batch)) < set(places), "every step is told, not only the tenth"
    assert places == sorted(places) and all(f"/{pairs:,} pairs · " in one for one in heard)
    assert all("no GPU here" in one for one in heard)
    assert all("out of memory: parts of" in one for one in heard[-2:]) and len(failed) == 2


def test_a_checkpoint_becomes_an_adapter_with_its_reranker(place: Path, tmp_path: Path) -> None:
    """`--finish` trains no further, and asks about commits that the adapter has not learnt from."""
    if not (place / "whole" / "run").exists():
        build(place, "whole")
    shutil.copytree(place / "whole", tmp_path / "work")
    learnt = [
        json.loads(line)["sha"] for line in (tmp_path / "work" / "train.jsonl").read_text().splitlines()
    ]
    asks = '[reranker]\ncommits = 4\nrepositories = ["a/first", "b/held"]\n'
    (place / "asking.toml").write_text(RECIPE + asks)
    recipe = AdapterRecipe.load(place / "asking.toml")
    corpus, out = place / "corpus", place / "out"
    assert adapter_build.build_adapter(recipe, corpus, tmp_path / "work", out, nobody, finish=True)
    before = load_file(place / "whole" / "run" / "state.safetensors")
    after = load_file(tmp_path / "work" / "run" / "state.safetensors")
    assert all(torch.equal(before[name], one) for name, one in after.items())
    report = json.loads((out / "onnx" / "reranker.json").read_text())
    [answers] = (tmp_path / "work").glob("asked-*")
    assert answers.name.startswith(f"asked-{bases.find_base(str(out)).digest[:12]}-"), (
        "they are those of this adapter"
    )
    asked = json.loads((answers / "b+held.json").read_text())
    assert report["commits"]["b/held"] == len(asked) == 4
    unseen = json.loads((answers / "a+first.json").read_text())
    assert not {one["sha"] for one in unseen} & set(learnt)
    fitted = bases.find_base(str(out)).load_reranker()
    assert len(fitted.weights) == len(fitted.value_weights) > 0 and fitted.threshold is not None
    assert "marks" not in report and not fitted.marked

    rows = {f"b/held\t{one['sha']}\t{place % 4}\t{c['message']}"
            for one in asked for place, c in enumerate(one["found"]) if not c["flaw"]}  # fmt: skip
    (place / "marks.tsv").write_text("\n".join(["repository\tcommit\tmark\tmessage", *sorted(rows)]) + "\n")
    (place / "asking.toml").write_text(RECIPE + asks + 'marks = "marks.tsv"\n')
    recipe = AdapterRecipe.load(place / "asking.toml")
    weights = out / "adapter" / "adapter_model.safetensors"
    written = weights.stat().st_ino
    assert adapter_build.build_adapter(recipe, corpus, tmp_path / "work", out, nobody, finish=True)
    assert weights.stat().st_ino == written, "written again, it would be another adapter, and asked anew"
    told = json.loads((out / "onnx" / "reranker.json").read_text())["marks"]
    assert 0 < told["offered"]["n"] <= told["all"]["n"] <= 4
    assert bases.find_base(str(out)).load_reranker().marked
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert adapter_build.build_adapter(recipe, corpus, tmp_path / "work", out, nobody, finish=True)
    assert len(weights.read_bytes()) == len(whole), "a damaged one is"
    told_done: list[float] = []
    fewer = replace(recipe, settings=replace(recipe.settings, pairs=1))  # as those of another profile may be
    adapter_build.build_adapter(
        fewer, corpus, tmp_path / "work", out, lambda *said: told_done.append(said[1]), finish=True
    )
    assert max(told_done) <= 1
    shutil.rmtree(out / "onnx")


def test_a_reranker_is_not_fitted_where_one_measures(place: Path, tmp_path: Path) -> None:
    asker = HistoryAsker(
        bases.find_base(str(place / "out")),
        RerankerRules(("pallets/flask",)),
        tmp_path,
        frozenset(),
        tmp_path,
    )
    with pytest.raises(GitpeftError, match="to measure with"):
        fit_base_reranker(asker, {"pallets/flask": "HEAD"}, nobody)
    other = replace(asker, rules=RerankerRules(("x/y",)))
    with pytest.raises(GitpeftError, match="no x/y"):
        fit_base_reranker(other, {}, nobody)


def test_in_pieces_it_comes_to_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start of the command goes on with the very next pair."""
    if not (place / "whole" / "run").exists():
        build(place, "whole")
    steps = AdapterRun.take_step

    def take_one(run: AdapterRun, examples: Any, size: int) -> torch.Tensor:
        run.asked_to_stop = run.at.steps == 2
        return steps(run, examples, size)

    monkeypatch.setattr(AdapterRun, "take_step", take_one)
    assert not build(place, "parts")
    monkeypatch.undo()
    stopped = read_position(place / "parts" / "run" / "state.safetensors")
    assert stopped.place == 12 and stopped.steps == 3
    assert not build(place, "parts", "pieces"), "no minutes at all"
    assert build(place, "parts")
    whole, parts = (load_file(place / work / "run" / "state.safetensors") for work in ("whole", "parts"))
    for name, one in whole.items():
        torch.testing.assert_close(parts[name], one, atol=1e-6, rtol=1e-5)


def test_the_way_of_a_gpu_taken_on_a_cpu_learns_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs that stay on the device, narrow weights, parts of batches, checkpoints written behind."""
    if not (place / "whole" / "run").exists():
        build(place, "whole")
    made: list[Any] = []

    def take(run: AdapterRun, recipe: Any, reader: Any, held: Any, report: Any) -> bool:
        run.writer = CheckpointWriter(behind=True)
        done = adapter_build._train_on_gpu(run, recipe, reader, held, report)
        made.extend([reader.resident, run.part_tokens])
        return done

    monkeypatch.setattr(adapter_build, "_train", take)
    monkeypatch.setattr(resident, "is_worthwhile", lambda data, device: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 34, 1 << 34))
    recipe = AdapterRecipe.load(place / "recipe.toml", "gpu")
    adapter_build.encode_corpus(recipe, place / "corpus", place / "gpu", place / "out", nobody)
    assert adapter_build.build_adapter(recipe, place / "corpus", place / "gpu", place / "out", nobody)
    assert made[0] is not None and made[1] == 1024
    logs = [
        [json.loads(line) for line in (place / name / "run" / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "gpu")
    ]
    checks = [[row["valid: grounded"] for row in log if "valid: grounded" in row] for log in logs]
    assert checks[1] == pytest.approx(checks[0], rel=2e-2) and len(checks[1]) == 3
    assert read_position(place / "gpu" / "run" / "state.safetensors").place == 24


def test_encoded_beforehand_a_run_is_the_same_and_needs_no_clones(place: Path) -> None:
    if not (place / "whole" / "run").exists():
        build(place, "whole")
    recipe, nothing = AdapterRecipe.load(place / "recipe.toml"), place / "nothing"
    work = place / "encoded"
    folder = adapter_build.encode_corpus(recipe, place / "corpus", work, place / "out", nobody)
    assert np.load(folder / "train.npz")["source"].dtype == np.uint16
    for name in ("train.jsonl", "valid.jsonl"):
        (work / name).unlink()
    shutil.rmtree(work / "mined")
    assert adapter_build.build_adapter(recipe, nothing, work, place / "out", nobody)
    whole, other = (load_file(place / name / "run" / "state.safetensors") for name in ("whole", "encoded"))
    assert all(torch.equal(other[name], one) for name, one in whole.items())
    logs = [
        (place / name / "run" / "log.jsonl").read_text().splitlines()[-1] for name in ("whole", "encoded")
    ]
    assert json.loads(logs[0])["valid: grounded"] == json.loads(logs[1])["valid: grounded"]
    (folder / "train.npz").write_bytes(b"damaged")
    with pytest.raises(GitpeftError, match="cannot be read"):
        adapter_build.read_encoded_pairs(folder)


def test_in_parts_and_out_of_memory_a_step_is_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(place, tmp_path, batch=8, part_tokens=tokens, rate=1e-3) for tokens in (0, 3 * 48, 0, 1)]
    examples = PromptedExamples.from_pairs(
        [(source[:-1], [*target, 2]) for source, target in tinymodel.pairs(8)], 3
    )
    compute, failed = AdapterRun._compute_loss, list[int]()
    parts: dict[int, list[int]] = {}

    def fail_first(run: AdapterRun, examples: Any, rows: list[int]) -> torch.Tensor:
        longest = max(map(sum, zip(*examples.count_tokens(rows, 999), strict=True)))
        if run is runs[2] and longest * len(rows) > 200:
            failed.append(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if run is runs[1]:
            assert longest * len(rows) <= 3 * 48
        parts.setdefault(runs.index(run), []).append(len(rows))
        return compute(run, examples, rows)

    monkeypatch.setattr(AdapterRun, "_compute_loss", fail_first)
    losses = [float(run.take_step(examples)) for run in runs]
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=1e-2) and failed == [1]
    assert parts[0] == [8] and 2 < len(parts[1]) < 8 and 1 < len(parts[2]) < 8 and parts[3] == [1] * 8
    assert "parts of" in runs[2].notes[0]
    for name, weight in runs[0].weights.items():
        for other in runs[1:]:
            torch.testing.assert_close(other.weights[name], weight, atol=3e-3, rtol=1e-2)
    monkeypatch.setattr(AdapterRun, "_compute_loss", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(GitpeftError, match="one pair at a time"):
        runs[0].take_step(examples)


def make_run(place: Path, folder: Path, **settings: Any) -> AdapterRun:
    torch.manual_seed(0)
    base = bases.find_base(str(place / "out")).load(adapted=False)
    model = methods.attach_method(base, methods.make_method("lora", {"rank": 4}))
    return AdapterRun(model, folder, AdapterSettings(**settings))


def test_a_checkpoint_of_the_first_scripts_is_read(place: Path, tmp_path: Path) -> None:
    """There the weights had numbers, and first matrices with the same input were one."""
    base = bases.find_base(str(place / "out"))
    method = methods.make_method("lora", {"rank": 4})
    run = AdapterRun(methods.attach_method(base.load(adapted=False), method), tmp_path, AdapterSettings())
    names = list(run.weights)
    dice = torch.Generator().manual_seed(0)
    wanted = {name: torch.randn(weight.shape, generator=dice) for name, weight in run.weights.items()}
    state: dict[str, torch.Tensor] = {}
    number = 0
    for layer in range(2):
        for parts in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)):
            a, b = (
                [
                    wanted[next(n for n in names if f".layers.{layer}." in n and f"{part}.lora_{side}" in n)]
                    for part in parts
                ]
                for side in "AB"
            )
            for matrix in (torch.cat(a), *b):
                for factor, kind in enumerate(("weight", "average", "exp_avg", "exp_avg_sq"), 1):
                    state[f"{number}.{kind}"] = matrix * factor
                number += 1
    note = {"note": json.dumps({"place": 640, "steps": 80, "seconds": 9, "recipe": {"rank": 4}})}
    save_file(state, tmp_path / "state.safetensors", note)
    assert run.resume() and run.at.place == 640 and run.at.steps == 80
    for name, weight in run.weights.items():
        assert torch.equal(weight.detach(), wanted[name]) and torch.equal(run.average[name], 2 * wanted[name])
        assert torch.equal(run.optimiser.state[weight]["exp_avg_sq"], 4 * wanted[name])
    run.save()
    again = AdapterRun(methods.attach_method(base.load(adapted=False), method), tmp_path, AdapterSettings())
    assert again.resume() and again.at.place == 640
    assert all(torch.equal(again.average[name], 2 * wanted[name]) for name in names)


def test_a_run_begins_with_an_earlier_adapter(place: Path, tmp_path: Path) -> None:
    base, method = bases.find_base(str(place / "out")), methods.make_method("lora", {"rank": 4})
    first = AdapterRun(
        methods.attach_method(base.load(adapted=False), method), tmp_path / "a", AdapterSettings()
    )
    first.at.place = 40
    first.save()
    second = AdapterRun(
        methods.attach_method(base.load(adapted=False), method), tmp_path / "b", AdapterSettings()
    )
    assert not second.resume(tmp_path / "nothing") and second.at.place == 0
    assert second.resume(tmp_path / "a" / "adapter_model.safetensors")
    assert second.at.place == second.at.begun == 40 and second.at.steps == 0
    for name, weight in second.weights.items():
        torch.testing.assert_close(weight, first.weights[name], atol=1e-2, rtol=1e-2)
    other = methods.attach_method(base.load(adapted=False), methods.make_method("lora", {"rank": 2}))
    with pytest.raises(GitpeftError, match="cannot go on"):
        AdapterRun(other, tmp_path / "a", AdapterSettings()).resume()


def test_pairs_are_the_same_at_every_reading(place: Path) -> None:
    if not (place / "whole").exists():
        build(place, "whole")
    codec = bases.find_base(str(place / "out")).load_codec()
    reader = PairReader(place / "whole" / "train.jsonl", codec, 400, seed=1)
    once, again = reader.make_examples(range(3, 9)), reader.make_examples([5])
    assert once.get_pair(2, 999)[0].tolist() == again.get_pair(0, 999)[0].tolist()
    source, target = again.get_pair(0, 999)
    assert len(source) < 400 and target[-1] == codec.find_message_end("prompt")
    message = json.loads(reader.lines[5])["message"]
    assert codec.decode(target.tolist()) == message and again.start == codec.find_message_start()


def test_what_readers_have_marked_is_asked_about_and_not_learnt(place: Path, tmp_path: Path) -> None:
    if not (place / "whole").exists():
        build(place, "whole")
    learnt = [json.loads(line)["sha"] for line in (place / "whole" / "train.jsonl").read_text().splitlines()]
    mined = commit_pairs.mine_examples(commit_pairs.open_clone(place / "corpus", "a/first"), "HEAD", 2500)
    newest = [one.sha for one in mined[len(mined) - len(mined) // 5 :]]
    marked = {sha for sha in newest if sha in learnt}
    marked.remove(max(marked))  # which is learnt, then
    rows = [f"a/first\t{sha}\t2\tLet it be" for sha in sorted(marked)]
    for name in ("repositories.tsv", "recipe.toml"):
        shutil.copy(place / name, tmp_path)
    (tmp_path / "marks.tsv").write_text("\n".join(["repository\tcommit\tmark\tmessage", *rows]) + "\n")
    asks = '[reranker]\ncommits = 4\nrepositories = ["a/first"]\nmarks = "marks.tsv"\n'
    (tmp_path / "recipe.toml").write_text(RECIPE + asks)
    recipe = AdapterRecipe.load(tmp_path / "recipe.toml")
    assert recipe.list_marked() == marked
    folder = adapter_build.encode_corpus(
        recipe, place / "corpus", tmp_path / "work", place / "out", lambda *_: None
    )
    left = [json.loads(line)["sha"] for line in (tmp_path / "work" / "train.jsonl").read_text().splitlines()]
    assert set(left) == set(learnt) - marked
    assert len(adapter_build.read_encoded_pairs(folder)[0]) == len(left)
    counts = json.loads((tmp_path / "work" / "counts.json").read_text())
    assert counts["left to other uses"] == len(marked)
    assert recipe.reranker is not None
    base = bases.find_base(str(place / "out"))
    marks = recipe.read_marks()
    asker = HistoryAsker(base, recipe.reranker, place / "corpus", frozenset(left), tmp_path / "asked", marks)
    asked = asker.ask_once("a/first", "HEAD")
    assert {one.example.sha for one in asked} == marked
    given = [c for one in asked for c in one.given]
    assert {c.message for c in given} == {"Let it be"} and all(c.get_feature("is_weighed") for c in given)
    assert asker.ask_once("a/first", "HEAD") == asked, "kept with the answers"
    without = replace(asker, marks=dict.fromkeys(((sha, "") for sha in marked), 0), work=tmp_path / "bare")
    bare = without.ask_once("a/first", "HEAD")
    assert [one.found for one in bare] == [one.found for one in asked], "nothing else looks different"
    [spare] = set(newest) - marked
    more = replace(asker, learnt=asker.learnt - {spare}, work=tmp_path / "more")
    more = replace(more, rules=replace(more.rules, commits=99))
    assert [one.example.sha for one in more.ask_once("a/first", "HEAD")] == newest, "others as well"


def test_the_rate_of_a_run() -> None:
    """Up over the first pairs, then constant, and down to nothing over the last ones."""
    settings = AdapterSettings(rate=1.0, warm=40, cool=100, batch=10, passes=2).count_pairs(200)
    assert settings.pairs == 400 and settings.count_pairs(7).pairs == 400
    rates = [settings.find_rate(place, 0) for place in (0, 20, 100, 300, 350, 390)]
    assert rates == pytest.approx([0.25, 0.75, 1.0, 1.0, 0.5, 0.1])
    assert settings.find_rate(100, 100) == 0.25, "a run that goes on from an adapter warms up anew"
    assert replace(settings, cool=0).find_rate(390, 0) == 1.0


def test_what_a_recipe_or_a_corpus_lacks_is_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(GitpeftError, match="cannot use the recipe"):
        AdapterRecipe.load(place / "recipe.toml", "cluster")
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("rate =", "speed ="))
    with pytest.raises(GitpeftError, match="speed"):
        AdapterRecipe.load(tmp_path / "recipe.toml")
    with pytest.raises(GitpeftError, match="no clone of x/y") as error:
        commit_pairs.open_clone(tmp_path, "x/y")
    assert "git clone" in error.value.hint
