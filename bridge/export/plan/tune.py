"""Choosing forms by timing them: each layer in a small model of its own, in every possible form.

A form replaces the one that the cost model prefers only if it is faster in at least four of five
rounds. With 15 rounds, a form of equal speed is so in 2% of the cases.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common as passes

from bridge.arguments import check_integer
from bridge.export.graph.builder import Builder
from bridge.export.graph.copies import Counterparts, extract
from bridge.export.graph.shapes import Sizes, dynamic_inputs, infer_sizes
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.plan.forms import Choice, ort_candidates
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain

Runs = Mapping[str, Callable[[], object]]
Timer = Callable[[Runs, int], Mapping[str, Sequence[float]]]

_WARM_UP = 2
_WIN_RATE = 0.8
"""Share of the rounds in which a form must be faster to be preferred."""

_MOST_THREADS, _MOST_ROUNDS = 1024, 10_000
"""Upper bounds of the fields of Tuning."""

_MOST_ELEMENTS = 1 << 28
"""Largest input or output of a layer whose forms are timed, in elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How to time the forms of layers.

    Args:
        input_shapes: shapes of the inputs with dynamic axes, by name.
        threads: intra-op threads of ONNX Runtime.
        rounds: runs of each form.
        timer: function of the forms' runs, by name, and the number of rounds, that returns the
            seconds of every run, by name. None interleaves the forms; it measures CPU time for one
            thread and wall time for more.
    Raises:
        TypeError: threads or rounds is not an integer.
        ValueError: threads is not in 1 to 1,024, or rounds not in 1 to 10,000.
    """

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    threads: int = 1
    rounds: int = 15
    timer: Timer | None = None

    def __post_init__(self) -> None:
        check_integer("threads", self.threads, range(1, _MOST_THREADS + 1))
        check_integer("rounds", self.rounds, range(1, _MOST_ROUNDS + 1))


def tune_choices(
    model: ir.Model,
    layers: Sequence[QuantizedLayer],
    chains: Mapping[str, Chain],
    choices: Mapping[str, Choice],
    *,
    tuning: Tuning,
    vnni: bool,
    sized: ir.Model | None = None,
) -> dict[str, Choice]:
    """Time the forms of layers in ONNX Runtime; layers of equal sizes are timed once.

    Args:
        model: contains the layers; not changed.
        layers: the quantized layers.
        chains: by layer name, for the layers that have one.
        choices: by layer name, the forms that the cost model prefers.
        tuning: how to time.
        vnni: whether weights may be int8, as in convert_qat_model.
        sized: a model of standard operators with the same value names, for shape inference; None
            if the model is one.
    Returns:
        by layer name, the chosen forms with their times; those of `choices` where there is only
        one form, or the size of the layer's input is not known.
    Raises:
        ValueError: an input has dynamic axes and tuning gives no shape for it, or the input or
            output of a layer is too large.
    """
    sized = sized or model
    for value in dynamic_inputs(sized):
        if value.name not in tuning.input_shapes:
            raise ValueError(
                f"to time forms, the shape of input {value.name!r} must be known, got "
                f"{value.shape}; give Tuning(input_shapes={{{value.name!r}: (...)}})"
            )
    sizes = infer_sizes(sized, tuning.input_shapes)
    measured: dict[Hashable, Mapping[str, Sequence[float]]] = {}
    tuned = dict(choices)
    for layer in layers:
        chain, size = chains.get(layer.name), sizes.get(layer.x_q.name or "")
        names = [form.name for form in ort_candidates(layer, chain)]
        if size is None or len(names) < 2 or layer.node.graph is not model.graph:
            continue
        _check_size(layer, sizes)
        key = _key(layer, chain, size), vnni and may_be_int8(layer)
        if key not in measured:
            bench = _Bench(model, layer, chain, size, tuning.threads, vnni)
            runs = {name: bench.run(name) for name in names}
            timer = tuning.timer or partial(time_interleaved, clock=_clock(tuning.threads))
            measured[key] = timer(runs, tuning.rounds)
        tuned[layer.name] = _choose(layer, chain, choices[layer.name], measured[key])
    return tuned


def _check_size(layer: QuantizedLayer, sizes: Sizes) -> None:
    for value in (layer.x_q, layer.node.outputs[0]):
        size = sizes.get(value.name or "", ())
        if math.prod(size) > _MOST_ELEMENTS:
            raise ValueError(
                f"layer {layer.name!r}: to time forms, {value.name!r} may have up to "
                f"{_MOST_ELEMENTS:,} elements, got the shape {size}; give smaller input_shapes"
            )


def time_interleaved(
    runs: Runs, rounds: int, *, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Time functions interleaved: each round runs every function once.

    Args:
        runs: the functions, by name.
        rounds: number of rounds that are timed, after two to warm up.
        clock: returns the time in seconds.
    Returns:
        the seconds of each timed round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_WARM_UP + rounds):
        for name, run in runs.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return {name: values[_WARM_UP:] for name, values in times.items()}


def fastest_beyond_noise(times: Mapping[str, Sequence[float]], preferred: str) -> str:
    """Return the fastest name, or the preferred one unless another is faster beyond the noise.

    Args:
        times: seconds of each round, by name.
        preferred: one of the names.
    Returns:
        among the names that are faster than the preferred one in at least four of five rounds,
        the one with the smallest median; the preferred one if there is none.
    """
    rounds = {name: np.less(values, times[preferred]) for name, values in times.items()}
    faster = [name for name, won in rounds.items() if won.mean() >= _WIN_RATE]
    return min(faster, key=lambda name: float(np.median(times[name])), default=preferred)


@dataclass(frozen=True, slots=True)
class _Bench:
    """A model of one layer, from its input's codes to its output: codes with a chain, else floats.

    Args:
        model: contains the layer.
        layer: the quantized layer.
        chain: the layer's, None if it has none.
        size: shape of the layer's input.
        threads: intra-op threads of ONNX Runtime.
        vnni: whether weights may be int8.
    """

    model: ir.Model
    layer: QuantizedLayer
    chain: Chain | None
    size: tuple[int, ...]
    threads: int
    vnni: bool

    def run(self, name: str) -> Callable[[], object]:
        """Load the layer in a form, and return a function that runs it once on random codes."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        proto = ir.to_proto(self._write(name))
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        dtype = self.layer.zero_point_x.dtype
        ends = np.iinfo(dtype)
        codes = np.random.default_rng(0).integers(ends.min, ends.max + 1, self.size, dtype=dtype)
        return partial(session.run, None, {session.get_inputs()[0].name: codes})

    def _write(self, name: str) -> ir.Model:
        graph, copy = self._extract()
        layer, chain = self.layer.on(copy), self.chain and self.chain.on(copy)
        (form,) = (form for form in ort_candidates(layer, chain) if form.name == name)
        form.write(Builder(layer, vnni=self.vnni), layer)
        model = ir.Model(graph, ir_version=self.model.ir_version or 8)
        passes.RemoveUnusedNodesPass()(model)
        return model

    def _extract(self) -> tuple[ir.Graph, Counterparts]:
        """Copy the nodes between the layer's input and its output or quantizers into a graph."""
        ends = [self.layer.output]
        if self.chain is not None:
            ends = [node.outputs[0] for node in self.chain.quantizers]
        graph, copy = extract(self.model.graph, [self.layer.x_q], ends)
        (x,) = graph.inputs
        x.shape = ir.Shape(self.size)
        x.type = ir.TensorType(ir.DataType.from_numpy(self.layer.zero_point_x.dtype))
        for i, value in enumerate(list(graph.outputs) if self.chain is not None else ()):
            # A chain's codes must not be graph outputs, so Identity nodes come in between.
            graph.append(node := ir.node("Identity", [value], name=f"codes_{i}"))
            node.outputs[0].name = f"codes_{i}"
            node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
            graph.outputs[i] = node.outputs[0]
        return graph, copy


