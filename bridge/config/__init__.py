"""Reading QAT configurations: dicts with AMCT's keys, and files with a configuration a pattern.

Index, each importing only what is above it:
    rules   which configuration applies to which layer: patterns, classes, files
    reader  one configuration dict, with AMCT's keys
"""

from bridge.config.reader import QATConfig, read_config

__all__ = [
    "QATConfig",
    "read_config",
]
