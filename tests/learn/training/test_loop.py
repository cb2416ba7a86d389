"""Training: it learns, keeps its best, ends in time, goes on where it was killed, counts what it costs."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import RenderedExamples
from gitpeft.learn.models import methods
from gitpeft.learn.training import devices, loop, memory, optimisers
from gitpeft.learn.training.loop import measure_loss, train_model
from gitpeft.learn.training.settings import TrainingCost, TrainingProgress, TrainingSettings
from tests.support import tinymodel
from tests.support.tuning import SMALL


def rendered(count: int = 8, seed: int = 0) -> RenderedExamples:
    return RenderedExamples.from_pairs(
        [(source, [*message, 1]) for source, message in tinymodel.pairs(count, seed)]
    )


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(
        **{"steps": 40, "batch_tokens": 400, "lr": 1e-2, "warmup": 0.05, "clip": 1.0, **changes}
    )


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_loss_falls_on_what_can_be_learnt_by_heart() -> None:
    model, data = tinymodel.pointer_t5(), rendered()
    before = measure_loss(model, data, settings())
    cost = train_model(model, data, settings(steps=60))
    after = measure_loss(model, data, settings())
    assert after < 0.7 * before
    assert (cost.steps, cost.trainable, cost.device) == (60, cost.parameters, "cpu")
    assert cost.examples == pytest.approx(60 * 8 / len(list(data.iterate_batches(400, 512, 0))), rel=0.3)
    assert cost.tokens > cost.examples * 8 and cost.peak_memory > 1 << 26
    assert [step for step, _ in cost.curve] == [20, 40, 60]
    kept = json.loads(json.dumps(cost.as_dict()))
    assert kept["steps"] == 60 and kept["share"] == 1 and kept["tokens_per_second"] > 0
    assert TrainingCost.from_dict(kept).as_dict().keys() == kept.keys()


def test_the_loss_that_is_shown_is_the_mean_of_the_first_steps() -> None:
    """And later a running average: the very first loss weighs no more than any other."""
    told = _learnt()
    seen: list[float] = []

    def watch(model: Any, part: Any) -> tuple[torch.Tensor, torch.Tensor]:
        minimised, _ = loop._message_loss(model, part)
        seen.append(0.0 if not seen else 1.0)
        return minimised, torch.tensor(seen[-1])

    train_model(tinymodel.pointer_t5(), rendered(), settings(steps=40), objective=watch, on_step=told)
    means = [sum(seen[:count]) / count for count in range(1, 34)]
    assert told.losses[:33] == pytest.approx(means)
    assert told.losses[39] == pytest.approx(1 - (1 - means[-1]) * 0.97**7)


def test_hidden_matrices_may_be_left_to_muon() -> None:
    model, data = tinymodel.pointer_t5(), rendered()
    before = measure_loss(model, data, settings())
    names = [len(group["params"]) for o in optimisers.make_optimisers(model, settings(matrix_lr=1e-2))
             for group in o.param_groups]  # fmt: skip
    assert len(names) == 2 and sum(names) == len(list(model.parameters()))
    train_model(model, data, settings(matrix_lr=1e-2))
    assert measure_loss(model, data, settings()) < 0.8 * before


def test_only_what_a_method_trains_changes() -> None:
    model = methods.attach_method(tinymodel.pointer_t5(), SMALL)
    before = weights(model)
    train_model(model, rendered(), settings(steps=5))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_best_weights_are_kept_and_not_the_last() -> None:
    """A rate that ruins the model once the warm-up is over."""
    model, data = tinymodel.pointer_t5(), rendered()
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []

    def heard(progress: TrainingProgress) -> None:
        if progress.valid is not None:
            seen.append((progress.valid, weights(model)))

    cost = train_model(
        model, data, settings(lr=3.0, warmup=0.9, clip=1e9), valid=data, evaluate_every=0.1, on_step=heard
    )
    best = min(range(len(seen)), key=lambda i: seen[i][0])
    assert 0 <= best < len(seen) - 1 and seen[-1][0] > seen[best][0]
    assert all(torch.equal(p, seen[best][1][name]) for name, p in weights(model).items())
    assert measure_loss(model, data, settings()) == pytest.approx(seen[best][0], abs=1e-5)
    assert [loss for _, loss in cost.valid_curve] == [loss for loss, _ in seen]
    assert 0 < cost.seconds_to_best < cost.seconds


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_training_goes_on_where_it_was(tmp_path: Path) -> None:
    """Learnt in two parts, it ends with the weights that one part would have given."""
    data, how = rendered(24), settings(steps=20)
    whole, batches = tinymodel.pointer_t5(dropout_rate=0.0), _learnt()
    train_model(whole, data, how, valid=data, evaluate_every=0.25, on_step=batches)

    first_part = _learnt()

    def kill(progress: TrainingProgress) -> None:
        first_part(progress)
        if progress.valid is not None and progress.step >= 10:
            raise Killed

    first = tinymodel.pointer_t5(dropout_rate=0.0)
    with pytest.raises(Killed):
        train_model(
            first, data, how, valid=data, evaluate_every=0.25, on_step=kill, checkpoint=tmp_path / "c"
        )
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"checkpoint.safetensors"}

    second, rest = tinymodel.pointer_t5(seed=9, dropout_rate=0.0), _learnt()
    cost = train_model(
        second, data, how, valid=data, evaluate_every=0.25, on_step=rest, checkpoint=tmp_path / "c"
    )
    done = first_part.steps[-1]
    assert 10 <= done < 20 and rest.steps == list(range(done + 1, 21)) and cost.steps == 20
    assert rest.losses == pytest.approx(batches.losses[done:], abs=2e-3)
    assert rest.tokens == batches.tokens[done:]
    assert [step for step, _ in cost.valid_curve] == batches.measured
    assert measure_loss(second, data, how) == pytest.approx(measure_loss(whole, data, how), abs=2e-3)


def test_when_the_gpu_is_lost_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, how = rendered(24), settings(steps=8)
    whole = loop._TrainingLoop.run_step

    def lose(self: Any, parts: Any, done: float) -> Any:
        if self.step == 5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors")
        return whole(self, parts, done)

    monkeypatch.setattr(loop._TrainingLoop, "run_step", lose)
    with pytest.raises(GitpeftError, match=r"the GPU failed: .*illegal memory access") as error:
        train_model(tinymodel.pointer_t5(), data, how, valid=data, evaluate_every=0.25, checkpoint=tmp_path)
    assert "the same command" in error.value.hint
    with pytest.raises(GitpeftError, match="the GPU failed") as error:
        train_model(tinymodel.pointer_t5(), data, how)
    assert "checkpoint" not in error.value.hint and "begins anew" in error.value.hint
    monkeypatch.undo()
    rest = _learnt()
    train_model(tinymodel.pointer_t5(), data, how, checkpoint=tmp_path, on_step=rest)
    assert 1 < rest.steps[0] <= 6 and rest.steps == list(range(rest.steps[0], 9)), "from the last checkpoint"


class _learnt:
    """Listens to a training."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.tokens: list[int] = []
        self.measured: list[int] = []

    def __call__(self, progress: TrainingProgress) -> None:
        self.steps.append(progress.step)
        self.losses.append(progress.loss)
        self.tokens.append(progress.tokens)
        if progress.valid is not None:
            self.measured.append(progress.step)


