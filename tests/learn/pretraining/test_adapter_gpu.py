"""The run of an adapter as a GPU does it, here on a CPU: the same steps, in less memory and compiled."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import PromptedExamples
from gitpeft.learn.models import methods
from gitpeft.learn.pretraining import adapter_run
from gitpeft.learn.pretraining.adapter_gpu import fit_to_gpu
from gitpeft.learn.pretraining.adapter_run import AdapterRun, AdapterSettings
from gitpeft.learn.training.checkpoint_writer import CheckpointWriter
from gitpeft.learn.training.resident import ResidentExamples, ResidentSelection
from tests.support import tinymodel

PLENTY, LITTLE = 1 << 40, 100_000


def write_pairs(count: int) -> PromptedExamples:
    dice = random.Random(0)
    pairs = [
        ([dice.randrange(12, 390) for _ in range(dice.randint(10, 60))],
         [dice.randrange(12, 390) for _ in range(dice.randint(3, 9))])
        for _ in range(count)
    ]  # fmt: skip
    return PromptedExamples.from_pairs(pairs, 3)


PAIRS = write_pairs(64)


class Source:
    """Pairs that are on the device, as `EncodedPairs` gives them there."""

    def __init__(self) -> None:
        self.whole = ResidentExamples(PAIRS, torch.device("cpu"))

    def make_examples(self, places: Any) -> ResidentSelection:
        return ResidentSelection(self.whole, [place % len(PAIRS) for place in places])


def make_run(folder: Path, layers: int = 2, **settings: Any) -> AdapterRun:
    torch.manual_seed(0)
    base = tinymodel.causal(num_hidden_layers=layers)
    base.set_attn_implementation("sdpa")
    model = methods.attach_method(base, methods.make_method("lora", {"rank": 4}))
    return AdapterRun(model, folder, AdapterSettings(**{"rate": 1e-2, "warm": 16, "pairs": 32} | settings))


def take_steps(run: AdapterRun, free: int, backend: str = "") -> list[float]:
    source = Source()
    with fit_to_gpu(run, 8 * 80, free, backend):
        return [float(run.take_step(source.make_examples(range(at, at + 8)))) for at in (0, 8, 16)]


def test_in_little_memory_and_with_narrow_weights_the_steps_are_the_same(tmp_path: Path) -> None:
    plain, roomy, tight = (make_run(tmp_path) for _ in range(3))
    kinds = {weight.dtype for weight in roomy.model.parameters() if not weight.requires_grad}
    source = Source()
    wanted = [float(plain.take_step(source.make_examples(range(at, at + 8)))) for at in (0, 8, 16)]
    assert take_steps(roomy, PLENTY) == pytest.approx(wanted, rel=1e-2)
    assert take_steps(tight, LITTLE) == pytest.approx(wanted, rel=1e-2)
    assert kinds == {torch.float32} == {weight.dtype for weight in roomy.model.parameters()}
    assert roomy.part_tokens == 640 and tight.part_tokens < 640
    assert not roomy.notes and "computed again" in tight.notes[0]
    assert not tight.model.is_gradient_checkpointing


def test_while_a_gpu_trains_frozen_weights_are_narrow(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with fit_to_gpu(run, 640, PLENTY, ""):
        kinds = {weight.requires_grad: weight.dtype for weight in run.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_layers_are_compiled_once_for_all_of_them(tmp_path: Path) -> None:
    """Two graphs (the first layer's input has no gradient), however many layers and lengths there are."""
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    counter, compiled, plain = CompileCounter(), make_run(tmp_path, layers=12), make_run(tmp_path, layers=12)
    found = take_steps(compiled, PLENTY, counter)  # type: ignore[arg-type]
    assert (compiled.notes, counter.frame_count) == ([], 2)
    assert found == pytest.approx(take_steps(plain, PLENTY), rel=1e-3)
    again = make_run(tmp_path, layers=12)
    assert take_steps(again, PLENTY) and counter.frame_count == 2


def test_where_nothing_can_be_compiled_training_goes_on_without(tmp_path: Path) -> None:
    def fail(_graph: object, _inputs: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    torch.compiler.reset()
    run, plain = make_run(tmp_path), make_run(tmp_path)
    assert take_steps(run, PLENTY, fail) == take_steps(plain, PLENTY)  # type: ignore[arg-type]
    assert len(run.notes) == 1 and run.notes[0].startswith("not compiled (")


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, source, compute = make_run(tmp_path), Source(), AdapterRun._compute_loss
    run.take_step(source.make_examples(range(8)))
    before = {name: weight.detach().clone() for name, weight in run.weights.items()}
    monkeypatch.setattr(AdapterRun, "_compute_loss", lambda *given: compute(*given) * torch.nan)
    assert run.take_step(source.make_examples(range(8))).isnan() and run.at.place == 16
    assert all(torch.equal(run.weights[name], one) for name, one in before.items())
    assert all(bool(one.isfinite().all()) for one in run.average.values())
    run = make_run(tmp_path / "nan", batch=1, pairs=1000)
    with pytest.raises(GitpeftError, match="not finite in 50 steps in a row"):
        adapter_run.train_adapter(run, source, {}, lambda row: None)


def test_a_gpu_lost_in_the_middle_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written behind; the same run goes on from the last one, on a CPU."""
    rows: list[dict[str, float]] = []
    whole = make_run(tmp_path / "whole", batch=2)
    assert adapter_run.train_adapter(whole, Source(), {}, rows.append)
    lost, compute = make_run(tmp_path / "lost", batch=2, save_minutes=0.0), AdapterRun._compute_loss
    lost.writer = CheckpointWriter(behind=True)

    def fail(run: AdapterRun, *given: Any) -> torch.Tensor:
        if run.at.place == 20:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        return compute(run, *given)

    monkeypatch.setattr(AdapterRun, "_compute_loss", fail)
    with pytest.raises(GitpeftError, match="the GPU failed") as error:
        adapter_run.train_adapter(lost, Source(), {}, rows.append)
    assert "goes on from the last checkpoint" in error.value.hint
    monkeypatch.undo()
    again = make_run(tmp_path / "lost", batch=2)
    assert again.resume() and again.at.place == 20
    assert adapter_run.train_adapter(again, Source(), {}, rows.append)
    found, wanted = (load_file(tmp_path / name / "state.safetensors") for name in ("lost", "whole"))
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, atol=1e-6, rtol=1e-5)


def test_the_log_has_the_pace_where_the_devices_rate_is_known(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    adapter_run.train_adapter(make_run(tmp_path, batch=2), Source(), {}, rows.append, rate=1e12)
    row = next(row for row in rows if "loss" in row)
    assert row["place"] == 20 and row["tokens/s"] > 0 and 0 < row["of bf16"] < 1


def test_out_of_memory_is_told_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, compute = make_run(tmp_path), AdapterRun._compute_loss

    def fail_wide(run: AdapterRun, examples: Any, rows: Any) -> torch.Tensor:
        if len(rows) > 3:
            raise RuntimeError("CUDA error: out of memory")
        return compute(run, examples, rows)

    monkeypatch.setattr(AdapterRun, "_compute_loss", fail_wide)
    run.take_step(Source().make_examples(range(8)))
    assert run.notes == [f"out of memory: parts of {size} tokens from now on" for size in (256, 128)]
    assert run.part_tokens == 128
