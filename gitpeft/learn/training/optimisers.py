"""The optimisers of a training, and the learning rate over its course."""

import torch
from torch import nn

from gitpeft.learn.training.settings import TrainingSettings

_NOT_HIDDEN = ("shared", "embed", "lm_head", "relative_attention_bias", "pointer")


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
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": settings.matrix_lr}],
        lr=settings.matrix_lr,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


def schedule_rate(done: float, settings: TrainingSettings) -> float:
    """The factor on the peak rate when the share `done` of the budget is used.

    Linear warm-up, a plateau, and a linear decay to zero over the last `decay` share.
    """
    if done < settings.warmup:
        return (done + 1e-3) / (settings.warmup + 1e-3)
    return min(1.0, max(0.0, 1 - done) / settings.decay)


def _is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not any(part in name for part in _NOT_HIDDEN)
