"""What makes the run of an adapter fast on a GPU, and fit into its memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gitpeft.learn.pretraining.adapter_run import AdapterRun
from gitpeft.learn.training import compilation, memory_plan
from gitpeft.learn.training.memory_plan import MemoryNeed


@contextmanager
def fit_to_gpu(run: AdapterRun, tokens: int, free: int, backend: str) -> Iterator[None]:
    """Train as a GPU does it best, until the end: frozen weights in bfloat16 (as they are multiplied in any
    case), layers compiled with `backend` ("" for none), and by a plan for batches of so many `tokens` in
    `free` bytes.
    """
    need = MemoryNeed.from_model(run.model)
    plan = memory_plan.plan_memory(need, tokens, free, narrowed=True)
    run.part_tokens = min(run.part_tokens or tokens, -(-tokens // plan.parts))
    if plan.recompute:
        run.notes.append("little memory: activations are computed again in the backward pass")
    frozen = [weight for weight in run.model.parameters() if not weight.requires_grad]
    with (
        memory_plan.narrow_weights(frozen),
        memory_plan.follow_plan(run.model, replace(plan, narrow=False)),
    ):
        compilation.compile_layers(run.model, backend)
        try:
            yield
        finally:
            compilation.compile_layers(run.model, "")
