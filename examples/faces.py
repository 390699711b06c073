"""The three networks of MTCNN (Zhang et al. 2016), with weights trained on faces.

The weights are files of the package facenet-pytorch, which is not imported: it requires an older
torch than this library.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PACKAGE = "facenet_pytorch"


class Proposals(nn.Module):
    """P-Net: face probability and bounding box for each window of 12 x 12 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x), self.conv4_2(x)


class Refinement(nn.Module):
    """R-Net: face probability and bounding box for one window of 24 x 24 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu4(self.dense4(x))
        return self.dense5_1(x), self.dense5_2(x)


class Output(nn.Module):
    """O-Net: face probability, bounding box and five landmarks for one window of 48 x 48 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu5(self.dense5(x))
        return self.dense6_1(x), self.dense6_2(x), self.dense6_3(x)


def is_available() -> bool:
    """Return whether the package with the weights is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


def pretrained(make: type[nn.Module]) -> nn.Module:
    """Build one of the networks with its trained weights.

    Args:
        make: Proposals, Refinement or Output.
    Returns:
        the network, in eval mode.
    Raises:
        FileNotFoundError: the package with the weights is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the weights need: pip install --no-deps facenet-pytorch")
    name = {Proposals: "pnet", Refinement: "rnet", Output: "onet"}[make]
    net = make()
    net.load_state_dict(torch.load(Path(spec.origin).parent / "data" / f"{name}.pt"))
    return net.eval()


def windows(count: int, size: int, *, seed: int = 0) -> Tensor:
    """Crop windows from scikit-learn's two photographs, normalized as MTCNN's inputs.

    Args:
        count: number of windows.
        size: height and width of a window, pixels.
        seed: of the random positions.
    Returns:
        float32 (count, 3, size, size), within -1 to 1.
    """
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(image.copy()) for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(seed)
    cut = []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(torch.randint(size, 300, (), generator=generator))
        top, left = (
            int(torch.randint(extent - side, (), generator=generator)) for extent in photo.shape[:2]
        )
        window = photo[top : top + side, left : left + side].permute(2, 0, 1)[None].float()
        cut.append((F.interpolate(window, size, mode="area") - 127.5) / 128)
    return torch.cat(cut)
