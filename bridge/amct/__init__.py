"""The names of AMCT for scripts that were written for it, resolved to this library."""

from bridge.amct.aliases import install, uninstall
from bridge.amct.scripts import run

__all__ = ["install", "run", "uninstall"]
