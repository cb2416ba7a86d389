"""Merging a LoRA adapter into the int8 ONNX graphs of its base, without torch.

A tuned model has the base's graphs with other numbers in the same places. Where each of the base's weights
lies is found by the numbers themselves: the scales of an int8 matrix are the largest magnitudes of its
columns, so that a run of scales identifies the weight that it was made from. Each of these weights gets its
update, W + alpha / r · B · A (Hu et al. 2021), and is quantised again as the export does.

All sums are taken in a fixed order, in float64, element by element, so that all machines get the same bits,
whatever their linear algebra library does. The few fields of ONNX that are needed are parsed here, because
the receiver of a model does not need the onnx package (31 MB) for anything else.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from gitpeft.bundle.bundle import DECODER_FILE, ENCODER_FILE
from gitpeft.bundle.embedded import BASE_WEIGHTS_FILE, ONNX_FOLDER
from gitpeft.errors import GitpeftError
from gitpeft.share.quantisation import INT8_LEVELS, quantise_int8

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

ADAPTER_CONFIG_FILE, ADAPTER_TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
_KEY_SCALES = 4  # number of scales by which a weight is looked up, before all of them are compared
_PEFT_PREFIX = "base_model.model."
_ONNX_INT8, _ONNX_FLOAT = 3, 1  # TensorProto.DataType
_PLAIN_LORA_CONFIG = {
    "peft_type": "LORA", "bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "use_dora": False,
    "use_rslora": False, "lora_bias": False, "rank_pattern": {}, "alpha_pattern": {},
    "layer_replication": None, "trainable_token_indices": None, "target_parameters": None,
}  # fmt: skip
"""The settings in `adapter_config.json` of a plain LoRA, W + alpha / r · B · A."""


class NotMergeableError(GitpeftError):
    """The adapter, the base or its graphs are of another kind; the tuned graphs themselves are needed."""


class LoraUpdate(NamedTuple):
    """A low-rank update of a weight (out, in): W + scale · up · down, with down (r, in) and up (out, r)."""

    down: "FloatArray"
    up: "FloatArray"
    scale: float


def merge_lora_into_graphs(base: Path, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """The ONNX files of the encoder and decoder of `base`, by name, with an adapter merged into them.

    `read` returns a file of the adapter by its name. Raises NotMergeableError when the method or the base
    does not allow it, GitpeftError when the shapes of the adapter do not fit the base.
    """
    weights = read_safetensors((base / BASE_WEIGHTS_FILE).read_bytes())
    updates = read_lora_updates(read, weights)
    found = {
        name: _merge_into_graph(base / ONNX_FOLDER / name, weights, updates)
        for name in (ENCODER_FILE, DECODER_FILE)
    }
    used = set().union(*(names for _, names in found.values()))
    if missing := updates.keys() - used:
        raise NotMergeableError(f"{min(missing)} was not found in the base's graphs")
    return {name: raw for name, (raw, _) in found.items()}


def read_safetensors(raw: bytes) -> "dict[str, FloatArray]":
    """The arrays of a safetensors file by name, as float32; GitpeftError when it is invalid."""
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(raw)  # type: ignore[no-untyped-call]
        arrays = [(name, one["dtype"], one["shape"], one["data"]) for name, one in tensors]
    except (SafetensorError, LookupError, ValueError, TypeError) as error:
        raise GitpeftError(f"the adapter's tensors cannot be read: {error}") from None
    if any(kind not in _FLOAT_KINDS for _, kind, _, _ in arrays):
        raise GitpeftError(f"the adapter's tensors cannot be read: they are not {' or '.join(_FLOAT_KINDS)}")
    return {name: _read_floats(kind, data).reshape(shape) for name, kind, shape, data in arrays}


_FLOAT_KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How numpy reads the kinds of numbers; a bfloat16 is the upper half of a float32."""


def _read_floats(kind: str, data: bytes) -> "FloatArray":
    import numpy as np

    found = np.frombuffer(data, _FLOAT_KINDS[kind])
    if kind == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


# --- the adapter --------------------------------------------------------------------------------------------


