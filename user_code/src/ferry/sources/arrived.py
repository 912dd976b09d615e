"""Pages that have arrived of one partition, with the checkpoint after the last of them: what a kill leaves behind.

    <stage_root>/<entity>/<partition>/arrived/
        page-00000.parquet      written first, under a name that shows it whole or not at all
        state.json              written after it: a page that it does not count is read again

A page of rows and the checkpoint after it are kept together, so the next try asks for what is missing only.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ferry.sources.page import Completeness, Glance, Page, named
from ferry.stage import parquet, put, remove

STATE = "state.json"
OBJECT = "_object"
# After so long a reading begins anew: Shopify keeps the result of a bulk operation for seven days.
_OLDEST = datetime.timedelta(days=7)


@dataclass
class State:
    """How far a reading is.

    Attributes:
        of: fingerprint of declaration and window; what was read for others is of no use.
        begun: when, ISO 8601.
        pages, rows, requests: that have arrived, or were sent.
        checkpoint: after the last page.
        replaced: numbers of the pages whose rows take the place of earlier ones.
        whole: the `Completeness` once nothing is missing.
        glance: what the source said before the first page was asked for, if every later change shows in it.
    """

    of: str
    begun: str
    pages: int = 0
    rows: int = 0
    requests: int = 0
    checkpoint: dict[str, Any] | None = None
    replaced: list[int] = field(default_factory=list)
    whole: dict[str, Any] | None = None
    glance: str | None = None


class Arrived:
    """The pages of one partition."""

    def __init__(self, folder: UPath, of: str) -> None:
        """Go on with what is there, if it was read for the same declaration and window, and not long ago."""
        self._folder = folder
        self.state = self._found(of) or State(of, _now().isoformat())

    def begin(self, glance: Glance | None) -> None:
        """Note what the source said before it was asked for the first page."""
        self.state.glance = glance.text if glance and glance.is_settled else None
        self._write()

    def keep(self, page: Page) -> None:
        """Keep a page and the checkpoint after it."""
        state = self.state
        if page.batch.num_rows or page.replaces:
            table = pa.Table.from_batches([page.batch])
            if page.objects:
                table = table.append_column(OBJECT, pa.array(page.objects, pa.string()))
            put(self._page(state.pages), parquet(table))
            if page.replaces:
                body = json.dumps([named(key) for key in page.replaces]).encode()
                put(self._folder / f"replaced-{state.pages:05d}.json", body)
                state.replaced.append(state.pages)
            state.pages += 1
        state.rows += page.batch.num_rows
        state.requests += page.requests
        state.checkpoint = page.checkpoint
        self._write()

    def finish(self, completeness: Completeness) -> None:
        """Nothing is missing."""
        self.state.whole = asdict(completeness)
        self._write()

    def forget(self) -> None:
        """Remove everything: the next reading begins at the beginning."""
        remove(self._folder)
        self.state = State(self.state.of, _now().isoformat())

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The pages in order, without the rows that later ones replaced.

        Args:
            columns: read these only; all if None.
        """
        last = self._last_replaced()
        for number in range(self.state.pages):
            body = pa.BufferReader(self._page(number).read_bytes())
            table = pq.read_table(
                body, columns=None if columns is None else [*columns, OBJECT] if last else columns
            )
            if last and OBJECT in table.column_names:
                stays = [last.get(name, number) <= number for name in table.column(OBJECT).to_pylist()]
                table = table.filter(pa.array(stays, pa.bool_()))
            yield table.drop_columns([OBJECT]) if OBJECT in table.column_names else table

    def rows(self) -> int:
        """How many rows `tables` has."""
        if not self.state.replaced:
            return self.state.rows
        return sum(table.num_rows for table in self.tables([]))

    def _last_replaced(self) -> dict[str, int]:
        """Object → the last page that replaces it. As many as changed while they were read, which is few."""
        return {
            name: number
            for number in self.state.replaced
            for name in json.loads((self._folder / f"replaced-{number:05d}.json").read_bytes())
        }

    def _page(self, number: int) -> UPath:
        return self._folder / f"page-{number:05d}.parquet"

    def _write(self) -> None:
        put(self._folder / STATE, json.dumps(asdict(self.state)).encode())

    def _found(self, of: str) -> State | None:
        path = self._folder / STATE
        if not path.exists():
            return None
        found = State(**json.loads(path.read_bytes()))
        is_recent = _now() - datetime.datetime.fromisoformat(found.begun) < _OLDEST
        if found.of != of or not is_recent:
            remove(self._folder)
            return None
        return found


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
