"""The command line, `qatfunc`."""

from bridge.cli.main import main

__all__ = ["main"]
