"""The training methods that benchmarks/training.py compares, and the networks that they train."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridge import Conv2dQAT, LinearQAT, calibrate, prepare_qat
from bridge.modules.weighted import QATLayer
from examples.networks import lenet, resnet18


class Workload(NamedTuple):
    """A quantized network, its input shape, and whether the input requires a gradient."""

    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    inner: bool = False


def linear_stack() -> nn.Module:
    """Four pairs of linear layers, as in a transformer's feed-forward blocks."""
    blocks = [[LinearQAT(512, 2048), nn.ReLU(), LinearQAT(2048, 512)] for _ in range(4)]
    return nn.Sequential(*(layer for block in blocks for layer in block))


WORKLOADS = {
    "resnet": Workload("ResNet-18, 8x3x112x112", lambda: prepare_qat(resnet18()), (8, 3, 112, 112)),
    "lenet": Workload("LeNet, 64x1x28x28", lambda: prepare_qat(lenet()), (64, 1, 28, 28)),
    "linear": Workload("4 x Linear 512-2048-512, 64x32x512", linear_stack, (64, 32, 512)),
    "conv": Workload(
        "Conv2d 64-64 3x3, 8x64x56x56",
        lambda: Conv2dQAT(64, 64, 3, padding=1),
        (8, 64, 56, 56),
        True,
    ),
}


class LearnableFakeQuant(nn.Module):
    """A float layer after torch's own learnable fake quantization of its input and weight."""

    def __init__(self, layer: QATLayer) -> None:
        super().__init__()
        self.layer, self.axis = layer.to_float(), 0
        scale, zero_point = layer.acts_scale, layer.acts_offset_deploy
        self.scale = nn.Parameter(scale.detach().clone())
        self.zero_point = nn.Parameter(zero_point.detach().to(torch.float32))
        self.weight_scale = nn.Parameter(layer.wts_scales.detach().clone())
        self.weight_zero = nn.Parameter(torch.zeros_like(self.weight_scale))

    def forward(self, x: Tensor) -> Tensor:
        x = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.scale, self.zero_point, -128, 127, 1.0
        )
        weight = self._quantized_weight()
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)

    def _quantized_weight(self) -> Tensor:
        scale, zero, weight = self.weight_scale, self.weight_zero, self.layer.weight
        if scale.numel() == 1:
            return torch._fake_quantize_learnable_per_tensor_affine(
                weight, scale, zero, -128, 127, 1.0
            )
        return torch._fake_quantize_learnable_per_channel_affine(
            weight, scale, zero, 0, -128, 127, 1.0
        )


def brevitas_layer(layer: QATLayer) -> nn.Module:
    """Return Brevitas's layer with INT8 weights and inputs, with a layer's parameters."""
    import brevitas.nn as qnn
    from brevitas.quant import (
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        Int8WeightPerTensorFloat,
    )

    per_channel = layer.config.weight.per_channel
    kind = qnn.QuantLinear if isinstance(layer, nn.Linear) else qnn.QuantConv2d
    arguments = {n: getattr(layer, n) for n in layer.arguments if n != "padding_mode"}
    quantized = kind(
        bias=layer.bias is not None,
        weight_quant=Int8WeightPerChannelFloat if per_channel else Int8WeightPerTensorFloat,
        input_quant=Int8ActPerTensorFloat,
        **arguments,
    )
    quantized.weight, quantized.bias = layer.weight, layer.bias
    return quantized


class Contestant(NamedTuple):
    """A training method: the module that replaces each quantized layer."""

    title: str
    convert: Callable[[QATLayer], nn.Module] | None = None


CONTESTANTS = [
    Contestant("float32", lambda layer: layer.to_float()),
    Contestant("ours"),
    Contestant("torch learnable fake quant", LearnableFakeQuant),
]
OURS = 1
if find_spec("brevitas"):
    CONTESTANTS.append(Contestant("Brevitas", brevitas_layer))


class Trainer:
    """One method's network, optimizer and training step on one workload."""

    def __init__(self, contestant: Contestant, workload: Workload, *, fresh: bool = False) -> None:
        torch.manual_seed(0)
        model = workload.make()
        self.x = torch.randn(workload.shape)
        if not fresh:
            calibrate(model, [self.x])
        self.x.requires_grad_(workload.inner)
        self.model = converted(model, contestant.convert).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)

    def step(self) -> float:
        """Take one training step; return its CPU seconds."""
        started = time.process_time()
        self.optimizer.zero_grad()
        self.x.grad = None
        self.model(self.x).square().mean().backward()
        self.optimizer.step()
        return time.process_time() - started

    def bytes_kept(self) -> int:
        """Return the bytes that a forward saves for backward."""
        kept: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            storage = t.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = self.model(self.x)
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        size = sum(size for address, size in kept.items() if address not in parameters)
        del y  # kept until here: its graph holds the storages, so that no address is reused
        return size


def converted(model: nn.Module, convert: Callable[[QATLayer], nn.Module] | None) -> nn.Module:
    """Replace every quantized layer of a model."""
    if convert is None:
        return model
    model.eval()  # recomputes scales and zero points
    if isinstance(model, QATLayer):
        return convert(model)
    for name, child in model.named_children():
        setattr(model, name, converted(child, convert))
    return model


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the least, the median and the largest value."""
    ordered: list[Any] = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
