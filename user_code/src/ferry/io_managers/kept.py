"""What is told of rows as they pass: how many, how large, how fast, and the first few of them."""

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa

from ferry.arrow import first_rows
from ferry.components.preview import SHOWN_ROWS, preview
from ferry.memory import peak_mib


class Meter:
    """Counts the rows of a stream of tables and keeps the first ones."""

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self._first: pa.Table | None = None
        self._began = time.monotonic()

    def over(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables, counted."""
        for table in tables:
            self.rows += table.num_rows
            self.bytes += table.nbytes
            if self._first is None or not self._first.num_rows:
                self._first = first_rows(table, SHOWN_ROWS)
            yield table

    def metadata(self, personal: Collection[str]) -> dict[str, Any]:
        """Row counts are the caller's: bytes in memory, seconds, rows a second, peak memory, and a preview.

        Args:
            personal: columns whose values are not shown.
        """
        seconds = time.monotonic() - self._began
        told: dict[str, Any] = {
            "bytes": self.bytes,
            "seconds": round(seconds, 3),
            "rows per second": round(self.rows / seconds) if seconds else 0,
            "peak MiB": round(peak_mib()),
        }
        if self._first is not None and self._first.num_rows:
            told["preview"] = preview(self._first, personal)
        return told
