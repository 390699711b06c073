"""Layout of printed tables: nothing is truncated; names from files cannot control a terminal."""

import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_WIDTH = 80
"""Columns of output that does not go to a terminal."""

_WRAPPED = 1.25
"""Largest ratio of table width to console width at which the table is wrapped, not listed."""

_PROSE = 30
"""Fewest columns for the longest text column while all others keep their full width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A table of text, printed as a list of rows where the console is too narrow for a table.

    print(listing) and rich.print(listing) wrap it to the width of the terminal, or to 80 columns
    without one. Text is shown literally, without markup; unprintable characters are escaped.

    Args:
        title: the first line.
        columns: the column headings.
        rows: one cell for each column.
        caption: lines after the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: Sequence[str] = ()

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the renderables that rich prints."""
        yield Text(printable(self.title))
        if self.rows:
            table = self._table()
            yield from [table] if self._fits(table, console, options) else self._list()
        for line in self.caption:
            yield Text(printable(line))

    def __str__(self) -> str:
        """Return the listing as text."""
        return render(self)

    def _fits(self, table: Table, console: Console, options: ConsoleOptions) -> bool:
        width = options.max_width
        needed = console.measure(table, options=options.update(max_width=10_000))
        columns = zip(self.columns, *self.rows, strict=True)
        longest = max(max(map(cell_len, cells)) for cells in columns)
        others = needed.maximum - longest + _PROSE
        return needed.minimum <= width and min(needed.maximum / _WRAPPED, others) <= width

    def _table(self) -> Table:
        table = Table()
        for i, column in enumerate(self.columns):
            # The first column holds names: unbroken, so that a search finds them.
            table.add_column(Text(printable(column)), overflow="fold", no_wrap=i == 0)
        for row in self.rows:
            table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
        return table

    def _list(self) -> RenderResult:
        for first, *others in self.rows:
            yield Text(printable(first), overflow="fold")
            named = zip(self.columns[1:], others, strict=True)
            parts = [printable(f"{name} {cell}") for name, cell in named if cell]
            text = Text("; ".join(parts), overflow="fold")
            yield Padding(text, (0, 0, 0, 4))


def printable(text: str) -> str:
    r"""Escape unprintable characters and terminal control sequences.

    Args:
        text: any text, such as a name from a file.
    Returns:
        text with control characters, bidirectional marks and all else that is unprintable written
        as backslash escapes.

    >>> printable("conv\x1b[2J")
    'conv\\x1b[2J'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def render(listing: Listing) -> str:
    """Return a listing as text for standard output.

    Args:
        listing: any listing.
    Returns:
        lines at most as wide as the terminal, or 80 columns without one; characters that standard
        output cannot encode are escaped.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding, "backslashreplace", newline="\n") as file:
        console = Console(file=file, width=_width(), color_system=None, force_terminal=False)
        console.print(listing)
        file.flush()
        lines = buffer.getvalue().decode(encoding).rstrip("\n").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _width() -> int:
    if sys.stdout is None or not sys.stdout.isatty():
        return _WIDTH
    return shutil.get_terminal_size((_WIDTH, 24)).columns
