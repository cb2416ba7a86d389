"""A base's int8 graphs with a LoRA adapter in them, without torch: hides ONNX's and safetensors' bytes.

A tuned model has the base's graphs with other numbers in the same places. Which of the base's weights lies
where is seen from the numbers themselves: the scales of an int8 matrix are the largest magnitudes of its
columns, so that a run of scales names the weight it was made from. Each such weight gets its update,
W + alpha / r · B · A (Hu et al. 2021), and is made int8 again as the export makes it.

Every sum is taken in one order, in float64, element by element: all machines get the same bits, whatever
their linear algebra library does.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.bundle.bundle import DECODER_FILE, ENCODER_FILE
from gitpeft.bundle.embedded import BASE_WEIGHTS_FILE, ONNX_FOLDER
from gitpeft.errors import GitpeftError

INT8_LEVELS = 63
"""As in `learn.graph`, where the reason is; a test holds the two together."""

ADAPTER_CONFIG_FILE, ADAPTER_TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
_KEY_SCALES = 4  # scales that are compared to find a weight, before all of them are
_PEFT_PREFIX = "base_model.model."
_ONNX_INT8, _ONNX_FLOAT = 3, 1  # ONNX's numbers of these types
_PLAIN_LORA_CONFIG = {
    "peft_type": "LORA", "bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "use_dora": False,
    "use_rslora": False, "lora_bias": False, "rank_pattern": {}, "alpha_pattern": {},
    "layer_replication": None, "trainable_token_indices": None, "target_parameters": None,
}  # fmt: skip
"""What `adapter_config.json` says of a LoRA that is nothing but W + alpha / r · B · A."""


class NotMergeableError(GitpeftError):
    """The adapter, the base or its graphs are of another kind: the tuned graphs themselves are needed."""


def merge_lora_into_graphs(base: Path, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """The encoder's and the decoder's ONNX file of `base` with an adapter folded in.

    `read` gives a file of the adapter by its name. NotFoldableError when the method or the base does not
    allow it, GitpeftError when the adapter's shapes are not the base's.
    """
    weights = read_safetensors((base / BASE_WEIGHTS_FILE).read_bytes())
    updates = _read_lora_updates(read, weights)
    found = {
        name: _merge_into_graph(base / ONNX_FOLDER / name, weights, updates)
        for name in (ENCODER_FILE, DECODER_FILE)
    }
    used = set().union(*(names for _, names in found.values()))
    if missing := updates.keys() - used:
        raise NotMergeableError(f"the base's graphs do not show {min(missing)}")
    return {name: raw for name, (raw, _) in found.items()}


def read_safetensors(raw: bytes) -> dict[str, Any]:
    """The arrays of a safetensors file, float32, by name; GitpeftError when it is none."""
    import numpy as np

    kinds = {"F16": np.float16, "F32": np.float32}
    try:
        [length] = struct.unpack_from("<Q", raw)
        head = json.loads(raw[8 : 8 + length])
        head.pop("__metadata__", None)
        claimed = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in head.values())
        if claimed > len(raw):  # the same bytes under many names would take memory without end
            raise ValueError("its entries overlap")
        found = {}
        for name, entry in head.items():
            start, end = entry["data_offsets"]
            data = np.frombuffer(raw[8 + length + start : 8 + length + end], kinds[entry["dtype"]])
            found[name] = data.reshape(entry["shape"]).astype(np.float32)
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GitpeftError(f"the adapter's tensors cannot be read: {error}") from None
    return found


# --- the adapter --------------------------------------------------------------------------------------------


def _read_lora_updates(
    read: Callable[[str], bytes], weights: Mapping[str, Any]
) -> dict[str, tuple[Any, Any, float]]:
    """(A, B, alpha / r) by the name of the weight that they change."""
    import numpy as np

    config = _parse_lora_config(read(ADAPTER_CONFIG_FILE))
    scale = float(config["lora_alpha"]) / int(config["r"])
    halves = read_safetensors(read(ADAPTER_TENSORS_FILE))
    found = {}
    for name, down in halves.items():
        if name.endswith(".lora_B.weight") and name.replace("lora_B", "lora_A") in halves:
            continue
        module = name.removeprefix(_PEFT_PREFIX).removesuffix(".lora_A.weight")
        up = halves.get(name.replace("lora_A", "lora_B"))
        target = f"{module}.weight"
        if module == name or not name.endswith(".lora_A.weight") or up is None or target not in weights:
            raise NotMergeableError(f"the adapter holds {name}, which is no LoRA of this base")
        if down.ndim != 2 or up.ndim != 2 or weights[target].shape != (len(up), down.shape[1]):
            raise GitpeftError(f"the adapter's {name} does not have the shape of the base's {target}")
        if up.shape[1] != len(down) or not (np.isfinite(up).all() and np.isfinite(down).all()):
            raise GitpeftError(f"the adapter's {name} is damaged")
        found[target] = (down, up, scale)
    return found


def _parse_lora_config(raw: bytes) -> dict[str, Any]:
    try:
        config = json.loads(raw)
        plain = all(config.get(key, value) == value for key, value in _PLAIN_LORA_CONFIG.items())
        sane = type(config["r"]) is int and config["r"] > 0 and float(config["lora_alpha"]) > 0
    except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise GitpeftError(f"the adapter's configuration cannot be read: {error}") from None
    if not plain or not sane:
        raise NotMergeableError("the adapter is no plain LoRA")
    return dict(config)


def merge_lora_update(weight: Any, update: tuple[Any, Any, float] | None) -> Any:
    """W + scale · B · A, float32, summed rank by rank in float64."""
    import numpy as np

    if update is None:
        return weight
    down, up, scale = update
    total = np.zeros(weight.shape, np.float64)
    term = np.empty(weight.shape, np.float64)
    for row, column in zip(down.astype(np.float64), up.T.astype(np.float64), strict=True):
        np.multiply(column[:, None], row[None, :], out=term)
        np.add(total, term, out=total)
    return (weight + scale * total).astype(np.float32)


# --- the graphs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StoredArray:
    """A stored array of a graph: type, shape, and where its bytes are."""

    kind: int
    shape: tuple[int, ...]
    start: int
    end: int


def _merge_into_graph(
    path: Path, weights: Mapping[str, Any], updates: Mapping[str, Any]
) -> tuple[bytes, set[str]]:
    """A graph with the updates in it, and the names of the weights that were found there."""
    import numpy as np

    raw = bytearray(path.read_bytes())
    places = list(_read_stored_arrays(bytes(raw)))
    known = _WeightFinder(weights)
    seen: set[str] = set()
    for place, after in zip(places, [*places[1:], None], strict=True):
        if place.kind == _ONNX_INT8 and after is not None and after.shape == place.shape[1:]:
            names = known.find_by_scales(np.frombuffer(raw, np.float32, after.shape[0], after.start))
            if updates.keys() & set(names):
                whole = np.concatenate(
                    [merge_lora_update(weights[name], updates.get(name)) for name in names]
                )
                levels, scale = _quantize_int8(whole.T)
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
    """The base's matrices, findable by what a graph shows of them."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        import numpy as np

        self._weights = {name: weight for name, weight in weights.items() if weight.ndim == 2}
        self._scales: dict[bytes, list[tuple[str, Any]]] = {}
        for name, weight in self._weights.items():
            largest = np.abs(weight).max(axis=1)
            scale = (np.where(largest > 0, largest, np.float32(1.0)) / INT8_LEVELS).astype(np.float32)
            self._scales.setdefault(scale[:_KEY_SCALES].tobytes(), []).append((name, scale))

    def find_by_scales(self, scales: Any) -> list[str]:
        """The weights that lie side by side in an int8 matrix; [] when one of them is not known."""
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
        """The weight that was stored as it is, columns for rows; "" when it is none."""
        import numpy as np

        stored = np.frombuffer(raw, np.float32).reshape(shape).T
        for name, weight in self._weights.items():
            if weight.shape == stored.shape and np.array_equal(weight, stored):
                return name
        return ""


