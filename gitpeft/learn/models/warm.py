"""A training that begins where an earlier one ended: hides how a method's weights are put back.

Only the weights come back. The optimiser starts anew: its moments belong to other examples.
"""

from pathlib import Path
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.learn.models.methods import TuningMethod


def warm_start_model(model: Any, method: TuningMethod, folder: str) -> Any:
    """The model with what `methods.save` wrote into `folder`; as it is when `folder` is "".

    GitpeftError when those are not the weights of this method on this base.
    """
    if not folder:
        return model
    from safetensors.torch import load_file

    full = method.name == "full"
    tensors = load_file(Path(folder) / ("model.safetensors" if full else "adapter_model.safetensors"))
    try:
        if full:
            unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
        else:
            from peft import set_peft_model_state_dict

            unknown = set_peft_model_state_dict(model, tensors).unexpected_keys
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()[:160]
        raise GitpeftError(f"the installed model's weights do not fit: {reason}", _COLD_START_HINT) from None
    if unknown:
        raise GitpeftError(f"the installed model has weights that do not fit: {unknown[0]}", _COLD_START_HINT)
    return model


_COLD_START_HINT = "`gitpeft train --from-scratch` starts from the base"
