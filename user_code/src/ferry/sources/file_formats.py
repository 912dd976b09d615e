"""What files can be, and the readers of JSONL, fixed width, Parquet and Excel, each in bounded parts."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import openpyxl
import pyarrow as pa
import simplejson
from openpyxl.utils.exceptions import InvalidFileException
from pyarrow import parquet

from ferry.errors import PermanentError
from ferry.sources.file_bytes import OpenedFile, check_utf8, line_end
from ferry.sources.file_declaration import ExcelFormat, FixedWidthFormat
from ferry.sources.page import PAGE_BYTES, WindowIncomplete

_EXCEL_ROWS = 5_000


@dataclass(frozen=True)
class Part:
    """Some rows of a file, as records, as columns, or as a batch that keeps its types.

    Attributes:
        where: the place for messages.
        place: where the next part begins, JSON-serialisable; None at the end of the file.
        rows: how many there are, counted by something else than what made the rows; -1 when nothing could.
        line: number of the first row's line.
    """

    where: str
    place: Any
    rows: int
    records: list[dict[str, Any]] | None = None
    columns: dict[str, pa.Array] | None = None
    batch: pa.RecordBatch | None = None
    line: int = field(default=0)


def read_jsonl(file: OpenedFile, place: Any) -> Iterator[Part]:
    """Parts of a file of JSON lines; `place` is [offset, line]."""
    offset, line = place or (0, 1)
    for block in file.blocks(offset, line, line_end):
        records, number = [], block.first_line
        for number, text in enumerate(block.text.split(b"\n"), block.first_line):
            if not text.strip():
                continue
            where = f"{file.name}, line {number}"
            try:
                record = simplejson.loads(check_utf8(text, file.name, number), use_decimal=True)
            except (ValueError, RecursionError) as error:
                is_cut = block.is_last and not block.text.endswith(b"\n") and block.text.endswith(text)
                kind = WindowIncomplete if is_cut else PermanentError
                raise kind(
                    "the last line is not whole: the file is truncated" if is_cut else "the line is not JSON",
                    where=where,
                    why=f"{error}; it begins: {text[:80].decode('utf-8', 'replace')}",
                ) from None
            if not isinstance(record, dict):
                raise PermanentError(f"the line is no object but {type(record).__name__}", where=where)
            records.append(record)
        after = None if block.is_last else [block.end, block.first_line + block.text.count(b"\n")]
        where = f"{file.name}, from line {block.first_line}"
        yield Part(where, after, len(records), records=records, line=block.first_line)


def read_fixed_width(file: OpenedFile, form: FixedWidthFormat, place: Any) -> Iterator[Part]:
    """Parts of a file with columns at fixed places; `place` is [offset, line]."""
    offset, line = place or (0, 1)
    width = max(last for _, last in form.columns.values())
    for block in file.blocks(offset, line, line_end):
        text = check_utf8(block.text, file.name, block.first_line)
        lines = [t.removesuffix("\r") for t in text.removesuffix("\n").split("\n")]
        begin = max(0, form.skip + 1 - block.first_line)
        lines = lines[begin:]
        number = block.first_line + begin
        short = next((at for at, one in enumerate(lines) if len(one) < width), None)
        if short is not None:
            raise PermanentError(
                f"the line has {len(lines[short])} characters, and its columns need {width}",
                where=f"{file.name}, line {number + short}",
                next="Correct the line, or the columns in the declaration",
            )
        columns = {}
        for name, (first, last) in form.columns.items():
            values = [one[first - 1 : last] for one in lines]
            if form.strip:
                values = [v.strip() or None for v in values]
            columns[name] = pa.array(values, pa.string())
        after = None if block.is_last else [block.end, block.first_line + block.text.count(b"\n")]
        where = f"{file.name}, from line {number}"
        yield Part(where, after, len(lines), columns=columns, line=number)


def read_parquet(file: OpenedFile, place: Any, page_bytes: int = PAGE_BYTES) -> Iterator[Part]:
    """Parts of a Parquet file; `place` is [row group, row in it]."""
    group, row = place or (0, 0)
    with file.open() as raw:
        try:
            opened = parquet.ParquetFile(raw)
        except (pa.ArrowException, OSError) as error:
            raise WindowIncomplete(
                "this is no whole Parquet file", where=file.name, why=str(error)[:200]
            ) from None
        groups = opened.metadata.num_row_groups
        for number in range(group, max(groups, 1)):
            told = opened.metadata.row_group(number) if groups else None
            rows = told.num_rows if told else 0
            size = max(1, int(rows * page_bytes / max(1, told.total_byte_size))) if told else 1
            first = row if number == group else 0
            done = first
            batches = (
                opened.iter_batches(batch_size=min(size, 1_000_000), row_groups=[number]) if groups else ()
            )
            at = 0
            for batch in _arrow_faults(batches, file.name):
                at += batch.num_rows
                if at <= first:
                    continue
                batch = batch.slice(max(0, first - (at - batch.num_rows)))
                done += batch.num_rows
                is_last = number == groups - 1 and done >= rows
                after = None if is_last else [number, done] if done < rows else [number + 1, 0]
                where = f"{file.name}, row group {number}, from row {done - batch.num_rows}"
                yield Part(where, after, batch.num_rows, batch=_without_views(batch))
            if done != rows:
                raise WindowIncomplete(f"row group {number} has {done} of its {rows} rows", where=file.name)


def read_excel(file: OpenedFile, form: ExcelFormat, place: Any) -> Iterator[Part]:
    """Parts of a sheet; `place` is [row, names]. A formula whose value was never saved is a fault, not a
    null.
    """
    with file.open() as raw, file.open() as again:
        _refuse_bomb(raw, file)
        try:
            values = openpyxl.load_workbook(raw, read_only=True, data_only=True)
            formulas = openpyxl.load_workbook(again, read_only=True, data_only=False)
        except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
            raise WindowIncomplete(
                "this is no whole workbook", where=file.name, why=str(error)[:200]
            ) from None
        sheet = form.sheet or values.sheetnames[0]
        if sheet not in values.sheetnames:
            known = ", ".join(values.sheetnames)
            raise PermanentError(f"there is no sheet {sheet!r}", where=file.name, next=f"It has: {known}")
        start, names = place or (form.skip + 1, None)
        rows = zip(
            values[sheet].iter_rows(min_row=start), formulas[sheet].iter_rows(min_row=start), strict=True
        )
        records: list[dict[str, Any]] = []
        first = start
        for number, (row, formula) in enumerate(rows, start):
            where = f"{file.name}, sheet {sheet}, row {number}"
            cells = [_cell(v, f, where) for v, f in zip(row, formula, strict=True)]
            if names is None:
                names = _header(cells, where)
                first = number + 1
                continue
            if any(c is not None for c in cells[len(names) :]):
                raise PermanentError(f"the row has values beyond its {len(names)} columns", where=where)
            if any(c is not None for c in cells):
                cells += [None] * (len(names) - len(cells))
                records.append(dict(zip(names, cells, strict=False)))
            if len(records) >= _EXCEL_ROWS:
                yield _excel_part(file.name, sheet, first, [number + 1, names], records)
                records, first = [], number + 1
        yield _excel_part(file.name, sheet, first, None, records)


def _excel_part(name: str, sheet: str, first: int, place: Any, records: list[dict[str, Any]]) -> Part:
    # A sheet's stated dimensions are what its writer guessed, so nothing independent counts the rows.
    return Part(f"{name}, sheet {sheet}, from row {first}", place, -1, records=records, line=first)


def _cell(value: Any, formula: Any, where: str) -> Any:
    found = value.value
    if getattr(formula, "data_type", "") == "f" and found is None:
        raise PermanentError(
            f"cell {formula.coordinate} is a formula whose value was not saved",
            where=where,
            next="Open the workbook in a spreadsheet program and save it, or put values in place of formulas",
        )
    if getattr(value, "data_type", "") == "e":
        raise PermanentError(
            f"cell {value.coordinate} is the error {found}", where=where, next="Correct the sheet"
        )
    if isinstance(found, float):
        return Decimal(repr(found))  # the shortest text that is this number, so 12.5 stays 12.5
    if isinstance(found, time):
        return found.isoformat()
    return found if isinstance(found, str | int | bool | datetime | date | None) else str(found)


def _header(cells: list[Any], where: str) -> list[str]:
    while cells and cells[-1] is None:
        cells.pop()
    names = [None if c is None else str(c) for c in cells]
    if not names or None in names or len(set(names)) != len(names):
        raise PermanentError(
            "the header has an empty or repeated name",
            where=where,
            why=str(names)[:200],
            next="Set skip, or correct it",
        )
    return [n for n in names if n is not None]


def _refuse_bomb(raw: Any, file: OpenedFile) -> None:
    try:
        with zipfile.ZipFile(raw) as packed:
            unfolded = sum(i.file_size for i in packed.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise WindowIncomplete("this is no whole workbook", where=file.name, why=str(error)[:200]) from None
    if file.size > 0 and unfolded > max(256 * 1024 * 1024, file.size * file.max_expansion):
        raise PermanentError(
            f"the workbook unfolds to {unfolded:,} bytes, more than {file.max_expansion} times its size",
            where=file.name,
            next="Raise max_expansion if the file is right",
        )
    raw.seek(0)


def _arrow_faults(batches: Any, name: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise WindowIncomplete("the Parquet data is damaged", where=name, why=str(error)[:200]) from None


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Views as plain strings: most of Arrow's writers refuse views."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    fields = [f.with_type(plain.get(f.type, f.type)) for f in batch.schema]
    return batch.cast(pa.schema(fields, batch.schema.metadata))