def read_lora_updates(
    read: Callable[[str], bytes], weights: "Mapping[str, FloatArray]"
) -> dict[str, LoraUpdate]:
    """The updates of an adapter, by the name of the weight that they change.

    NotMergeableError when it is no plain LoRA of these weights, GitpeftError when it is damaged.
    """
    import numpy as np

    scale = _parse_lora_scale(read(ADAPTER_CONFIG_FILE))
    halves = read_safetensors(read(ADAPTER_TENSORS_FILE))
    updates = {}
    for name, down in halves.items():
        if name.endswith(".lora_B.weight") and name.replace("lora_B", "lora_A") in halves:
            continue
        module = name.removeprefix(_PEFT_PREFIX).removesuffix(".lora_A.weight")
        up = halves.get(name.replace("lora_A", "lora_B"))
        target = f"{module}.weight"
        if module == name or not name.endswith(".lora_A.weight") or up is None or target not in weights:
            raise NotMergeableError(f"the adapter's {name} is no LoRA of this base")
        if down.ndim != 2 or up.ndim != 2 or weights[target].shape != (len(up), down.shape[1]):
            raise GitpeftError(f"the adapter's {name} does not have the shape of the base's {target}")
        if up.shape[1] != len(down) or not (np.isfinite(up).all() and np.isfinite(down).all()):
            raise GitpeftError(f"the adapter's {name} is damaged")
        updates[target] = LoraUpdate(down, up, scale)
    return updates


def _parse_lora_scale(raw: bytes) -> float:
    """alpha / r of a plain LoRA; NotMergeableError for any other adapter."""
    try:
        config = json.loads(raw)
        plain = all(config.get(key, value) == value for key, value in _PLAIN_LORA_CONFIG.items())
        rank, alpha = config["r"], float(config["lora_alpha"])
    except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise GitpeftError(f"the adapter's configuration cannot be read: {error}") from None
    if not (plain and type(rank) is int and rank > 0 and alpha > 0):
        raise NotMergeableError("the adapter is not a plain LoRA")
    return alpha / rank


def merge_lora_update(weight: "FloatArray", update: LoraUpdate | None) -> "FloatArray":
    """W + scale · B · A, float32, summed rank by rank in float64; W unchanged without an update."""
    import numpy as np

    if update is None:
        return weight
    total = np.zeros(weight.shape, np.float64)
    term = np.empty(weight.shape, np.float64)
    for row, column in zip(update.down.astype(np.float64), update.up.T.astype(np.float64), strict=True):
        np.multiply(column[:, None], row[None, :], out=term)
        np.add(total, term, out=total)
    return cast("FloatArray", (weight + update.scale * total).astype(np.float32))


# --- the graphs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Array:
    """An array of a graph: name, type, shape, and the range of its bytes, (0, 0) where they are elsewhere."""

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int
    end: int


def _merge_into_graph(
    path: Path, weights: "Mapping[str, FloatArray]", updates: Mapping[str, LoraUpdate]
) -> tuple[bytes, set[str]]:
    """A graph with the updates merged in, and the names of the weights that were found in it."""
    import numpy as np

    raw = bytearray(path.read_bytes())
    places = [one for one in _read_arrays(bytes(raw)) if one.end]
    known = _WeightFinder(weights)
    seen: set[str] = set()
    for place, after in zip(places, [*places[1:], None], strict=True):
        if place.kind == _ONNX_INT8 and after is not None and after.shape == place.shape[1:]:
            names = known.find_by_scales(np.frombuffer(raw, np.float32, after.shape[0], after.start))
            if updates.keys() & set(names):
                whole = np.concatenate(
                    [merge_lora_update(weights[name], updates.get(name)) for name in names]
                )
                levels, scale = quantise_int8(whole.T, axis=0)
                raw[place.start : place.end] = np.ascontiguousarray(levels).tobytes()
                raw[after.start : after.end] = scale.tobytes()
            seen.update(names)
        elif place.kind == _ONNX_FLOAT and len(place.shape) == 2:
            name = known.find_by_values(raw[place.start : place.end], place.shape)
            if name in updates:
                raw[place.start : place.end] = np.ascontiguousarray(
                    merge_lora_update(weights[name], updates[name]).T
                ).tobytes()
            seen.add(name)
    return bytes(raw), seen


