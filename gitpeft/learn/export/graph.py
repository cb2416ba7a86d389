"""An ONNX graph under construction, in float32 or with weights in int8.

The graphs are written node by node instead of being traced: that takes a second instead of half a minute,
depends on no exporter, and yields at once the fused operators of ONNX Runtime that a trace is optimised into.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto

FloatArray = NDArray[np.float32]
NodeAttribute = int | float | str | Sequence[int]
"""The value of a node's attribute."""

OPSET_VERSION = 18
IR_VERSION = 9
FUSED_DOMAIN = "com.microsoft"
INT8_LEVELS = 63
"""Weights keep 7 of 8 bits. CPUs without VNNI add two u8·s8 products in 16 bits: 2·255·63 fits, and 2·255·127
does not: the sum would saturate on those CPUs and on no other."""

_ELEMENT_TYPES = {"float": 1, "int64": 7}


class OnnxGraph:
    """Collects nodes; every method that computes something returns the name of its result.

    With `quantise`, weights of linear layers and embeddings are stored as int8 with one scale a column (of an
    embedding: a row).
    """

    def __init__(self, quantise: bool) -> None:
        self.quantise = quantise
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

    def add_constant(self, array: NDArray[np.generic], name: str = "") -> str:
        """Store an array; a name that is stored already stands for the same array."""
        from onnx import numpy_helper

        name = name or self._make_name("constant")
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
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

    def add_linear(self, x: str, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False) -> str:
        """x · weightᵀ + bias, with `weight` (out, in) as torch stores it; `exact` keeps float32."""
        columns = tensor_to_array(weight).T
        if not self.quantise or exact:
            product = self.add_node("MatMul", x, self.add_constant(columns))
            return (
                product
                if bias is None
                else self.add_node("Add", product, self.add_constant(tensor_to_array(bias)))
            )
        levels, scale = quantise_int8(columns, axis=0)
        extra = [] if bias is None else ["", self.add_constant(tensor_to_array(bias))]
        return self.add_fused_node(
            "DynamicQuantizeMatMul", x, self.add_constant(levels), self.add_constant(scale), *extra
        )

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
            rows = self.add_node("Gather", self.add_constant(tensor_to_array(table).T, name), ids, axis=1)
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
            return self.add_node("MatMul", x, self.add_constant(tensor_to_array(table).T, name))
        return self.add_fused_node("DynamicQuantizeMatMul", x, *self._add_tied_table(table, name))

    def _add_tied_table(self, table: Tensor, name: str) -> tuple[str, str]:
        levels, scale = quantise_int8(tensor_to_array(table).T, axis=0)
        return self.add_constant(levels, name), self.add_constant(scale, f"{name}.scale")

    def add_reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps a dimension, -1 is what is left."""
        return self.add_node("Reshape", x, self.add_ints(*shape))

    def add_slice(self, x: str, axis: int, start: int, stop: int = 2**31 - 1) -> str:
        """A range of one axis."""
        return self.add_node("Slice", x, self.add_ints(start), self.add_ints(stop), self.add_ints(axis))

    def to_bytes(self) -> bytes:
        """The serialised model."""
        from onnx import helper

        graph = helper.make_graph(
            self._nodes, "gitpeft", self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET_VERSION), helper.make_opsetid(FUSED_DOMAIN, 1)]
        model = helper.make_model(graph, producer_name="gitpeft", opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(model.SerializeToString())

    def _make_name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}.{self._count}"


def tensor_to_array(tensor: Tensor) -> FloatArray:
    """A tensor as a float32 array."""
    found: FloatArray = tensor.detach().to(torch.float32).cpu().numpy()
    return found


def quantise_int8(weights: FloatArray, axis: int) -> tuple[NDArray[np.int8], FloatArray]:
    """Symmetric levels (int8) and scales (float32), one for each index of the axis that is not `axis`."""
    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0) / INT8_LEVELS
    levels = np.clip(np.rint(weights / scale), -INT8_LEVELS, INT8_LEVELS).astype(np.int8)
    return levels, scale.astype(np.float32).reshape(-1)
