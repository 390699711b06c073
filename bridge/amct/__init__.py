"""Running scripts written for AMCT: its import names resolve to this library."""

from bridge.amct.aliases import install, uninstall
from bridge.amct.scripts import run

__all__ = ["install", "run", "uninstall"]
