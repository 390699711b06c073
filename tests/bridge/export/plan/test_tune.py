"""tune: which forms are timed, how often, and which is taken."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bridge import Tuning, calibrate, convert_qat_model, explain, prepare_qat, verify
from bridge.export.plan import costs
from bridge.export.plan.tune import fastest_beyond_noise, time_interleaved
from bridge.export.running.runtime import run_model
from examples.networks import lenet
from tests.support.bits import same_bits
from tests.support.conversions import convert_integers_first
from tests.support.exporters import export
from tests.support.graphs.chains import BETWEEN, chained, forms, picture
from tests.support.graphs.text import BIAS, GEMM, MATMUL, model, save

INT, QLINEAR, FLOAT = costs.INTEGER, costs.QLINEAR, costs.FLOAT
SHAPES = {"x": (2, 3, 6, 7)}


class Stopwatch:
    """Runs every form once, and says that a form takes what it is told; else all take the same."""

    def __init__(self, **seconds):
        self.seconds = seconds
        self.timed = []
        self.outputs = []

    def __call__(self, runs, rounds):
        self.timed.append(list(runs))
        self.outputs.append({name: run() for name, run in runs.items()})
        return {name: [self.seconds.get(name, 1.0)] * rounds for name in runs}


def tuned(proto, folder, watch, *, shapes=SHAPES, **options):
    tuning = Tuning(input_shapes=shapes, rounds=3, timer=watch)
    return convert_integers_first(save(proto, folder), folder / "net", tune=tuning, **options)


@pytest.mark.parametrize("form", [INT, QLINEAR, FLOAT])
@pytest.mark.parametrize("name", ["relu", "pool", "transpose"])
def test_the_fastest_form_is_taken_and_exact(tmp_path, name, form):
    watch = Stopwatch(**{form: 0.5})
    done = tuned(chained(BETWEEN[name][0]), tmp_path, watch)
    assert watch.timed == [[QLINEAR, INT, FLOAT], [INT, FLOAT]]
    assert forms(done) == {"first": form, "second": INT if form == QLINEAR else form}
    x = picture()
    fake, deploy = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy)


@pytest.mark.parametrize("form", [INT, FLOAT])
def test_a_folded_batch_norm_is_timed_with_its_layer(tmp_path, form):
    statistics = {
        name: np.linspace(0.5, 1.5, 4, dtype=np.float32) for name in ("ga", "be", "me", "va")
    }
    body = "n = BatchNormalization (f, ga, be, me, va) c = Abs (n)"
    watch = Stopwatch(**{form: 0.5})
    done = tuned(chained(body, **statistics), tmp_path, watch, fold_batch_norm=True)
    assert watch.timed == [[INT, FLOAT]] * 2
    assert forms(done) == {"first": f"{form}, BatchNorm folded", "second": form}
    x = picture()
    fake, deploy = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy)


def test_all_forms_of_a_layer_are_timed_on_the_same_codes(tmp_path):
    watch = Stopwatch()
    tuned(chained("c = Relu (f)"), tmp_path, watch, shapes={"x": (2, 3, 5, 5)})
    # The last layer, whose output is float: 4 x 4 pixels of it, in every form.
    first, *others = (outputs[0] for outputs in watch.outputs[-1].values())
    assert first.shape == (2, 2, 4, 4)
    assert np.ptp(first) > 0
    assert all(same_bits(first, other) for other in others)


def test_the_codes_of_a_chain_are_the_same_in_every_form(tmp_path):
    watch = Stopwatch()
    tuned(chained("c = Relu (f)"), tmp_path, watch)
    first, *others = (outputs[0] for outputs in watch.outputs[0].values())
    assert list(watch.outputs[0]) == [QLINEAR, INT, FLOAT]
    assert first.dtype == np.uint8
    assert np.ptp(first) > 0
    assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("bias", [None, BIAS])
def test_a_matrix(tmp_path, bias):
    proto = model(MATMUL if bias is None else GEMM, b=bias)
    watch = Stopwatch(**{FLOAT: 0.5})
    done = tuned(proto, tmp_path, watch, shapes={"x": (4, 3)})
    assert watch.timed == [["MatMulInteger", FLOAT]]
    assert forms(done) == {"fc": FLOAT}
    x = np.random.default_rng(0).normal(0.0, 4.0, (4, 3)).astype(np.float32)
    fake, deploy = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy)


def test_16_bits(tmp_path):
    proto = model(MATMUL, opset=21, zx=np.int16(5))
    done = tuned(proto, tmp_path, Stopwatch(**{FLOAT: 0.5}), shapes={"x": (4, 3)})
    assert forms(done) == {"fc": FLOAT}


def test_what_is_said(tmp_path):
    watch = Stopwatch(**{FLOAT: 0.5, INT: 0.75})
    done = tuned(chained("c = Relu (f)"), tmp_path, watch)
    first, second = explain(done).layers
    assert first.seconds == ((FLOAT, 0.5), (INT, 0.75), (QLINEAR, 1.0))
    assert (first.reason, first.speed) == (f"timed: faster than {QLINEAR} beyond noise", None)
    assert second.reason == f"timed: faster than {INT} beyond noise"
    done = tuned(chained("c = Relu (f)"), tmp_path, Stopwatch())
    first, second = explain(done).layers
    assert first.reason == "proven equal, and fastest; timed: none is faster beyond noise"
    assert [name for name, _ in second.seconds] == [INT, FLOAT]


def test_layers_of_the_same_sizes_are_timed_once(tmp_path):
    """Two are alike; one dilates, and the last has other channels."""
    body = "[again] g = Conv (xd, wd, b) [other] h = Conv <dilations = [2, 2]> (xd, wd, b) "
    out = "float[N, 2, H2, L2] y, float[N, 4, H1, L1] g, float[N, 4, H1, L1] h"
    watch = Stopwatch(**{FLOAT: 0.5})
    done = tuned(chained(body + "c = Abs (f)", outputs=out), tmp_path, watch)
    assert forms(done) == dict.fromkeys(("first", "again", "other", "second"), FLOAT)
    assert watch.timed == [[INT, FLOAT]] * 3


def test_an_open_size_is_asked_for(tmp_path):
    source = save(model(MATMUL), tmp_path)
    message = r"^to time forms, the shape of input 'x' must be known, got .*input_shapes=\{'x': "
    with pytest.raises(ValueError, match=message):
        convert_qat_model(source, tmp_path / "net", tune=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inter.onnx"]


def test_a_layer_of_unknown_size_keeps_its_form(tmp_path):
    """The number of rows depends on the values of the input."""
    body = MATMUL.replace("(x,", "(r,")
    body = "n = NonZero (x) t = Transpose (n) r = Cast <to = 1> (t)" + body
    proto = model(body, inputs="float[2, 3, 4] x", outputs="float[M, 2] y")
    watch = Stopwatch(**{FLOAT: 0.5})
    done = tuned(proto, tmp_path, watch, shapes={})
    assert (watch.timed, forms(done)) == ([], {"fc": "MatMulInteger"})


@pytest.mark.parametrize("target", ["qdq", "ascend"])
def test_a_target_of_one_form_is_refused(tmp_path, target):
    source = save(model(MATMUL, sw=np.float32(0.01), zw=np.int8(0)), tmp_path)
    with pytest.raises(ValueError, match=f"^tune is for target 'ort', got target '{target}'$"):
        convert_qat_model(source, tmp_path / "net", target=target, tune=True)


@pytest.mark.parametrize(("name", "most"), [("threads", 1024), ("rounds", 10_000)])
def test_numbers_out_of_range(name, most):
    for value in (0, -3, most + 1, 1 << 70):
        with pytest.raises(ValueError, match=f"^{name} must be 1 to {most}, got {value}$"):
            Tuning(**{name: value})
    assert Tuning(**{name: most})


def test_inputs_too_large_to_be_run(tmp_path):
    source = save(model(MATMUL, sw=np.float32(0.01), zw=np.int8(0)), tmp_path)
    message = r"^layer 'fc': to time forms, 'xq' may have up to 268,435,456 elements, got the shape"
    with pytest.raises(ValueError, match=message):
        convert_qat_model(source, tmp_path / "net", tune=Tuning(input_shapes={"x": (1 << 40, 3)}))


@pytest.mark.parametrize("name", ["threads", "rounds"])
@pytest.mark.parametrize("value", ["2", 1.5, True, None])
def test_numbers_of_a_wrong_kind(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be an integer, got {value!r}$"):
        Tuning(**{name: value})


def test_turns():
    """Every second of this clock belongs to the run before it."""
    now, order = [0.0], []

    def run(name, seconds):
        order.append(name)
        now[0] += seconds

    runs = {"a": lambda: run("a", 3.0), "b": lambda: run("b", 5.0)}
    times = time_interleaved(runs, 4, clock=lambda: now[0])
    assert times == {"a": [3.0] * 4, "b": [5.0] * 4}
    assert order == ["a", "b"] * 6, "two rounds to warm up"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"table": [2.0] * 5, "a": [1.0] * 5}, "a"),
        ({"table": [2.0] * 5, "a": [1.0] * 5, "b": [0.5] * 5}, "b"),
        ({"table": [2.0] * 5, "a": [2.0] * 5}, "table"),
        ({"table": [2.0] * 5, "a": [1.0] * 4 + [9.0]}, "a"),
        ({"table": [2.0] * 5, "a": [1.0] * 3 + [9.0] * 2}, "table"),
        ({"table": [2.0, 4.0, 2.0, 4.0, 2.0], "a": [1.0, 3.0, 1.0, 3.0, 1.0]}, "a"),
        ({"table": [1.0] * 5, "a": [2.0] * 5}, "table"),
    ],
)
def test_only_what_is_faster_beyond_the_noise_is_taken(times, expected):
    assert fastest_beyond_noise(times, "table") == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_timed_on_this_machine_is_exact(tmp_path, threads):
    torch.manual_seed(0)
    net, x = prepare_qat(lenet(plain=True)), torch.randn(4, 1, 28, 28)
    calibrate(net, [x])
    inter = export(net.eval(), (x,), tmp_path / "inter.onnx", "torchscript")
    prefix = Path(tmp_path) / "net"
    done = convert_integers_first(inter, prefix, tune=Tuning(threads=threads, rounds=3))
    for layer in done.layers:
        assert layer.form in dict(layer.seconds)
        assert all(seconds > 0 for _, seconds in layer.seconds)
    proof = verify(net, inter, done.fake_quant, done.deploy, x)
    assert proof.first_fake_deploy is None