class _WeightFinder:
    """Finds the base's matrices by their numbers in a graph."""

    def __init__(self, weights: "Mapping[str, FloatArray]") -> None:
        import numpy as np

        self._weights = {name: weight for name, weight in weights.items() if weight.ndim == 2}
        self._scales: dict[bytes, list[tuple[str, FloatArray]]] = {}
        for name, weight in self._weights.items():
            largest = np.abs(weight).max(axis=1)
            scale = (np.where(largest > 0, largest, np.float32(1.0)) / INT8_LEVELS).astype(np.float32)
            self._scales.setdefault(scale[:_KEY_SCALES].tobytes(), []).append((name, scale))

    def find_by_scales(self, scales: "FloatArray") -> list[str]:
        """The weights that lie side by side in an int8 matrix with these scales; [] if one is unknown."""
        import numpy as np

        names, at = [], 0
        while at < len(scales):
            alike = self._scales.get(scales[at : at + _KEY_SCALES].tobytes(), [])
            fit = [(name, own) for name, own in alike if np.array_equal(own, scales[at : at + len(own)])]
            if len(fit) != 1:
                return []
            names.append(fit[0][0])
            at += len(fit[0][1])
        return names

    def find_by_values(self, raw: bytes | bytearray, shape: tuple[int, ...]) -> str:
        """The weight whose transpose was stored unchanged, as float32; "" when there is none."""
        import numpy as np

        stored = np.frombuffer(raw, np.float32).reshape(shape).T
        for name, weight in self._weights.items():
            if weight.shape == stored.shape and np.array_equal(weight, stored):
                return name
        return ""


# --- the needed part of ONNX's protobuf format --------------------------------------------------------------

# field numbers of onnx.proto
_GRAPH_FIELD, _INITIALIZER_FIELD = 7, 5
_DIMS_FIELD, _TYPE_FIELD, _NAME_FIELD, _RAW_FIELD = 1, 2, 8, 9


def read_array_shapes(raw: bytes) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that a model holds or names, by name; GitpeftError when it is invalid."""
    return {one.name: one.shape for one in _read_arrays(raw)}


def _read_arrays(raw: bytes) -> Iterator[_Array]:
    """The arrays that a model holds or names, in order; GitpeftError when the model is invalid."""
    try:
        for number, graph in _read_fields(raw, 0, len(raw)):
            if number == _GRAPH_FIELD and isinstance(graph, tuple):
                for inner, tensor in _read_fields(raw, *graph):
                    if inner == _INITIALIZER_FIELD and isinstance(tensor, tuple):
                        yield _read_array(raw, tensor)
    except (IndexError, ValueError) as error:
        raise GitpeftError(f"the graph cannot be read: {error}") from None


def _read_array(raw: bytes, tensor: tuple[int, int]) -> _Array:
    name, shape = "", list[int]()
    kind, data = 0, (0, 0)
    for number, value in _read_fields(raw, *tensor):
        if number == _DIMS_FIELD:
            shape += [value] if isinstance(value, int) else _read_packed_ints(raw, *value)
        elif number == _TYPE_FIELD and isinstance(value, int):
            kind = value
        elif number == _NAME_FIELD and isinstance(value, tuple):
            name = raw[slice(*value)].decode()
        elif number == _RAW_FIELD and isinstance(value, tuple):
            data = value
    return _Array(name, kind, tuple(shape), *data)


def _read_packed_ints(raw: bytes, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = _read_varint(raw, at)
        yield value


def _read_fields(raw: bytes, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(field number, value) of a message, where the value is a number or the range of its bytes."""
    while at < end:
        key, at = _read_varint(raw, at)
        if key & 7 == 0:
            value, at = _read_varint(raw, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, at = _read_varint(raw, at)
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
        else:
            raise ValueError(f"unknown wire type {key & 7}")
        yield key >> 3, (at, at + size)
        at += size
    if at != end:
        raise ValueError("a field ends outside its message")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
