"""What changed in a partition since it was staged, found by the hashes of its rows: only that is read again.

For each part of the stage the source gives key and hash of the rows that lie between its keys now. Rows with the
hash that they were staged with are taken from the stage, the others are asked for by key. What comes after the last
part is read as ever, and so is a span that holds more than a part may.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from ferry.arrow import array_of, numbers_of
from ferry.errors import PromiseBroken
from ferry.extract import Extraction, Span, one_ahead
from ferry.partition import Scheme
from ferry.row_hashes import FORMULA
from ferry.settings import Settings
from ferry.sources.facts import ROW_HASH
from ferry.stage import Manifest, Part, Stage, cut

MOST_SPANS = 8
"""Parts of a partition that is one of several: its source may look through all of it for each span."""


@dataclass(frozen=True)
class Renewed:
    """One part of the new stage.

    Attributes:
        rows: its rows, with their hashes.
        earlier: the part of the stage before that it goes on from; None if there is none.
        was: the place in that one of each row that is as it was there, -1 of every other row.
        lost: whether that one has rows that are no longer there, or nobody knows.
    """

    rows: pa.Table
    earlier: Part | None
    was: np.ndarray
    lost: bool = False

    @property
    def same(self) -> np.ndarray:
        """A mask of the rows that are as they were."""
        return self.was >= 0


def tells_changes(
    earlier: Manifest, reading: Extraction, stage: Stage, scheme: Scheme, key: tuple[str, ...]
) -> bool:
    """Whether what changed since a stage was written, in the order of this key, can be found without reading all."""
    return (
        reading.hashed
        and (tuple(earlier.hashed), earlier.formula) == (key, FORMULA)
        and 0 < len(earlier.parts) <= (MOST_SPANS if scheme.cuts else len(earlier.parts))
        and stage.holds(earlier, reading.schema)
    )


def renewed(
    stage: Stage,
    earlier: Manifest,
    reading: Extraction,
    key: tuple[str, ...],
    settings: Settings,
) -> Iterator[Renewed]:
    """The parts of a stage as they are now, in order; what was appended fills the last one up.

    Args:
        stage: the staging area.
        earlier: the stage before, of which `tells_changes` holds.
        reading: the partition now.
        key: the columns of the source's key.
        settings: where a part that is made anew is cut.

    Raises:
        PromiseBroken: the source did not give a row with the hash that it said.
        PermanentError: a staged part is damaged.
    """
    rows, size = settings.chunk_rows, settings.chunk_bytes
    last: Renewed | None = None
    span = Span()
    # A part may grow by half before it is cut anew, or each new row would shift all that come after it.
    for part, old, span, now in one_ahead(_spans(stage, earlier, reading, key, rows + rows // 2, size)):
        if last is not None:
            yield last
        last = None if now is None else _renewed(old, now, part, reading, key, stage.where, size)
        if last is None:
            for table in cut(reading.batches(span), old.schema, rows, size):
                yield Renewed(table, None, _nowhere(table), lost=True)
    yield from _last(last, reading, Span(span.upto), rows, size)


def _spans(
    stage: Stage, earlier: Manifest, reading: Extraction, key: tuple[str, ...], rows: int, size: int
) -> Iterator[tuple[Part, pa.Table, Span, pa.Table | None]]:
    """Each staged part, its rows, the span of its keys, and what of it is there now (`_hashes`)."""
    after: tuple[Any, ...] | None = None
    for part in earlier.parts:
        old = stage.read_hashed(earlier, part)
        span = Span(after, tuple(old.column(name)[-1].as_py() for name in key))
        yield part, old, span, _hashes(reading, span, rows, size)
        after = span.upto


def _hashes(reading: Extraction, span: Span, rows: int, size: int) -> pa.Table | None:
    """Keys and hashes of a span, None if there are more rows, or bytes of them, than that."""
    found = _held(reading.hashes(span), rows, size)
    return None if found is None else found.combine_chunks()


def _held(batches: Iterator[pa.RecordBatch], rows: int, size: int) -> pa.Table | None:
    """All batches as a table, None as soon as they are more than that."""
    held: list[pa.RecordBatch] = []
    with closing(cast("Generator[pa.RecordBatch]", batches)):
        for batch in batches:
            held.append(batch)
            rows, size = rows - batch.num_rows, size - batch.nbytes
            if rows < 0 or size < 0:
                return None
    return pa.Table.from_batches(held)


def _renewed(
    old: pa.Table,
    now: pa.Table,
    part: Part,
    reading: Extraction,
    key: tuple[str, ...],
    where: str,
    chunk_bytes: int,
) -> Renewed | None:
    """A part with what changed in it put right, without rows if nothing is left of it; None if it grew too large."""
    position = _positions(old, now, key)
    known = position >= 0
    lost = int(np.count_nonzero(known)) < old.num_rows
    if not now.num_rows:
        return Renewed(old.slice(0, 0), part, position, lost)
    hashes = numbers_of(old.column(ROW_HASH.name))
    same = known & (hashes[position] == numbers_of(now.column(ROW_HASH.name)))
    if same.all():
        return Renewed(old if not lost else old.take(array_of(position)), part, position, lost)
    other = now.filter(array_of(~same))
    fresh = _held(reading.picked(other.select(list(key))), other.num_rows, 2 * chunk_bytes - old.nbytes)
    if fresh is None:
        return None
    if not fresh.select(other.column_names).combine_chunks().equals(other):
        raise PromiseBroken(
            "the source gave other rows than it said",
            where=where,
            why="rows that were asked for by key have other hashes than a moment ago, in one snapshot",
            next="Nothing was loaded from it; run it again: it is read anew as a whole",
        )
    place = position.copy()
    place[~same] = old.num_rows + np.arange(other.num_rows)
    taken = array_of(place)
    # Column by column: all of them at once would lie in memory three times over.
    columns = [
        pa.chunked_array([*old.column(f.name).chunks, *fresh.column(f.name).chunks], f.type)
        .combine_chunks()
        .take(taken)
        for f in fresh.schema
    ]
    return Renewed(pa.table(columns, fresh.schema), part, np.where(same, position, -1), lost)


def _positions(old: pa.Table, now: pa.Table, key: tuple[str, ...]) -> np.ndarray:
    """Where each row of now was, by its key; -1 if it was not there."""
    if old.num_rows == now.num_rows and all(old.column(name).equals(now.column(name)) for name in key):
        return np.arange(now.num_rows)
    names = list(key)
    there = pl.DataFrame(pl.from_arrow(old.select(names))).with_row_index("_place")
    here = pl.DataFrame(pl.from_arrow(now.select(names)))
    found = here.join(there, on=names, how="left", maintain_order="left")
    return found.get_column("_place").cast(pl.Int64).fill_null(-1).to_numpy()


def _last(
    last: Renewed | None, reading: Extraction, span: Span, chunk_rows: int, chunk_bytes: int
) -> Iterator[Renewed]:
    """The last part, and what comes after it, regrouped if anything does."""
    tail = (batch for batch in reading.batches(span) if batch.num_rows)
    first = next(tail, None)
    if first is None:
        if last is not None:
            yield last
        return
    held = last.rows.to_batches() if last is not None else []
    for table in cut(chain(held, [first], tail), pa.schema(first.schema), chunk_rows, chunk_bytes):
        was = _nowhere(table)
        if last is None:
            yield Renewed(table, None, was)
            continue
        before = last.was[: table.num_rows]
        was[: len(before)] = before
        yield Renewed(table, last.earlier, was, last.lost or len(last.was) > table.num_rows)
        last = None


def _nowhere(table: pa.Table) -> np.ndarray:
    return np.full(table.num_rows, -1, dtype=np.int64)
