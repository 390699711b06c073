"""Whole networks in mode "fast": fake-quant equals deploy, and torch is not far."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from bridge import Conversion, Verification, convert_qat_model, fold_batch_norm, verify
from examples.networks import UNet, mobilenet_v2, resnet18
from tests.support.bits import assert_same_bits
from tests.support.exporters import export_network
from tests.support.networks import randomized
from tests.support.runtime import LEVELS, run_at

NETWORKS = {
    "resnet18": (lambda: resnet18(width=16), (1, 3, 32, 32)),
    "mobilenet_v2": (lambda: mobilenet_v2(width=0.25), (1, 3, 32, 32)),
    "unet": (UNet, (1, 3, 32, 32)),
}
FORMS = {
    "resnet18": {"QLinearAdd": 8, "MatMulInteger": 1},
    "mobilenet_v2": {"QLinearAdd": 11, "MatMulInteger": 1},
    "unet": {"QLinearAdd": 0, "QLinearLeakyRelu": 5},
}


class Converted(NamedTuple):
    name: str
    conversion: Conversion
    verification: Verification
    x: Tensor


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    make, shape = NETWORKS[request.param]
    model, x = randomized(make, *shape)
    model = fold_batch_norm(model)
    inter = export_network(model, x, folder / "inter_model.onnx", dynamo=False)
    done = convert_qat_model(inter, folder / "network", mode="fast", data=[x])
    other = torch.randn(x.shape)
    proof = verify(model, inter, done.fake_quant, done.deploy, other)
    return Converted(request.param, done, proof, other)


def test_fake_quant_equals_deploy_at_every_level(network):
    for level in LEVELS:
        outputs = [
            run_at(path, network.x.numpy(), level)
            for path in (network.conversion.fake_quant, network.conversion.deploy)
        ]
        assert np.ptp(outputs[0]) > 0, "a constant output proves nothing"
        assert_same_bits(*outputs, level)


def test_verify_compares_the_files_fully_and_shows_how_far_torch_is(network):
    proof = network.verification
    assert proof.first_fake_deploy is None
    for output in proof.outputs:
        assert output.fake_deploy.count == 0
        assert output.torch_fake.count > 0
    assert proof.first_torch_fake is not None
    compared = [layer.codes_fake_deploy for layer in proof.layers if layer.codes_fake_deploy]
    assert len(compared) > len(proof.layers) / 2
    assert all(codes.count == 0 for codes in compared)


def test_sums_and_what_they_read_stay_in_integers(network):
    forms = [layer.form for layer in network.conversion.layers]
    for form, count in FORMS[network.name].items():
        assert forms.count(form) == count
    sums = [layer for layer in network.conversion.layers if layer.op in ("Add", "LeakyRelu")]
    assert all(layer.rounding is not None for layer in sums)
