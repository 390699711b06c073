"""No training, however wild, takes a layer's trained scales and ranges out of what is exported."""

import inspect
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import event, example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from bridge import ConversionError, adopt, calibrate, convert_qat_model, verify
from bridge.modules.weighted import QATLayer
from property_tests.strategies.examples import share_of_examples
from qatfunc.limits import LARGEST_END, LARGEST_SCALE, SMALLEST_SCALE
from tests.support.exporters import export
from tests.support.modules.layers import KINDS

_SPARSE = {"SparseAdam"}  # takes sparse gradients only
OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
    if kind is not torch.optim.Optimizer and name not in _SPARSE
}
"""Every optimizer of torch; Muon takes matrices only."""


class Training(NamedTuple):
    layer: str
    optimizer: str
    rate: float
    momentum: bool
    weight: dict[str, Any]
    data: dict[str, Any]
    steps: int
    seed: int


@st.composite
def trainings(draw: st.DrawFn, *, widest: int = 30) -> Training:
    layer = draw(st.sampled_from(sorted(KINDS)))
    weight = {"weights_retrain_algo": "ulq_retrain", "s_rec_flag": draw(st.booleans())}
    if layer != "linear":
        weight["channel_wise"] = draw(st.booleans())
    data = {"fixed_min": draw(st.booleans()), "asymmetric": draw(st.booleans())}
    return Training(
        layer,
        draw(st.sampled_from(sorted(OPTIMIZERS))),
        10.0 ** draw(st.integers(-4, widest)),
        draw(st.booleans()),
        weight,
        data | {"dst_type": draw(st.sampled_from(["INT8", "INT8", "INT16"]))},
        draw(st.integers(1, 8)),
        draw(st.integers(0, 999)),
    )


def optimizers(net: nn.Module, how: Training) -> list[torch.optim.Optimizer]:
    kind, options = OPTIMIZERS[how.optimizer], {"lr": how.rate}
    if how.momentum and "momentum" in inspect.signature(kind).parameters:
        options["momentum"] = 0.9
    every = [p for p in net.parameters() if p.requires_grad]
    if how.optimizer != "Muon":
        return [kind(every, **options)]
    matrices = [p for p in every if p.ndim == 2]
    others = [p for p in every if p.ndim != 2]
    found = [torch.optim.SGD(others, lr=how.rate)]
    return [*found, kind(matrices, **options)] if matrices else found


def trained(how: Training) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(how.seed)
    kind = KINDS[how.layer]
    net, x = nn.Sequential(kind.layer(how.data, how.weight)), kind.batch()
    calibrate(net, [x])
    net.train()
    steps = optimizers(net, how)

    def closure() -> Tensor:
        net.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    for _ in range(how.steps):
        for optimizer in steps:
            optimizer.step(closure)
    return net.eval(), x


def exported(net: nn.Module) -> tuple[list[float], float]:
    layer = net[0]
    assert isinstance(layer, QATLayer)
    constants = layer._export_constants()
    assert constants.scale_w is not None
    assert constants.scale_x is not None
    return constants.scale_w, constants.scale_x


DIVERGED = Training(
    layer="linear",
    optimizer="ASGD",
    rate=1e5,
    momentum=False,
    weight={"weights_retrain_algo": "ulq_retrain", "s_rec_flag": False},
    data={"dst_type": "INT16"},
    steps=8,
    seed=3,
)
"""A training that leaves finite weights and ranges of NaN."""


@example(DIVERGED)
@given(trainings())
def test_no_optimizer_ends_a_scale(how: Training) -> None:
    """Scales stay positive, finite and of a size that sums bear; so does the range."""
    net, x = trained(how)
    finite = bool(net[0].weight.isfinite().all())
    event(f"weights {'finite' if finite else 'not finite'}")
    high, low = net[0].acts_clip_max_pre.item(), net[0].acts_clip_min_pre.item()
    assert LARGEST_END >= high >= 0 >= low >= -LARGEST_END
    assert bool(net[0].wts_scales_pre.isfinite().all())
    net(x)  # what has diverged is NaN, and no crash
    if not finite:
        return
    if any(p.isnan() for n, p in net.named_parameters() if "clip" in n):
        with pytest.raises(ValueError, match=r"^cannot export: acts_clip_m\w\w is nan"):
            exported(net)
        return
    scale_w, scale_x = exported(net)
    assert all(SMALLEST_SCALE <= scale <= LARGEST_SCALE * (1 + 1e-6) for scale in scale_w)
    assert SMALLEST_SCALE <= scale_x <= 2 * LARGEST_END


@share_of_examples(1 / 10)
@given(trainings(widest=2) | trainings())
def test_what_was_trained_is_exported_exactly(how: Training) -> None:
    """torch, fake-quant and deploy have the same bits after a training in which scales ended."""
    net, x = trained(how)
    if not all(p.isfinite().all() for _, p in net.named_parameters()):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = export(net, (x,), folder / "inter.onnx", "torchscript")
        try:
            done = convert_qat_model(source, folder / "net")
        except ConversionError as error:
            if "must fit int32" not in str(error):
                raise
            event("a bias beyond int32")  # the only way to leave what can be deployed
            return
        adopt(net, done)
        report = verify(net, source, done.fake_quant, done.deploy, x)
    assert report.exact, str(report)