def test_the_best_from_before_a_kill_is_not_forgotten(tmp_path: Path) -> None:
    """What comes after it is worse: the weights of the best validation loss must be those at the end."""
    data, how = rendered(), settings(steps=40, lr=3.0, warmup=0.9, clip=1e9)
    seen: list[float] = []

    def kill(progress: TrainingProgress) -> None:
        seen.append(progress.valid if progress.valid is not None else float("inf"))
        if min(seen) < seen[-1] < float("inf"):
            raise Killed

    with pytest.raises(Killed):
        train_model(tinymodel.pointer_t5(), data, how, valid=data, on_step=kill, checkpoint=tmp_path / "c")
    again = tinymodel.pointer_t5()
    cost = train_model(again, data, replace(how, lr=1e4, decay=1e-9), valid=data, checkpoint=tmp_path / "c")
    assert min(loss for _, loss in cost.valid_curve) == min(seen)
    assert measure_loss(again, data, how) == pytest.approx(min(seen), abs=1e-4)


def test_it_ends_in_time() -> None:
    start = time.monotonic()
    cost = train_model(tinymodel.pointer_t5(), rendered(), settings(steps=10**6, minutes=1 / 60))
    assert 0.9 < time.monotonic() - start < 10
    assert 1 <= cost.steps < 10**6 and cost.seconds < 10


