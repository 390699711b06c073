"""The portable QDQ form: what it stores, how far a float runtime may go, and reading it again."""

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from bridge.export.pipeline import convert_model
from bridge.export.read.layer import QuantizedLayer, output_rows
from bridge.export.read.quantized import read_quantized
from property_tests.strategies.modules import (
    conv1d_cases,
    conv2d_cases,
    conv3d_cases,
    conv_transpose1d_cases,
    conv_transpose2d_cases,
    linear_cases,
)
from tests.support.bits import assert_same_bits
from tests.support.graphs.builders import inter_model
from tests.support.modules.case import Case
from tests.support.runtime import run_at

_CASES = st.one_of(
    conv1d_cases(),
    conv2d_cases(),
    conv3d_cases(),
    conv_transpose1d_cases(),
    conv_transpose2d_cases(),
    linear_cases(),
    conv2d_cases(bits=16),
    conv_transpose2d_cases(bits=16),
    linear_cases(bits=16),
)
_ROUNDING = 2.0**-24

Array = np.ndarray


@given(_CASES)
def test_a_stored_layer_is_the_layer_it_was_made_of(case: Case) -> None:
    """Weights int8, biases int32; y_float within its bound of y_fake; read again, the same bits."""
    x = case.x.numpy()
    fake, deploy, summaries, floats, _ = convert_model(inter_model(case), target="qdq")
    assert not floats
    assert {summary.form for summary in summaries} == {"QDQ"}
    _check_structure(deploy)
    expected = run_at(_bytes(fake), x, "DISABLE_ALL")
    (layer,), _, _ = read_quantized(deploy.clone().graph)
    error = np.abs(run_at(_bytes(deploy), x, "DISABLE_ALL").astype(np.float64) - expected)
    assert (error <= _bound(layer, x, expected.ndim)).all()
    again, twice, _, _, _ = convert_model(deploy, target="qdq")
    assert_same_bits(run_at(_bytes(again), x, "DISABLE_ALL"), expected, "fake-quant, read again")
    assert _stored(twice) == _stored(deploy)


def _check_structure(model: ir.Model) -> None:
    """Every float initializer is a scale; every layer's numbers come out of a DequantizeLinear."""
    pair = ("QuantizeLinear", "DequantizeLinear")
    scales = {node.inputs[1] for node in model.graph if node.op_type in pair}
    for value in model.graph.initializers.values():
        assert value.dtype != ir.DataType.FLOAT or value in scales
    stored = _stored(model)
    assert [array[0] for array in stored].count("int8") == 1
    assert [array[0] for array in stored].count("int32") <= 1
    assert len(stored) <= 2


def _stored(model: ir.Model) -> list[tuple[str, tuple[int, ...], bytes, bytes]]:
    """The dtypes, shapes, integers and scales of constants that the model dequantizes."""
    found = []
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None:
            integers, scale = (value.const_value.numpy() for value in node.inputs[:2])
            found.append((integers.dtype.name, integers.shape, integers.tobytes(), scale.tobytes()))
    return sorted(found)


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def _bound(layer: QuantizedLayer, x: Array, rank: int) -> Array:
    """gamma(K + 6) * A * scale_x * scale_w, with A of each channel at x's largest integer.

    A product has 3 roundings, a sum of K products and a bias K, fake-quant's own tail 3.
    """
    info, zero = np.iinfo(layer.zero_point_x.dtype), int(layer.zero_point_x)
    with np.errstate(over="ignore"):  # infinity is clipped like every large value
        integers = np.rint(x / layer.scale_x).astype(np.float64) + zero
    integers = np.clip(integers, info.min, info.max)
    magnitudes = np.abs(output_rows(layer.weight.astype(np.float64), layer.op, layer.groups))
    sums = magnitudes.sum(axis=1) * np.abs(integers - zero).max(initial=0.0)
    sums = sums + (0 if layer.bias is None else np.abs(layer.bias.astype(np.float64)))
    roundings = (magnitudes.shape[1] + 6) * _ROUNDING
    bound = roundings / (1 - roundings) * sums * layer.rescale
    return bound if layer.op == "MatMul" else bound.reshape(-1, *(1,) * (rank - 2))