def _quantize_int8(columns: Any) -> tuple[Any, Any]:
    """Levels and a scale for each column, exactly as `learn.graph.int8` makes them."""
    import numpy as np

    largest = np.abs(columns).max(axis=0, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0) / INT8_LEVELS
    levels = np.clip(np.rint(columns / scale), -INT8_LEVELS, INT8_LEVELS).astype(np.int8)
    return levels, scale.astype(np.float32).reshape(-1)


# --- just enough of ONNX's protobuf -------------------------------------------------------------------------

_GRAPH_FIELD, _INITIALIZER_FIELD, _DIMS_FIELD, _TYPE_FIELD, _RAW_FIELD = (
    7,
    5,
    1,
    2,
    9,
)  # field numbers of onnx.proto


def _read_stored_arrays(raw: bytes) -> Iterator[_StoredArray]:
    """The arrays stored in a model, in its order; GitpeftError when it is none."""
    try:
        for number, graph in _read_fields(raw, 0, len(raw)):
            if number == _GRAPH_FIELD and isinstance(graph, tuple):
                for inner, tensor in _read_fields(raw, *graph):
                    if inner == _INITIALIZER_FIELD and isinstance(tensor, tuple):
                        yield from _read_stored_array(raw, tensor)
    except (IndexError, ValueError) as error:
        raise GitpeftError(f"the base's graph cannot be read: {error}") from None


def _read_stored_array(raw: bytes, tensor: tuple[int, int]) -> Iterator[_StoredArray]:
    shape: list[int] = []
    kind, data = 0, None
    for number, value in _read_fields(raw, *tensor):
        if number == _DIMS_FIELD and isinstance(value, int):
            shape.append(value)
        elif number == _DIMS_FIELD and isinstance(value, tuple):
            shape += _read_packed_ints(raw, *value)
        elif number == _TYPE_FIELD and isinstance(value, int):
            kind = value
        elif number == _RAW_FIELD and isinstance(value, tuple):
            data = value
    if data is not None:
        yield _StoredArray(kind, tuple(shape), *data)


def _read_packed_ints(raw: bytes, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = _read_varint(raw, at)
        yield value


def _read_fields(raw: bytes, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(field number, value) of a message: a number, or where the bytes of anything longer are."""
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