def test_the_rate_rises_stays_and_falls() -> None:
    how = settings(warmup=0.1, decay=0.5)
    rates = [optimisers.schedule_rate(done / 100, how) for done in range(101)]
    assert rates[0] < 0.02 and rates[10:50] == [1.0] * 40 and rates[100] == 0
    assert rates[:11] == sorted(rates[:11]) and rates[50:] == sorted(rates[50:], reverse=True)


@pytest.mark.parametrize("make", [tinymodel.pointer_t5, tinymodel.plain_t5], ids=["pointer", "plain"])
def test_validation_is_no_matter_of_chance(make: Any) -> None:
    """With dropout in the model, which belongs to learning alone."""
    model, data = make(dropout_rate=0.3), rendered()
    losses = set()
    for seed, training in enumerate((False, True, True)):
        torch.manual_seed(seed)
        model.train(training)
        losses.add(round(measure_loss(model, data, settings()), 6))
        assert model.training is training
    assert len(losses) == 1


def test_no_example_and_no_target() -> None:
    model, none = tinymodel.pointer_t5(), RenderedExamples.from_pairs([])
    before = weights(model)
    assert train_model(model, none, settings()).steps == 0
    assert all(torch.equal(p, before[name]) for name, p in weights(model).items())
    assert measure_loss(model, none, settings()) == 0


