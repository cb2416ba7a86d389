"""The optimisers of a training, and the learning rate over its course."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gitpeft.learn.training.settings import TrainingSettings

_NOT_HIDDEN = ("shared", "embed", "lm_head", "relative_attention_bias", "pointer")


class BatchedMuon(torch.optim.Muon):
    """Muon that orthogonalises all matrices of one shape at once: fewer kernels, the same step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; `found_inf` above zero (see `skip_step_where`) leaves weights and moments as they are."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.Tensor]] = {}
            for one in group["params"]:
                if one.grad is not None:
                    shapes.setdefault(one.shape, []).append(one)
            for same in shapes.values():
                self._update_matrices(same, group, getattr(self, "found_inf", None))

    def _update_matrices(
        self, same: list[torch.Tensor], group: dict[str, Any], skip: torch.Tensor | None
    ) -> None:
        momentum, rate = group["momentum"], group["lr"] * 0.2 * math.sqrt(max(same[0].shape))
        moments = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in same]
        grads, before = torch.stack([p.grad for p in same if p.grad is not None]), torch.stack(moments)
        after = before.lerp(grads, 1 - momentum)
        nesterov = grads.lerp(after, momentum)
        moves = -rate * orthogonalise(nesterov, group["ns_coefficients"], group["ns_steps"]).float()
        moves -= group["lr"] * group["weight_decay"] * torch.stack(same)
        if skip is not None:
            after, moves = torch.where(skip.bool(), before, after), moves.masked_fill(skip.bool(), 0)
        torch._foreach_copy_(moments, list(after.unbind()))
        torch._foreach_add_(same, list(moves.to(same[0].dtype).unbind()))


def orthogonalise(matrices: torch.Tensor, coefficients: Sequence[float], steps: int) -> torch.Tensor:
    """About the nearest half-orthogonal matrices of (n, rows, columns), bf16 (Newton-Schulz; Jordan 2024)."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if tall else matrices).bfloat16()
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found


def skip_step_where(optimiser: torch.optim.Optimizer, condition: torch.Tensor) -> None:
    """Let the next step change nothing where the condition, a boolean on the device, is true.

    In the way of torch's gradient scaler, which fused optimisers read: the host waits for nothing.
    """
    if isinstance(optimiser, BatchedMuon) or optimiser.defaults.get("fused"):
        vars(optimiser)["found_inf"] = condition.float()


def make_optimisers(model: nn.Module, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """AdamW; with `matrix_lr`, Muon (Jordan 2024) for hidden matrices and AdamW for the rest.

    Each parameter group has its peak rate under the key `peak`.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if settings.matrix_lr and _is_hidden_matrix(n, p)]
    hidden = {id(p) for p in matrices}
    adam = torch.optim.AdamW(
        [{"params": [p for _, p in named if id(p) not in hidden], "peak": settings.lr}],
        lr=settings.lr,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if not matrices:
        return [adam]
    muon = BatchedMuon(
        [{"params": matrices, "peak": settings.matrix_lr}],
        lr=settings.matrix_lr,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


def schedule_rate(done: float, settings: TrainingSettings, warm: float | None = None) -> float:
    """The factor on the peak rate when the share `done` of the budget is used.

    Linear warm-up, a plateau, and a linear decay to zero over the last `decay` share. `warm` is the share
    that the warm-up goes by, where that is less: without the time that the first step took to start.
    """
    warm = done if warm is None else warm
    if warm < settings.warmup:
        return (warm + 1e-3) / (settings.warmup + 1e-3)
    return min(1.0, max(0.0, 1 - done) / settings.decay)


def _is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not any(part in name for part in _NOT_HIDDEN)
