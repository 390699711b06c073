"""Results that print as tables and convert to JSON data.

Index, each importing only what is above it:
    layout   layout of tables for the terminal
    plain    dataclasses as dicts, lists, strings and numbers
    printed  base classes of results
"""

from bridge.report.layout import Listing
from bridge.report.printed import Printed, PrintedRows

__all__ = [
    "Listing",
    "Printed",
    "PrintedRows",
]