def _choose(
    layer: QuantizedLayer,
    chain: Chain | None,
    choice: Choice,
    times: Mapping[str, Sequence[float]],
) -> Choice:
    name = fastest_beyond_noise(times, choice.form.name)
    medians = sorted((float(np.median(values)), one) for one, values in times.items())
    seconds = tuple((one, median) for median, one in medians)
    if name == choice.form.name:
        reason = f"{choice.reason}; timed: none is faster beyond noise"
        return replace(choice, reason=reason, seconds=seconds)
    (form,) = (form for form in ort_candidates(layer, chain) if form.name == name)
    # The cost model was wrong about this layer, so its estimate of the speed is left out.
    return Choice(form, f"timed: faster than {choice.form.name} beyond noise", seconds=seconds)


def _key(layer: QuantizedLayer, chain: Chain | None, size: tuple[int, ...]) -> Hashable:
    """Return everything that the time of a layer depends on."""
    parts: list[Hashable] = [layer.op, layer.weight.shape, layer.scale_w.shape, size]
    parts += [repr(sorted(layer.attributes.items())), layer.zero_point_x.dtype]
    parts += [layer.bias is None, layer.norm is None, layer.proven]
    if chain is not None:
        steps = chain.fitted.steps
        parts += [math.isinf(steps.low), math.isinf(steps.high), len(chain.quantizers)]
        parts += [(node.op_type, repr(node.attributes)) for node in chain.passthrough]
    return tuple(parts)


def _clock(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter
