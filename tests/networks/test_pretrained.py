"""Networks with trained weights, on windows of photographs."""

import numpy as np
import pytest
import torch

from bridge import calibrate, convert_qat_model, prepare_qat, verify
from examples import faces
from tests.support.exporters import export_network

pytestmark = pytest.mark.skipif(
    not faces.is_available(), reason="facenet-pytorch, which has the weights, is not installed"
)


@pytest.mark.parametrize(
    ("make", "size", "layers"),
    [(faces.Proposals, 48, 5), (faces.Refinement, 24, 6), (faces.Output, 48, 8)],
)
def test_every_output_is_equal_on_all_paths(make, size, layers, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn has the photographs")
    model = faces.pretrained(make)
    net = prepare_qat(model)
    calibrate(net, faces.windows(32, size).split(16))
    x = faces.windows(16, size, seed=1)
    inter = export_network(net, x, tmp_path / "inter_model.onnx", dynamo=False)
    done = convert_qat_model(inter, tmp_path / "net")
    assert len(done.layers) == layers
    assert not done.left_in_float
    proof = verify(net, inter, done.fake_quant, done.deploy, x)
    assert proof.exact
    assert proof.first_fake_deploy is None
    with torch.no_grad():
        for y, exact in zip(net(x), model(x), strict=True):
            assert (y - exact).norm() < 0.1 * exact.norm(), (
                "and they say what the float network says"
            )
            assert np.ptp(y.numpy()) > 0
