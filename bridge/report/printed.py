"""Base classes of results that print as tables and convert to JSON data."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from bridge.report.layout import Listing
from bridge.report.plain import plain

Row = TypeVar("Row")


class Printed(ABC):
    """A result: print and rich.print show it as a table, to_dict returns it as data."""

    __slots__ = ()

    @abstractmethod
    def __rich__(self) -> Listing:
        """Return the table, for rich.print."""

    def __str__(self) -> str:
        """Return the table as text."""
        return str(self.__rich__())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and properties by their names, for json.dumps.

        Returns:
            a dict of dicts, lists, str and finite numbers, as bridge.report.plain.plain returns it.
        """
        found: dict[str, Any] = plain(self)
        return found


class PrintedRows(Printed, tuple[Row, ...]):
    """A tuple of rows that prints as a table.

    Class attributes:
        rows_name: the key of the rows in to_dict.
    """

    __slots__ = ()

    rows_name: ClassVar[str] = "layers"

    def to_dict(self) -> dict[str, Any]:
        """Return the rows, each with its fields by name, for json.dumps.

        Returns:
            {rows_name: [row, ...]}.
        """
        return {self.rows_name: plain(tuple(self))}
