"""CSV in blocks: checked byte by byte against the grammar, parsed by Arrow, and counted by both.

Every quote opens at the start of a field and closes at its end, or it is a fault with its line; so a newline
is known to be inside a value or between records, and what the grammar counts is held against what the parser
gives.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from ferry.errors import PermanentError
from ferry.sources.file_bytes import OpenedFile, as_bytes, check_utf8
from ferry.sources.file_declaration import CsvFormat
from ferry.sources.file_formats import Part

_NEWLINE, _RETURN = 10, 13


def read_csv(file: OpenedFile, form: CsvFormat, names: list[str] | None, place: Any) -> Iterator[Part]:
    """Parts of a file from a place on; every column is text, a declared text is null.

    Args:
        file: the file.
        form: its dialect.
        names: the columns, for a file without header.
        place: [offset, line, column names] after a part; None for the beginning.
    """
    reader = _CsvReader(file, form)
    columns = names if place is None else place[2]
    offset, line = (0, 1) if place is None else place[:2]
    skip = form.skip if place is None else 0
    block = None
    for block in file.blocks(offset, line, reader.boundary):
        text, first = block.text, block.first_line
        if place is None and block.first_line == 1:
            text, first = _without_lines(text, skip, file.name)
            if form.header:
                columns, text, used = reader.header(text, first)
                first += used
        if not columns:
            raise PermanentError(
                "a CSV file without header needs its fields declared, in order", where=file.name
            )
        after = [block.end, block.first_line + block.text.count(b"\n"), columns]
        yield reader.part(text, first, columns, None if block.is_last else after)
    if block is None and place is None and form.header:
        raise PermanentError("the file is empty: it has not even a header", where=file.name)


class _CsvReader:
    def __init__(self, file: OpenedFile, form: CsvFormat) -> None:
        self._file, self._form = file, form
        self._quote = ord(form.quote) if form.quote else None
        self._delimiter = ord(form.delimiter)

    def boundary(self, text: bytes, line: int, is_end: bool) -> int:
        """After the last newline that is between records."""
        if is_end:
            if self._quote is not None and not self._form.escape and self._inside(text, line)[-1]:
                number = line + text[: text.rfind(bytes([self._quote]))].count(b"\n")
                raise PermanentError(
                    "a quote is opened and not closed",
                    where=f"{self._file.name}, line {number}",
                    why="the file ends inside a quoted value: it may be truncated",
                    next='Correct the file, or declare quote: "" if it has no quoting',
                )
            return len(text)
        data = as_bytes(text)
        if self._quote is None:
            return text.rfind(b"\n") + 1
        ends = np.flatnonzero((data == _NEWLINE) & ~self._inside(text, line))
        return int(ends[-1]) + 1 if len(ends) else 0

    def _inside(self, text: bytes, line: int) -> Any:
        """For each byte whether a quoted value is open after it, by the grammar; a quote elsewhere is a
        fault.
        """
        data = as_bytes(text)
        if self._form.escape:
            escaped = np.zeros(len(data), bool)
            escaped[1:] = data[:-1] == ord(self._form.escape)
            return (np.cumsum((data == self._quote) & ~escaped, dtype=np.uint8) & 1).astype(bool)
        is_quote = data == self._quote
        inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).astype(bool)  # its overflow keeps the parity
        at = np.flatnonzero(is_quote)
        before = np.concatenate(([_NEWLINE], data))[at]
        after = np.concatenate((data, [_NEWLINE]))[at + 1]
        opens = inside[at]
        may_open = (before == self._delimiter) | (before == _NEWLINE) | (before == self._quote)
        may_close = (
            (after == self._delimiter) | (after == _NEWLINE) | (after == _RETURN) | (after == self._quote)
        )
        # The block may end in the middle of a doubled quote; the next look sees more of it.
        wrong = at[np.where(opens, ~may_open, ~may_close)]
        if len(wrong):
            position = int(wrong[0])
            number = line + text[:position].count(b"\n")
            shown = text[text.rfind(b"\n", 0, position) + 1 :].split(b"\n")[0][:80].decode("utf-8", "replace")
            raise PermanentError(
                f"a quote stands inside a value: {shown}",
                where=f"{self._file.name}, line {number}",
                why="quotes enclose a whole value, and are doubled inside it",
                next='Correct the file, or declare quote: "" (no quoting) or escape',
            )
        return inside

    def header(self, text: bytes, line: int) -> tuple[list[str], bytes, int]:
        """The names in the first record, the text after it, and how many lines it took."""
        source = io.StringIO(
            check_utf8(text[: 1 << 20], self._file.name, line) if len(text) < 1 << 20 else _head(text)
        )
        rows = csv.reader(source, **self._python_dialect())
        names = next(rows)
        seen: set[str] = set()
        for name in names:
            if not name or name in seen:
                what = "a column has no name" if not name else f"two columns are called {name!r}"
                raise PermanentError(what, where=f"{self._file.name}, line {line}", next="Correct the header")
            seen.add(name)
        cut = 0
        for _ in range(rows.line_num):
            cut = text.find(b"\n", cut) + 1 or len(text)
        return names, text[cut:], rows.line_num

    def part(self, text: bytes, line: int, names: list[str], place: Any) -> Part:
        """One block as text columns."""
        where = f"{self._file.name}, from line {line}"
        if not text.strip(b"\r\n"):
            columns = {name: pa.array([], pa.string()) for name in names}
            return Part(where, place, 0, columns=columns, line=line)
        form = self._form
        try:
            table = arrow_csv.read_csv(
                io.BytesIO(text),
                # Without threads and in one block, rows come in order and a newline in a value is no block's
                # end.
                arrow_csv.ReadOptions(
                    column_names=names, use_threads=False, block_size=max(len(text), 1) + 1
                ),
                arrow_csv.ParseOptions(
                    delimiter=form.delimiter,
                    quote_char=form.quote or False,
                    double_quote=not form.escape,
                    escape_char=form.escape or False,
                    newlines_in_values=True,
                    ignore_empty_lines=len(names) > 1,
                ),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=list(form.null),
                    strings_can_be_null=bool(form.null),
                    quoted_strings_can_be_null=False,
                ),
            )
        except (pa.ArrowException, ValueError) as error:
            raise self._explained(text, line, names, str(error)) from None
        rows = self._count(text, line, single=len(names) == 1)
        if rows != table.num_rows:
            raise self._explained(text, line, names, f"{table.num_rows} rows came of {rows} records")
        columns = {name: table.column(name).combine_chunks() for name in names}
        return Part(where, place, rows, columns=columns, line=line)

    def _count(self, text: bytes, line: int, *, single: bool) -> int:
        """Records by the grammar: line ends between values, without empty lines."""
        data = as_bytes(text if text.endswith(b"\n") else text + b"\n")
        ends = data == _NEWLINE
        if self._quote is not None:
            ends &= ~self._inside(data.tobytes(), line)
        at = np.flatnonzero(ends)
        begins = np.concatenate(([0], at[:-1] + 1))
        lengths = at - begins
        empty = (lengths == 0) | ((lengths == 1) & (data[begins] == _RETURN))
        return len(at) - (0 if single else int(empty.sum()))

    def _explained(self, text: bytes, line: int, names: list[str], why: str) -> PermanentError:
        """The fault with its line, found by reading the block once more, slowly."""
        lines = csv.reader(
            io.StringIO(check_utf8(text, self._file.name, line), newline=""), **self._python_dialect()
        )
        begun = 0
        try:
            for row in lines:
                if row and len(row) != len(names):
                    return PermanentError(
                        f"the record has {len(row)} values, and there are {len(names)} columns",
                        where=f"{self._file.name}, line {line + begun}",
                        why=f"it begins: {self._form.delimiter.join(row)[:80]}",
                        next="Correct the line, or the delimiter and quoting in the declaration",
                    )
                begun = lines.line_num
        except csv.Error as error:
            why = str(error)
        return PermanentError(
            "the CSV cannot be read", where=f"{self._file.name}, line {line + begun} or after", why=why[:200]
        )

    def _python_dialect(self) -> dict[str, Any]:
        form = self._form
        csv.field_size_limit(self._file.max_line_bytes)
        return {
            "delimiter": form.delimiter,
            "quotechar": form.quote or None,
            "quoting": csv.QUOTE_MINIMAL if form.quote else csv.QUOTE_NONE,
            "escapechar": form.escape or None,
            "doublequote": not form.escape,
            "strict": bool(form.quote),
        }


def _without_lines(text: bytes, count: int, name: str) -> tuple[bytes, int]:
    at = 0
    for _ in range(count):
        at = text.find(b"\n", at) + 1
        if not at:
            raise PermanentError(
                f"the file has fewer than {count} lines, which are to be skipped", where=name
            )
    return text[at:], 1 + count


def _head(text: bytes) -> str:
    return text[: 1 << 20].decode("utf-8", "ignore")
