"""An ONNX graph under construction, in float32 or with weights in int8.

The graphs are written node by node instead of being traced: that takes a second instead of half a minute,
depends on no exporter, and yields at once the fused operators of ONNX Runtime that a trace is optimised into.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gitpeft.share.quantisation import (
    BLOCK_WIDTH,
    BLOCK_ZERO,
    SCALE_SUFFIX,
    quantise_blocks,
    quantise_int8,
    quantise_pairs,
)

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

FloatArray = NDArray[np.float32]
NodeAttribute: TypeAlias = "int | float | str | Sequence[int] | GraphProto"
"""The value of a node's attribute."""

OPSET_VERSION = 18
IR_VERSION = 9
FUSED_DOMAIN = "com.microsoft"
_ELEMENT_TYPES = {"float": 1, "int64": 7}


class OnnxGraph:
    """Collects nodes; every method that computes something returns the name of its result.

    With `quantise`, weights of linear layers and embeddings are stored as int8 with one scale a column (of an
    embedding: a row). With `outside`, weights are not stored in the model but in a file of that name beside
    it, from which ONNX Runtime maps them into memory (see `save_graphs`).
    """

    def __init__(self, quantise: bool, outside: str = "") -> None:
        self.quantise = quantise
        self._outside = outside
        self._weights: dict[str, NDArray[np.generic]] = {}
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._count = 0

    def add_input(self, name: str, kind: str, shape: Sequence[int | str]) -> str:
        """Declare an input; a dimension is a number or the name of a variable one."""
        from onnx import helper

        self._inputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES[kind], list(shape)))
        return name

    def add_output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Declare `value` an output of floats, called `name`."""
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES["float"], list(shape)))

    def add_output_node(
        self, kind: str, *inputs: str, name: str, shape: Sequence[int | str], **attributes: NodeAttribute
    ) -> str:
        """Append a node whose result is an output of floats, called `name`: nothing is copied for it."""
        from onnx import helper

        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES["float"], list(shape)))
        return name

    def add_constant(self, array: NDArray[np.generic], name: str = "") -> str:
        """Store an array; a name that is stored already stands for the same array."""
        from onnx import numpy_helper

        name = name or self._make_name("constant")
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def add_weights(self, array: NDArray[np.generic], name: str) -> str:
        """Store weights, outside of the model where they have a name and the graph keeps them there."""
        if not (self._outside and name):
            return self.add_constant(array, name)
        if name not in self._initializers:
            from onnx import TensorProto, helper

            self._weights[name] = np.ascontiguousarray(array)
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            self._initializers[name] = TensorProto(name=name, data_type=kind, dims=array.shape)
        return name

    def add_floats(self, *values: float) -> str:
        """A constant vector of float32, or a scalar when there is one value."""
        return self.add_constant(np.array(values if len(values) > 1 else values[0], dtype=np.float32))

    def add_ints(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.add_constant(np.array(values, dtype=np.int64), "ints" + "_".join(map(str, values)))

    def add_node(self, kind: str, *inputs: str, domain: str = "", **attributes: NodeAttribute) -> str:
        """Append a node with one result; an empty input name is an input left out."""
        return self.add_multi_node("x", kind, *inputs, domain=domain, **attributes)[0]

    def add_multi_node(
        self, results: str, kind: str, *inputs: str, domain: str = "", **attributes: NodeAttribute
    ) -> list[str]:
        """Append a node with one result for each letter of `results`; `-` is an output that is not used."""
        from onnx import helper

        names = ["" if letter == "-" else self._make_name(kind.lower()) for letter in results]
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return [name for name in names if name]

    def add_fused_node(self, kind: str, *inputs: str, **attributes: NodeAttribute) -> str:
        """Append a node of ONNX Runtime's own operators."""
        return self.add_node(kind, *inputs, domain=FUSED_DOMAIN, **attributes)

    def add_linear(
        self, x: str, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False, name: str = ""
    ) -> str:
        """x · weightᵀ + bias, with `weight` (out, in) as torch stores it; `exact` keeps float32.

        With a `name`, the weights are stored under it (see `add_weights`).
        """
        columns = tensor_to_array(weight).T
        if not self.quantise or exact:
            product = self.add_node("MatMul", x, self.add_weights(columns, name))
            return (
                product
                if bias is None
                else self.add_node("Add", product, self.add_constant(tensor_to_array(bias)))
            )
        levels, scale = quantise_pairs(columns) if name else quantise_int8(columns, axis=0)
        extra = [] if bias is None else ["", self.add_constant(tensor_to_array(bias))]
        pair = self.add_weights(levels, name), self.add_weights(scale, name and f"{name}{SCALE_SUFFIX}")
        return self.add_fused_node("DynamicQuantizeMatMul", x, *pair, *extra)

    def add_embedding(self, table: Tensor, ids: str) -> str:
        """The rows of an embedding table (n, width) for `ids` (a, b): (a, b, width)."""
        if not self.quantise:
            return self.add_node("Gather", self.add_constant(tensor_to_array(table)), ids)
        levels, scale = quantise_int8(tensor_to_array(table), axis=1)
        floats = self.add_node(
            "Cast", self.add_node("Gather", self.add_constant(levels), ids), to=_ELEMENT_TYPES["float"]
        )
        return self.add_node("Mul", floats, self.add_node("Gather", self.add_constant(scale[:, None]), ids))

    def add_tied_embedding(self, table: Tensor, ids: str, name: str) -> str:
        """As `add_embedding`, from the transposed array that `add_tied_projection` stores."""
        if not self.quantise:
            rows = self.add_node("Gather", self.add_weights(tensor_to_array(table).T, name), ids, axis=1)
        else:
            levels, scale = self._add_tied_table(table, name)
            floats = self.add_node(
                "Cast", self.add_node("Gather", levels, ids, axis=1), to=_ELEMENT_TYPES["float"]
            )
            rows = self.add_node("Mul", floats, self.add_node("Gather", scale, ids))
        return self.add_node("Transpose", rows, perm=[1, 2, 0])

    def add_tied_projection(self, x: str, table: Tensor, name: str) -> str:
        """x · tableᵀ: an embedding that is both input and output of a network is stored once."""
        if not self.quantise:
            return self.add_node("MatMul", x, self.add_weights(tensor_to_array(table).T, name))
        return self.add_fused_node("DynamicQuantizeMatMul", x, *self._add_tied_table(table, name))

    def _add_tied_table(self, table: Tensor, name: str) -> tuple[str, str]:
        levels, scale = quantise_int8(tensor_to_array(table).T, axis=0)
        return self.add_weights(levels, name), self.add_weights(scale, f"{name}{SCALE_SUFFIX}")

    def add_block_embedding(self, table: Tensor, ids: str, name: str) -> str:
        """As `add_embedding`, from the array that `add_block_projection` stores: in int8, with a scale for
        every `BLOCK_WIDTH` numbers of a row.
        """
        width = table.shape[1]
        if not self.quantise:
            return self.add_node("Gather", self.add_weights(tensor_to_array(table), name), ids)
        levels, scale = self._add_block_table(table, name)
        rows = self.add_node("Cast", self.add_node("Gather", levels, ids), to=_ELEMENT_TYPES["float"])
        rows = self.add_node("Sub", rows, self.add_floats(BLOCK_ZERO))
        factors = self.add_node("Unsqueeze", self.add_node("Gather", scale, ids), self.add_ints(-1))
        flat = self.add_reshape(self.add_node("Mul", rows, factors), 0, 0, -1)
        return flat if width % BLOCK_WIDTH == 0 else self.add_slice(flat, 2, 0, width)

    def add_block_projection(self, x: str, table: Tensor, name: str) -> str:
        """x · tableᵀ, more exact than `add_tied_projection` and slower where x has many rows."""
        size, width = table.shape
        if not self.quantise:
            whole = self.add_weights(tensor_to_array(table), name)
            return self.add_fused_node("FusedMatMul", x, whole, transB=1)
        stored = self._add_block_table(table, name)
        shape = {"K": width, "N": size, "bits": 8, "block_size": BLOCK_WIDTH, "accuracy_level": 4}
        return self.add_fused_node("MatMulNBits", x, *stored, **shape)

    def _add_block_table(self, table: Tensor, name: str) -> tuple[str, str]:
        levels, scale = quantise_blocks(tensor_to_array(table))
        return self.add_weights(levels, name), self.add_weights(scale, f"{name}{SCALE_SUFFIX}")

    def add_reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps a dimension, -1 is what is left."""
        return self.add_node("Reshape", x, self.add_ints(*shape))

    def add_slice(self, x: str, axis: int, start: int, stop: int = 2**31 - 1) -> str:
        """A range of one axis."""
        return self.add_node("Slice", x, self.add_ints(start), self.add_ints(stop), self.add_ints(axis))

    def add_branch(self, condition: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """The result of `then`, or of `otherwise` where `condition` (one bool) is false; one is computed.

        Both functions append nodes to this graph and may read all that was computed before.
        """
        return self.add_multi_branch(condition, lambda: [then()], lambda: [otherwise()])[0]

    def add_multi_branch(
        self, condition: str, then: Callable[[], Sequence[str]], otherwise: Callable[[], Sequence[str]]
    ) -> list[str]:
        """As `add_branch`, for functions that give several results, as many as each other."""
        from onnx import helper

        branches = []
        for build in (then, otherwise):
            outer, self._nodes = self._nodes, []
            values = [helper.make_empty_tensor_value_info(result) for result in build()]
            for value in values:
                value.type.tensor_type.elem_type = _ELEMENT_TYPES["float"]
            branches.append(helper.make_graph(self._nodes, self._make_name("branch"), [], values))
            self._nodes = outer
        return self.add_multi_node(
            "x" * len(branches[0].output), "If", condition, then_branch=branches[0], else_branch=branches[1]
        )

    def to_bytes(self) -> bytes:
        """The serialised model."""
        from onnx import helper

        graph = helper.make_graph(
            self._nodes, "gitpeft", self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET_VERSION), helper.make_opsetid(FUSED_DOMAIN, 1)]
        model = helper.make_model(graph, producer_name="gitpeft", opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(model.SerializeToString())

    def outside_weights(self) -> Iterable[tuple[str, NDArray[np.generic]]]:
        """The arrays that are not stored in the model, by name."""
        return self._weights.items()

    def locate_weights(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Note in the model where in the file outside each of its arrays lies (see `read_tensor_ranges`)."""
        from onnx import TensorProto

        for name in self._weights:
            start, end = ranges[name]
            tensor = self._initializers[name]
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self._outside, "offset": str(start), "length": str(end - start)}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)

    def _make_name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}.{self._count}"


def save_graphs(graphs: Mapping[str, OnnxGraph], folder: Path, outside: str) -> None:
    """Write models by their file names, and the file of the weights that they keep outside, as safetensors.

    Weights that several of them name are written once.
    """
    from safetensors.numpy import save_file

    save_file(
        {name: array for one in graphs.values() for name, array in one.outside_weights()}, folder / outside
    )
    ranges = read_tensor_ranges(folder / outside)
    for name, graph in graphs.items():
        graph.locate_weights(ranges)
        (folder / name).write_bytes(graph.to_bytes())


def read_tensor_ranges(file: Path) -> dict[str, tuple[int, int]]:
    """Where the tensors of a safetensors file lie: first byte, and the one after the last, by name."""
    with file.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(size))
    header.pop("__metadata__", None)
    return {
        name: (8 + size + one["data_offsets"][0], 8 + size + one["data_offsets"][1])
        for name, one in header.items()
    }


def tensor_to_array(tensor: Tensor) -> FloatArray:
    """A tensor as a float32 array."""
    found: FloatArray = tensor.detach().to(torch.float32).cpu().numpy()
    return found
