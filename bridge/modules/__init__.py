"""QAT operators as torch modules."""

from bridge.modules.conv import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT
from bridge.modules.linear import LinearQAT

__all__ = ["Conv2dQAT", "Conv3dQAT", "ConvTranspose2dQAT", "LinearQAT"]
