"""Choosing forms by timing them: each layer in a small model of its own, in every form it can take.

A form takes the place of the one that the table prefers only if it is faster beyond the noise: in
four of five rounds, which two equal forms of 15 rounds give each other in 2% of the cases.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common as passes

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
_SURELY = 0.8

_MOST = {"threads": 1024, "rounds": 10_000}
"""Upper bounds of a Tuning's numbers."""

_MOST_ELEMENTS = 1 << 28
"""The largest input or output of a layer whose forms are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How to time the forms of layers.

    Args:
        input_shapes: the sizes of inputs that the model leaves open, by name.
        threads: of ONNX Runtime.
        rounds: how often each form runs.
        timer: takes what to run, by the form's name, and the rounds; returns the seconds of each.
            None lets all forms take turns, and counts CPU time for one thread, time for more.
    Raises:
        TypeError: threads or rounds is no integer.
        ValueError: threads is not within 1 to 1,024, or rounds not within 1 to 10,000.
    """

    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    threads: int = 1
    rounds: int = 15
    timer: Timer | None = None

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("rounds", self.rounds)):
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if not 1 <= value <= _MOST[name]:
                raise ValueError(f"{name} must be 1 to {_MOST[name]}, got {value}")


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
    """Time the forms of layers for ONNX Runtime; layers of the same sizes are timed once.

    Args:
        model: whose layers they are; it is left as it is.
        layers: as read.
        chains: of the layers that have one.
        choices: the forms that the table prefers.
        tuning: how.
        vnni: as convert_qat_model's.
        sized: a model of standard operators with the same names, to infer sizes from; the model
            itself if left out.
    Returns:
        the forms to take, with their times; those of `choices` where there is only one form, or
        where the size of the layer's input is not known.
    Raises:
        ValueError: the model leaves the size of an input open, and tuning does not give it, or the
            input or output of a layer is too large to be run.
    """
    sized = sized or model
    for value in dynamic_inputs(sized):
        if value.name not in tuning.input_shapes:
            raise ValueError(
                f"to time forms, the sizes of input {value.name!r} must be known, got "
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
            timer = tuning.timer or partial(take_turns, clock=_clock(tuning.threads))
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


def take_turns(
    runs: Runs, rounds: int, *, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Run everything in turns, round by round.

    Args:
        runs: what to run, by name.
        rounds: how many count; two more come before.
        clock: the seconds since some moment.
    Returns:
        the seconds of every round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_WARM_UP + rounds):
        for name, run in runs.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return {name: values[_WARM_UP:] for name, values in times.items()}


def surely_fastest(times: Mapping[str, Sequence[float]], preferred: str) -> str:
    """Pick the fastest, but leave the preferred one only for what is faster beyond the noise.

    Args:
        times: seconds by name, round by round.
        preferred: the name of one of them.
    Returns:
        of those that are faster than the preferred one in four of five rounds the name with the
        smallest median; preferred if there is none.
    """
    rounds = {name: np.less(values, times[preferred]) for name, values in times.items()}
    faster = [name for name, won in rounds.items() if won.mean() >= _SURELY]
    return min(faster, key=lambda name: float(np.median(times[name])), default=preferred)


@dataclass(frozen=True, slots=True)
class _Bench:
    """One layer, from the codes of its input to those of its output, or to floats without a chain.

    Args:
        model: the layer's.
        layer: as read.
        chain: the layer's, if it has one.
        size: of the layer's input.
        threads: of ONNX Runtime.
        vnni: as convert_qat_model's.
    """

    model: ir.Model
    layer: QuantizedLayer
    chain: Chain | None
    size: tuple[int, ...]
    threads: int
    vnni: bool

    def run(self, name: str) -> Callable[[], object]:
        """Load the layer in a form, and return what runs it once on random codes."""
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
        """Copy what is between the layer's input and its end into a graph of its own."""
        ends = [self.layer.output]
        if self.chain is not None:
            ends = [node.outputs[0] for node in self.chain.quantizers]
        graph, copy = extract(self.model.graph, [self.layer.x_q], ends)
        (x,) = graph.inputs
        x.shape = ir.Shape(self.size)
        x.type = ir.TensorType(ir.DataType.from_numpy(self.layer.zero_point_x.dtype))
        for i, value in enumerate(list(graph.outputs) if self.chain is not None else ()):
            # Codes that are an output of the model are not a chain's.
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
    name = surely_fastest(times, choice.form.name)
    medians = sorted((float(np.median(values)), one) for one, values in times.items())
    seconds = tuple((one, median) for median, one in medians)
    if name == choice.form.name:
        reason = f"{choice.reason}; timed: none is surely faster"
        return replace(choice, reason=reason, seconds=seconds)
    (form,) = (form for form in ort_candidates(layer, chain) if form.name == name)
    # The table, which was wrong about this one, is not asked for its speed.
    return Choice(form, f"timed: surely faster than {choice.form.name}", seconds=seconds)


def _key(layer: QuantizedLayer, chain: Chain | None, size: tuple[int, ...]) -> Hashable:
    """What the time of a layer depends on."""
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
