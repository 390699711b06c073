"""The argument parser of the command `qatfunc`."""

import argparse
from collections.abc import Sequence

from qatfunc.version import __version__

_DESCRIPTION = """\
Quantization-aware training for PyTorch whose integer ONNX model computes exactly what training
computed."""

_EPILOG = """\
The library is used from Python:
  import bridge     quantized layers, calibration, conversion, verification
  import qatfunc    the mathematics as pure functions over tensors

Scripts written for AMCT run as they are:
  python -m bridge.amct script.py args..."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the command line without the program's name, sys.argv[1:] by default.
    Returns:
        the exit status.
    Raises:
        SystemExit: with 0 after --help and --version, with 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(
        prog="qatfunc",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qatfunc {__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0