def test_two_runs_of_one_seed_are_one() -> None:
    first, second = (tinymodel.pointer_t5() for _ in range(2))
    for model in (first, second):
        train_model(model, rendered(), settings(steps=6, seed=4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_it_learns_the_same_and_is_itself_again() -> None:
    """The backend `eager` runs what was traced as it is."""
    plain, compiled = tinymodel.pointer_t5(), tinymodel.pointer_t5()
    train_model(plain, rendered(), settings(steps=2, lr=1e-4))
    cost = train_model(compiled, rendered(), settings(steps=2, lr=1e-4, compile="eager"))
    for name, weight in weights(compiled).items():
        assert torch.allclose(weight, weights(plain)[name], atol=1e-4), name
    assert "forward" not in vars(compiled.encoder) and cost.flops > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compilation_that_fails_leaves_no_gradients_behind() -> None:
    """It fails in the second half of the batch: when that is repeated, the first must not count twice."""
    gradients: list[int] = []

    def watch(model: Any, part: Any) -> tuple[torch.Tensor, torch.Tensor]:
        gradients.append(sum(p.grad is not None for p in model.parameters()))
        if len(gradients) == 2:
            raise RuntimeError("the compiler failed")
        return loop._message_loss(model, part)

    given = settings(steps=1, parts=2, compile="eager")
    told: list[TrainingProgress] = []
    train_model(tinymodel.pointer_t5(), rendered(), given, objective=watch, on_step=told.append)
    assert told[0].note == "not compiled (RuntimeError: the compiler failed)"
    first, failed, again, second = gradients
    assert first == again == 0 and failed > 0 and second > 0


# --- losses that are not finite -----------------------------------------------------------------------------


def test_a_first_validation_that_is_nan_is_not_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked, notes = loop.measure_loss_until, list[float](), list[str]()

    def sometimes(*given: Any) -> tuple[float, list[int]]:
        loss, seen = whole(*given)
        asked.append(loss if asked else float("nan"))
        return asked[-1], seen

    monkeypatch.setattr(loop, "measure_loss_until", sometimes)
    model, data = tinymodel.pointer_t5(), rendered()
    cost = train_model(
        model, data, settings(), valid=data, evaluate_every=0.25, on_step=lambda p: notes.append(p.note)
    )
    assert len(asked) == 4 and [loss for _, loss in cost.valid_curve] == asked[1:]
    assert measure_loss(model, data, settings()) == pytest.approx(min(asked[1:]), abs=1e-5)
    assert "not finite" in " ".join(notes)


@pytest.mark.parametrize("matrix_lr", [0.0, 1e-2], ids=["adamw", "muon"])
def test_a_step_without_a_finite_loss_is_skipped_and_counted(matrix_lr: float) -> None:
    calls: list[float] = []

    def sometimes(model: Any, inputs: Any) -> Any:
        calls.append(float("nan") if len(calls) in (0, 3) else 1.0)
        found = model(**inputs).loss * calls[-1]
        return found, found

    notes: list[str] = []
    model, data = tinymodel.pointer_t5(), rendered()
    before = measure_loss(model, data, settings())
    cost = train_model(
        model, data, settings(matrix_lr=matrix_lr), objective=sometimes,
        on_step=lambda p: notes.append(p.note),
    )  # fmt: skip
    assert (cost.steps, cost.skipped) == (40, 2)
    assert notes[0].startswith("the loss or its gradient is not finite") and not any(notes[1:])
    assert measure_loss(model, data, settings()) < before


def test_a_training_whose_loss_stays_nan_ends_with_a_sentence() -> None:
    def never(model: Any, inputs: Any) -> Any:
        found = model(**inputs).loss * float("nan")
        return found, found

    model = tinymodel.pointer_t5()
    before = weights(model)
    with pytest.raises(GitpeftError, match="not finite in 50 steps in a row"):
        train_model(model, rendered(), settings(steps=1000), objective=never)
    assert all(torch.equal(p, before[name]) for name, p in weights(model).items())


def test_matrices_stacked_by_shape_get_the_step_of_torch() -> None:
    torch.manual_seed(0)
    shapes = [(24, 8), (8, 24), (24, 8), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    how: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    pair = optimisers.BatchedMuon(ours, **how), torch.optim.Muon(theirs, **how)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        pair[0].step()
        pair[1].step()  # type: ignore[no-untyped-call]
    for a, b in zip(ours, theirs, strict=True):
        moments = pair[0].state[a]["momentum_buffer"], pair[1].state[b]["momentum_buffer"]
        assert torch.allclose(a, b, atol=5e-3) and torch.allclose(moments[0], moments[1], atol=1e-6)


def test_a_slow_first_step_does_not_use_up_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compiling is: the first step takes almost all of the time."""
    whole, rates = loop._TrainingLoop.run_step, list[float]()

    def slow(self: Any, parts: Any, done: float) -> Any:
        if self.step == 0:
            self.started -= 20
        found = whole(self, parts, done)
        rates.append(self.optimisers[0].param_groups[0]["lr"])
        return found

    monkeypatch.setattr(loop._TrainingLoop, "run_step", slow)
    how = settings(steps=10_000, minutes=22 / 60, warmup=0.08, decay=1e-9, lr=1e-3)
    train_model(tinymodel.pointer_t5(), rendered(), how)
    assert rates[1] < 0.2e-3 and max(rates) > 0.8e-3


def test_a_gpu_that_has_no_room_for_one_example_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the device says that it is a GPU until the model is moved."""
    away: list[str] = []
    real = devices.move_to_cpu

    def move(model: Any, reason: str, notes: list[str]) -> Any:
        away.append(reason)
        return real(model, reason, notes)

    def where(self: Any) -> torch.device:
        return torch.device("cpu" if away else "cuda")

    whole = loop._load_batch

    def load(data: Any, batch: Any, how: Any, device: torch.device, model: Any, stays: Any) -> Any:
        assert (stays == "examples on cuda") == (device.type == "cuda"), "what was there is left there"
        if device.type == "cuda":
            raise OUT_OF_MEMORY[0]
        return whole(data, batch, how, device, model)

    monkeypatch.setattr(loop, "make_resident", lambda data, device: f"examples on {device}")
    monkeypatch.setattr(devices, "move_to_cpu", move)
    monkeypatch.setattr(loop._TrainingLoop, "device", property(where))
    monkeypatch.setattr(loop, "_load_batch", load)
    notes: list[str] = []
    model, data = tinymodel.pointer_t5(), rendered()
    cost = train_model(model, data, settings(steps=3), on_step=lambda p: notes.append(p.note))
    assert (cost.steps, cost.device, len(away)) == (3, "cpu", 1)
    assert "the GPU has too little free memory, training goes on on the CPU" in notes[0]


def test_the_start_of_a_training_is_not_taken_for_its_pace() -> None:
    """Kernels are loaded in the first steps; a batch that is a little longer is no start."""
    assert loop.estimate_startup_seconds([2.0, 0.5, 0.1, 0.2]) == pytest.approx(1.8 + 0.3)
    assert loop.estimate_startup_seconds([0.2, 0.1, 0.3, 0.1]) == 0
    assert loop.estimate_startup_seconds([2.0]) == loop.estimate_startup_seconds([]) == 0


def test_the_clock_stops_when_the_gpu_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the loss of the last step was not looked at, and its work takes a while."""
    now, record = [0.0], loop._TrainingLoop.record_step

    def leave(self: Any, loss: torch.Tensor, *rest: Any) -> TrainingProgress:
        found = record(self, loss, *rest)
        if self.step == 4:
            self.unread.append(loss * torch.nan)
        return found

    def wait(device: torch.device) -> None:
        now[0] += 7.0

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop._TrainingLoop, "record_step", leave)
    monkeypatch.setattr(loop, "synchronise_device", wait)
    cost = train_model(tinymodel.pointer_t5(), rendered(), settings(steps=4))
    assert (cost.seconds, cost.skipped) == (7.0, 1)
    assert cost.notes == ["the loss or its gradient is not finite: such steps are skipped"]


def test_what_the_first_step_took_to_start_is_in_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loop._TrainingLoop.run_step

    def slow(self: Any, parts: Any, done: float) -> Any:
        if self.step == 0:
            time.sleep(0.8)
        return whole(self, parts, done)

    monkeypatch.setattr(loop._TrainingLoop, "run_step", slow)
    cost = train_model(tinymodel.pointer_t5(), rendered(), settings(steps=8))
    assert 0.4 < cost.startup_seconds < min(1.2, cost.seconds)


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 100])
def test_in_parts_a_step_is_the_same(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has another number of labels; what adds up must be the mean over those of the whole batch."""
    monkeypatch.setattr(loop, "_autocast_bfloat16", lambda device: nullcontext())
    monkeypatch.setattr(loop, "make_optimisers", descent)
    sizes: list[int] = []
    tensors = loop._load_batch

    def counted(data: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch))
        return tensors(data, batch, *rest)

    monkeypatch.setattr(loop, "_load_batch", counted)
    whole, divided = (tinymodel.pointer_t5(dropout_rate=0.0) for _ in range(2))
    plain = train_model(whole, rendered(), settings(steps=1, clip=1e9))
    assert len(sizes) == 1
    cost = train_model(divided, rendered(), settings(steps=1, clip=1e9, parts=parts))
    assert 2 < len(sizes) <= 1 + parts and sum(sizes) == 2 * sizes[0] and plain.examples == cost.examples
    for name, weight in weights(divided).items():
        assert torch.allclose(weight, weights(whole)[name], atol=1e-6), name


def descent(model: Any, settings: TrainingSettings) -> list[Any]:
    """Plain gradient descent, which hides no difference."""
    return [torch.optim.SGD([{"params": list(model.parameters()), "peak": settings.lr}], lr=settings.lr)]


def fail_once(patch: pytest.MonkeyPatch, name: str, error: Exception, times: int = 1) -> list[int]:
    """The function raises the first `times` times; the numbers of examples that it is asked with."""
    whole, sizes = getattr(loop, name), []

    def sometimes(data: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch))
        if len(sizes) <= times:
            raise error
        return whole(data, batch, *rest)

    patch.setattr(loop, name, sometimes)
    return sizes


OUT_OF_MEMORY = [
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["driver", "cublas", "gpu", "cpu", "python"])
def test_out_of_memory_divides_the_batch_goes_on_and_says_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = fail_once(monkeypatch, "_load_batch", error)
    notes: list[str] = []
    cost = train_model(
        tinymodel.pointer_t5(), rendered(24), settings(steps=12), on_step=lambda p: notes.append(p.note)
    )
    assert cost.steps == 12 and cost.halved == 1 and (cost.batch_tokens, cost.parts) == (400, 2)
    assert sizes[1] == -(-sizes[0] // 2) and sizes[1] + sizes[2] == sizes[0]
    assert notes[0] == "out of memory: each batch in 2 parts from now on" and not any(notes[1:])
    assert cost.notes == notes[:1]


def test_out_of_memory_while_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = loop.measure_loss_until, []

    def sometimes(model: Any, data: Any, chosen: Any, how: TrainingSettings, deadline: float) -> Any:
        asked.append(how.batch_tokens)
        if len(asked) == 1:
            raise MemoryError
        return whole(model, data, chosen, how, deadline)

    monkeypatch.setattr(loop, "measure_loss_until", sometimes)
    model, data = tinymodel.pointer_t5(), rendered()
    cost = train_model(model, data, settings(steps=4), valid=data, evaluate_every=0.5)
    assert asked[:2] == [400, 200] and cost.halved == 1 and len(cost.valid_curve) == 2


def test_losses_and_paces_are_measured_in_parts_where_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also outside of a training, which divides its batches itself."""
    model, data = tinymodel.pointer_t5(), rendered()
    wanted = measure_loss(model, data, settings())
    sizes = fail_once(monkeypatch, "_load_batch", OUT_OF_MEMORY[2])
    assert measure_loss(model, data, settings()) == pytest.approx(wanted, abs=2e-3)
    assert len(sizes) > 2 and max(sizes[1:]) < sizes[0] and not model.training
    monkeypatch.undo()
    sizes = fail_once(monkeypatch, "_load_batch", OUT_OF_MEMORY[2])
    assert loop.measure_pace(model, rendered(4), settings()) > 0 and sizes == [4, 2, 2, 2, 2]
    assert all(p.grad is None for p in model.parameters())
    monkeypatch.undo()
    fail_once(monkeypatch, "_load_batch", OUT_OF_MEMORY[2], times=1000)
    for measure in (measure_loss, loop.measure_pace):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            measure(model, data, settings())


def test_one_example_too_many_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(monkeypatch, "_load_batch", OUT_OF_MEMORY[2], times=1000)
    with pytest.raises(GitpeftError, match=r"one example at a time: .*CUDA out of memory") as error:
        train_model(tinymodel.pointer_t5(), rendered(), settings())
    assert "smaller base" in error.value.hint


def test_another_error_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(monkeypatch, "_load_batch", RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        train_model(tinymodel.pointer_t5(), rendered(), settings())


def test_the_peak_is_that_of_the_work_and_not_of_what_was_before() -> None:
    block = bytearray(b"x") * (200 << 20)
    with_block = memory.read_peak_resident()
    del block
    memory.reset_peak_memory()
    assert memory.read_peak_resident() < with_block - (100 << 20)
    assert memory.read_peak_device("cpu") == (0, 0)


def test_a_checkpoint_does_not_wait_for_a_validation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train_model(tinymodel.pointer_t5(), rendered(), settings(), on_step=kill, checkpoint=tmp_path)
    steps: list[int] = []
    train_model(
        tinymodel.pointer_t5(), rendered(), settings(steps=5), on_step=lambda p: steps.append(p.step),
        checkpoint=tmp_path,
    )  # fmt: skip
    assert steps == [4, 5]


def test_what_a_killed_training_noted_is_not_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_once(monkeypatch, "_load_batch", OUT_OF_MEMORY[2])
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train_model(tinymodel.pointer_t5(), rendered(), settings(), on_step=kill, checkpoint=tmp_path)
    cost = train_model(tinymodel.pointer_t5(), rendered(), settings(steps=5), checkpoint=tmp_path)
    assert cost.notes == ["out of memory: each batch in 2 parts from now on"]


class _Clock:
    """A clock that only trainings move: a step and a batch of a validation take 0.5 s, and 10 s in the
    validation number `slow`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slow: int = -1) -> None:
        self.now, self.validating = 0.0, False
        self.batches, self.seen, self.losses = list[int](), list[list[int]](), list[float]()
        load, measure, run_step = loop._load_batch, loop.measure_loss_until, loop._TrainingLoop.run_step

        def load_slowly(*arguments: Any) -> Any:
            if self.validating:
                self.now += 10.0 if len(self.batches) - 1 == slow else 0.5
                self.batches[-1] += 1
            return load(*arguments)

        def step_slowly(*arguments: Any) -> torch.Tensor:
            self.now += 0.5
            return run_step(*arguments)

        def watch(*arguments: Any) -> tuple[float, list[int]]:
            self.batches.append(0)
            self.validating = True
            loss, seen = measure(*arguments)
            self.validating = False
            self.seen.append(sorted(seen))
            self.losses.append(loss)
            return loss, seen

        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(loop, "_load_batch", load_slowly)
        monkeypatch.setattr(loop._TrainingLoop, "run_step", step_slowly)
        monkeypatch.setattr(loop, "measure_loss_until", watch)

    def train(self, model: Any, seconds: float, **more: Any) -> TrainingCost:
        """For so long by this clock."""
        how = settings(steps=10**6, minutes=seconds / 60, batch_tokens=100)
        return train_model(model, rendered(4), how, valid=rendered(8, 1), evaluate_every=0.25, **more)


def test_the_last_validation_is_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    cost = clock.train(tinymodel.pointer_t5(), 50)
    assert 45 < clock.now <= 50.5
    assert cost.valid_curve[-1][0] == cost.steps and len(cost.valid_curve) >= 2
    assert all(one == list(range(8)) for one in clock.seen)


def test_a_long_validation_measures_a_sample_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    cost = clock.train(tinymodel.pointer_t5(), 20)
    assert clock.batches[0] == 4, "a tenth of the time is 2 s"
    assert 0 < len(clock.seen[0]) < 8 and all(one == clock.seen[0] for one in clock.seen)
    assert clock.now <= 20.5 and [loss for _, loss in cost.valid_curve] == clock.losses
    assert len(clock.losses) >= 2


def test_a_validation_that_became_slow_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of the best loss that was measured on the same examples."""
    measured: list[dict[str, torch.Tensor]] = []
    clock, model = _Clock(monkeypatch, slow=1), tinymodel.pointer_t5()

    def heard(progress: TrainingProgress) -> None:
        if progress.valid is not None:
            measured.append(weights(model))

    cost = clock.train(model, 20, on_step=heard)
    assert clock.batches[-1] == 1 < clock.batches[0]
    assert clock.now <= 20 + 10, "the batch that was begun"
    assert len(measured) == len(cost.valid_curve) == 1 and cost.valid_curve[0][0] < cost.steps
    assert all(torch.equal(p, measured[0][name]) for name, p in weights(model).items())


def test_a_training_that_goes_on_validates_on_the_same_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = _Clock(monkeypatch)

    def kill(progress: TrainingProgress) -> None:
        if progress.valid is not None and progress.step > 1:
            raise Killed

    with pytest.raises(Killed):
        clock.train(tinymodel.pointer_t5(), 20, checkpoint=tmp_path, on_step=kill)
    clock.train(tinymodel.pointer_t5(seed=9), 20, checkpoint=tmp_path)
    assert len(clock.seen) >= 2 and 0 < len(clock.seen[0]) < 8
    assert all(one == clock.seen[0] for one in clock.seen)


@pytest.mark.parametrize(("minutes", "passes"), [(1.0, 2), (0.5, 1)])
def test_the_pace_is_measured_again_where_that_is_cheap(
    minutes: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass takes 4 s, for which half a minute is short, and the second 2 s."""
    now, load = [0.0], loop._load_batch
    took = iter((4.0, 2.0))

    def load_slowly(*arguments: Any) -> Any:
        now[0] += next(took)
        return load(*arguments)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "_load_batch", load_slowly)
    pace = loop.measure_pace(tinymodel.pointer_t5(), rendered(4), settings(minutes=minutes))
    assert pace == pytest.approx((1.0, 0.5)[passes - 1]) and len(list(took)) == 2 - passes
