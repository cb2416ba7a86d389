"""A team's LoRA goes on from the adapter of its base, and validation says how far."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.models import bases, methods
from gitpeft.learn.models.bases import BaseModel
from gitpeft.learn.training import devices, finetune, loop
from gitpeft.learn.training.checkpoint import copy_trainable_weights
from gitpeft.learn.training.finetune import TrainingJob
from gitpeft.learn.training.settings import TrainingSettings
from tests.support import tinymodel
from tests.support.tuning import disturb

LORA = methods.make_method("lora", {"rank": 4, "lr": 1e-9})


def count_rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the number of examples each time that some are rendered."""
    seen: list[int] = []
    whole = finetune.render_examples

    def render(some: Any, base: BaseModel) -> Any:
        seen.append(len(some))
        return whole(some, base)

    monkeypatch.setattr(finetune, "render_examples", render)
    return seen


def nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A causal base with an adapter of its own."""
    folder = tmp_path_factory.mktemp("base")
    tinymodel.causal().save_pretrained(folder)
    tinymodel.write_tokenizer(folder)
    before = bases.find_base(str(folder)).digest
    model = methods.attach_method(tinymodel.causal(), LORA)
    disturb(model)
    methods.save_trained_weights(model, folder / "adapter")
    found = bases.find_base(str(folder))
    assert found.digest != before and found.digest == bases.find_base(str(folder)).digest
    return found


def data() -> Dataset:
    examples = tuple(
        Example(tinymodel.CHANGES[i % 4], f"{tinymodel.SUBJECTS[i % 4]} {i}", "", (), f"{i:040x}")
        for i in range(30)
    )
    return Dataset(examples, dataset.build_example_index(examples), 20, 25, {})


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(torch.arange(10, 60)[None]).logits
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "adapter" / "adapter_model.safetensors")
    return found


def test_the_same_lora_goes_on_and_other_methods_start_over_it(base: BaseModel, tmp_path: Path) -> None:
    """With a rate of nearly nothing, every method ends as the base with its adapter."""
    whole = logits(base.load())
    assert float((whole - logits(base.load(adapted=False))).abs().max()) > 1e-2
    for number, (name, settings) in enumerate([("lora", {"rank": 4}), ("lora", {"rank": 2}), ("full", {})]):
        method = methods.make_method(name, {**settings, "lr": 1e-9})
        folder = tmp_path / str(number)
        finetune.tune_base(TrainingJob(base, method, steps=1, checks=1), data(), folder, nobody)
        tuned = methods.load_merged_model(base.load_for(method), method, folder / "adapter")
        torch.testing.assert_close(logits(tuned), whole, atol=1e-3, rtol=1e-3)
    assert {n: w.shape for n, w in weights(tmp_path / "0").items()} == {
        n: w.shape for n, w in load_file(base.folder / "adapter" / "adapter_model.safetensors").items()
    }


def test_validation_measures_all_half_and_none_of_the_update(base: BaseModel, tmp_path: Path) -> None:
    method = methods.make_method("lora", {"rank": 4, "lr": 5e-2})
    finetune.tune_base(TrainingJob(base, method, steps=6, checks=1), data(), tmp_path, nobody)
    strength, losses = finetune.choose_strength(tmp_path)
    assert list(losses) == [1.0, 0.5, 0.0] and losses[strength] == min(losses.values())
    assert losses[1.0] != losses[0.0]
    start = base.find_start(method)
    half = finetune.scale_adapter(tmp_path, 0.5, start)
    none = finetune.scale_adapter(tmp_path, 0.0, start)
    for name, one in load_file(base.folder / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(weights(half)[name], (one + weights(tmp_path)[name]) / 2)
        torch.testing.assert_close(weights(none)[name], one)
    plain = methods.load_merged_model(base.load_for(method), method, none / "adapter")
    torch.testing.assert_close(logits(plain), logits(base.load()), atol=1e-4, rtol=1e-4)
    assert finetune.choose_strength(tmp_path / "nothing") == (1.0, {})
    (tmp_path / "strengths.json").write_text('{"1": 2.0, "0.5": 2.0, "0": 2.5}')
    assert finetune.choose_strength(tmp_path)[0] == 1.0, "of equals the whole update"


def test_what_memory_ran_out_for_is_told_and_not_tried_again(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses after a training are measured in batches as small as those that it had room for."""
    load, measure, sizes = loop._load_batch, loop.measure_loss, list[int]()
    told, failed = list[str](), list[bool]()

    def fail_first(*given: Any) -> Any:
        if not failed:
            failed.append(True)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return load(*given)

    def watch(model: Any, valid: Any, settings: TrainingSettings) -> float:
        sizes.append(settings.batch_tokens)
        return measure(model, valid, settings)

    monkeypatch.setattr(loop, "_load_batch", fail_first)
    monkeypatch.setattr(loop, "measure_loss", watch)
    monkeypatch.setattr(devices, "pick_device", note_no_gpu)
    job = TrainingJob(base, LORA, steps=3, checks=1)
    _, cost = finetune.tune_base(job, data(), tmp_path, lambda *given: told.append(given[2]))
    assert sizes == [4096 // 2] * 3
    assert cost.notes == ("no GPU here", "out of memory: each batch in 2 parts from now on")
    assert all(note in told[-1] for note in cost.notes), "not the last one alone"


def note_no_gpu(name: str | None = None, notes: list[str] | None = None) -> torch.device:
    if notes is not None:
        notes.append("no GPU here")
    return torch.device("cpu")


def test_strengths_are_measured_where_there_is_room(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that leaves the GPU in between keeps its tuned weights."""
    measured: list[dict[str, torch.Tensor]] = []

    def leave(model: Any, work: Any, notes: list[str]) -> Any:
        measured.append({n.replace(".default", ""): w for n, w in copy_trainable_weights(model).items()})
        first, again = work(), work()
        assert first == again
        notes.append("on the CPU")
        return again

    monkeypatch.setattr(devices, "run_where_it_fits", leave)
    method = methods.make_method("lora", {"rank": 4, "lr": 5e-2})
    _, cost = finetune.tune_base(TrainingJob(base, method, steps=6, checks=1), data(), tmp_path, nobody)
    assert cost.notes == ("on the CPU",) * 3
    tuned, half, none = measured
    for name, one in weights(tmp_path).items():
        assert torch.equal(one, tuned[name]) and not torch.equal(one, none[name])
        torch.testing.assert_close(half[name], (tuned[name] + none[name]) / 2)


def test_a_training_sees_as_many_of_the_newest_as_its_minutes_allow(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "measure_pace", lambda *_: 1.0)
    train = finetune.render_examples(data().train, base)
    job = TrainingJob(base, LORA, minutes=0.25)
    model = base.load()
    assert finetune.fit_into_minutes(model, train, job, tmp_path, []) == 12
    monkeypatch.setattr(loop, "measure_pace", lambda *_: 100.0)
    assert finetune.fit_into_minutes(model, train, job, tmp_path, []) == 12, "killed, it goes on with them"
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert finetune.fit_into_minutes(model, train, job, tmp_path, []) == 8, "at least one batch"
    assert json.loads((tmp_path / "examples.json").read_text()) == 8
    seen = count_rendered(monkeypatch)
    finetune.tune_base(job, data(), tmp_path, nobody)
    assert seen == [20, 5, 8], "the pool, the validation part, and what fits"


def test_the_pace_leaves_no_gradient(base: BaseModel) -> None:
    model = methods.attach_method(base.load(), LORA)
    train = finetune.render_examples(data().train[:3], base)
    assert loop.measure_pace(model, train, TrainingSettings()) > 0
    assert all(p.grad is None for p in model.parameters())


def test_a_base_of_our_own_sees_the_newest_of_a_long_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one pass over it does not fit; validation then is on fewer commits too."""
    tinymodel.pointer_t5().save_pretrained(tmp_path / "base")
    tinymodel.write_tokenizer(tmp_path / "base")
    own = bases.find_base(str(tmp_path / "base"))
    monkeypatch.setattr(
        finetune, "find_run_sizes", lambda _: finetune.RunSizes(4, 4, 512, checked=5, checks=1)
    )
    monkeypatch.setattr(finetune, "LONG_HISTORY", 10)
    seen = count_rendered(monkeypatch)
    for pace, fitting in ((1.0, 12), (0.01, 20)):
        monkeypatch.setattr(loop, "measure_pace", lambda *_, pace=pace: pace)
        job = TrainingJob(own, LORA, minutes=0.25)
        seen.clear()
        finetune.tune_base(job, data(), tmp_path / str(fitting), nobody)
        assert seen == [20, 5, fitting if fitting < 20 else 20]
    seen.clear()
    monkeypatch.setattr(finetune, "LONG_HISTORY", 1000)
    finetune.tune_base(TrainingJob(own, LORA, minutes=0.02), data(), tmp_path / "short", nobody)
    assert seen == [20, 5], "a short history is not even measured"


def test_only_a_cpu_is_short_of_time(base: BaseModel) -> None:
    job = TrainingJob(base, LORA, minutes=5)
    assert finetune.is_short_training(job, "cpu") and not finetune.is_short_training(job, "cuda")
    assert not finetune.is_short_training(replace(job, minutes=15), "cpu")
    assert not finetune.is_short_training(replace(job, steps=3), "cpu")


def test_a_short_training_changes_the_upper_layers_by_short_prompts(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more time it changes every layer, and reads prompts as the hook does. The end is measured once."""
    method = methods.make_method("lora", {"rank": 4, "lr": 5e-2})
    before = load_file(base.folder / "adapter" / "adapter_model.safetensors")
    rendered: list[int] = []
    whole = finetune.encode_example_for_base

    def encode(given: BaseModel, example: Example) -> tuple[list[int], list[int]]:
        rendered.append(given.budget.total)
        return whole(given, example)

    monkeypatch.setattr(finetune, "encode_example_for_base", encode)
    for short, totals, changed in ((15, {256}, {"1"}), (0, {512}, {"0", "1"})):
        monkeypatch.setattr(finetune, "SHORT_MINUTES", short)
        rendered.clear()
        _, cost = finetune.tune_base(
            TrainingJob(base, method, minutes=0.02), data(), tmp_path / str(short), nobody
        )
        after = weights(tmp_path / str(short))
        moved = {
            name.split("layers.")[1][0] for name, one in after.items() if not torch.equal(one, before[name])
        }
        assert (set(rendered), moved) == (totals, changed)
        losses = json.loads((tmp_path / str(short) / "strengths.json").read_text())
        assert [tuple(one) for one in cost.training.valid_curve] == [(cost.training.steps, losses["1"])]
