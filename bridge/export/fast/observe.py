"""Observers: the ranges of inner tensors of a model, from data that runs through it."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from bridge.export.fast.nan_check import append_nan_counts, check_no_nan
from bridge.export.files.writing import write_models
from bridge.export.graph.constants import Array
from bridge.export.passes.output_padding import fit_output_padding
from bridge.export.running.runtime import Feeds
from qatfunc import calibration
from qatfunc.params import Clip
from qatfunc.spec import SearchSpec

_SEARCH = SearchSpec(method="ifmr", symmetric=False)


def observe(
    model: ir.Model,
    values: Sequence[Sequence[str]],
    data: Iterable[Any],
    *,
    quantized: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
) -> list[Clip]:
    """Calibrate the ranges of values over data, with the clip search of qatfunc.

    Args:
        model: as normalize.read_model returns it; not changed.
        values: groups of value names; each group gets one common range.
        data: batches: an array or tensor, a tuple or list of them for several inputs, or a dict by
            the names of the inputs.
        quantized: by name, values that must not have NaN, with the layers that quantize them.
        titles: how messages call values, by name.
    Returns:
        the clip range of each group.
    Raises:
        TypeError: a tensor has a dtype that NumPy does not have.
        ValueError: there is no batch, a batch does not fit the inputs, a layer's input has NaN, or
            a value is empty or not finite.
    """
    quantized, titles = quantized or {}, titles or {}
    names = list(dict.fromkeys(name for group in values for name in group))
    states = [calibration.init() for _ in values]
    batches = 0
    for batches, found in enumerate(_run(model, names, data, quantized), start=1):
        # Report a layer whose output overflows before the layers that get NaN from it.
        _check_finite(found, titles, batches)
        check_no_nan(found, quantized, batches)
        _check_finite(found, {name: f"value {name!r}" for name in names}, batches)
        for i, group in enumerate(values):
            for name in group:
                states[i] = calibration.update(states[i], torch.from_numpy(found[name]))
    if not batches:
        raise ValueError("data has no batch")
    return [calibration.finish(state, how=_SEARCH) for state in states]


def _check_finite(found: Feeds, titles: Mapping[str, str], batch: int) -> None:
    for name, title in titles.items():
        values = found.get(name)
        if values is not None and not values.size:
            raise ValueError(f"{title} is empty on batch {batch} of data, its shape {values.shape}")
        if values is not None and not np.isfinite(values).all():
            raise ValueError(
                f"{title} is not finite on batch {batch} of data: {np.isnan(values).sum()} NaN and "
                f"{np.isinf(values).sum()} infinite values of {values.size}"
            )


def _run(
    model: ir.Model, names: Sequence[str], data: Iterable[Any], quantized: Iterable[str]
) -> Iterator[Feeds]:
    """Yield the named values of each batch, and the NaN counts of quantized inputs."""
    watched = model.clone()
    fit_output_padding(watched.graph)
    names = [*names, *append_nan_counts(watched.graph, quantized)]
    known = {value.name: value for node in watched.graph for value in node.outputs}
    own = {value.name for value in watched.graph.outputs}
    watched.graph.outputs.extend(known[name] for name in names if name not in own)
    inputs = [
        v.name or "" for v in watched.graph.inputs if v.name not in watched.graph.initializers
    ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without fusion the values are those of the float operators and Q/DQ pairs of the file.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        write_models({path: watched})
        session = onnxruntime.InferenceSession(str(path), options)
        for batch in data:
            feeds = _feeds(batch, inputs)
            try:
                # An empty list would compute nothing; None computes all outputs, checking data.
                results = session.run(list(names) or None, feeds)
            except (InvalidArgument, Fail, RuntimeException) as error:
                raise ValueError(f"a batch of data does not fit the model: {error}") from error
            yield dict(zip(names, results, strict=False))


def _feeds(batch: Any, inputs: Sequence[str]) -> Feeds:
    if isinstance(batch, Mapping):
        if set(batch) != set(inputs):
            raise ValueError(f"a batch of data must be for inputs {list(inputs)}, got {[*batch]}")
        return {name: _array(value) for name, value in batch.items()}
    arrays = batch if isinstance(batch, tuple | list) else (batch,)
    if len(arrays) != len(inputs):
        raise ValueError(
            f"a batch of data must have {len(inputs)} arrays for inputs {list(inputs)}, got "
            f"{len(arrays)}"
        )
    return dict(zip(inputs, map(_array, arrays), strict=True))


def _array(value: Any) -> Array:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    try:
        return value.detach().cpu().numpy()
    except TypeError as error:
        raise TypeError(
            f"an array of data must have a dtype of NumPy, got {value.dtype}"
        ) from error
