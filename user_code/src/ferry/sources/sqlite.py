"""SQLite as a source: a file, read in one transaction, which sees it as it was when the transaction began.

The URL is `sqlite:///relative.db` or `sqlite:////absolute/path.db`. The file is opened for reading only.
"""

import contextlib
import datetime
import functools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import pyarrow as pa

from ferry.catalogue import Column, Table, arrow_field
from ferry.declaration import Migration, nearest
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.extract import WHOLE, Arrived, Extraction, Source, Span
from ferry.partition import Scheme, Window, cut_columns, scheme_of, through_path
from ferry.settings import Settings
from ferry.sources.facts import Facts
from ferry.sources.page import canonical
from ferry.sources.shape import UNFIT
from ferry.sources.sqlite_values import MISFIT, column, decoded, fitting, shown

BATCH_BYTES = 8 * 2**20
_HALF = 10**9
"""Sums are taken of quotients and remainders by this, since SQLite's own stop at 64 bits."""


class SqliteSource(Source):
    """One connection to the file, opened when it is first asked."""

    kind: ClassVar[str] = "sqlite"

    def __init__(self, migration: Migration, connection: str, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._migration, self._connection = migration, connection
        self._path = Path(unquote(settings.url(connection).partition("://")[2].removeprefix("/")))

    @functools.cached_property
    def opened(self) -> sqlite3.Connection:
        """The connection; facts are asked by another thread than the one that reads."""
        where = f"connection {self._connection!r}"
        if not self._path.is_file():
            raise PermanentError(
                f"there is no file {self._path.name!r}", where=where, next="Check the path in its URL"
            )
        uri = f"file:{quote(str(self._path.absolute()))}?mode=ro"
        try:
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            connection.text_factory = decoded
            connection.execute("select 1 from sqlite_master limit 1")
        except sqlite3.Error as error:
            raise told(error, where) from None
        return connection

    def close(self) -> None:
        """Close the file."""
        opened = self.__dict__.pop("opened", None)
        if opened is not None:
            with contextlib.suppress(sqlite3.Error):
                opened.close()

    def describe(self, name: str) -> Table:
        """The columns with what their declared types mean, unique keys, and a last column for what does not fit."""
        entity = self._migration[name]
        table, where = entity.declaration.from_table.table, f"{entity.path}: source.table"
        rows = self.opened.execute("select * from pragma_table_xinfo(?)", (table,)).fetchall()
        if not rows:
            names = [
                row[0]
                for row in self.opened.execute(
                    "select name from sqlite_master where type in ('table', 'view')"
                )
            ]
            raise DeclarationError(
                f"there is no table {table!r}", where=where, next=nearest(table, names, "Its tables are")
            )
        columns: dict[str, Column] = {}
        for _, column_name, type_, not_null, _, key, *_ in rows:
            alone = [row[5] for row in rows if row[5]] == [1] and type_.upper() == "INTEGER"
            columns[column_name] = column(column_name, type_, not_null=bool(not_null or (key and alone)))
        columns[UNFIT] = column(UNFIT, "TEXT", not_null=False)
        keys = [tuple(row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5])]
        for _, index, unique, _, partial in self.opened.execute(
            "select * from pragma_index_list(?)", (table,)
        ):
            if unique and not partial:
                parts = [r[2] for r in self.opened.execute("select * from pragma_index_info(?)", (index,))]
                keys += [tuple(parts)] if None not in parts else []
        return Table("main", table, columns, tuple(key for key in keys if key), kind="v")

    def extraction(
        self,
        name: str,
        partition: str,
        scheme: Scheme,
        arrived: Arrived,  # noqa: ARG002 - rows come as the pipeline takes them
    ) -> "SqliteExtraction":
        """One partition in a transaction of its own."""
        return SqliteExtraction(self, self._migration, name, partition, scheme)

    def values(self, name: str, column: str, most: int) -> list[str]:
        """One scan, or an index alone."""
        source, value = self._migration[name].declaration.from_table, f"t.{quoted(column)}"
        query = (
            f"select distinct cast({value} as text) from {quoted(source.table)} t"  # noqa: S608 - quoted names
            f" where ({source.where or 'true'}) and {value} is not null limit ?"
        )
        return [row[0] for row in self.opened.execute(query, (most,)) if isinstance(row[0], str)]

    def high_water_mark(self, name: str) -> str | None:
        """The greatest `updated_at` of the table as text."""
        source = self._migration[name].declaration.from_table
        if source.updated_at is None:
            return None
        query = f"select max({quoted(source.updated_at)}) from {quoted(source.table)}"  # noqa: S608 - quoted names
        found = self.opened.execute(query).fetchone()[0]
        return None if found is None else str(found)

    def changes(self, name: str, since: str) -> dict[str, str]:
        """Asked by `updated_at`, partition by partition: how many rows, the newest, and a sum over their times."""
        source, scheme = self._migration[name].declaration.from_table, scheme_of(self._migration, name)
        at, found = f"t.{quoted(source.updated_at or source.key[0])}", {}
        for key in scheme.keys:
            where, parameters = condition(source.where, scheme.window(key, name))
            query = (
                f"select count(*), max({at}), total({at}), total(julianday({at}))"  # noqa: S608 - quoted names
                f" from {relation(self._migration, name)} where {where} and {at} >= ?"
            )
            rows, *told = self.opened.execute(query, (*parameters, since)).fetchone()
            if rows:
                found[key] = f"{rows} {' '.join(map(str, told))}"
        return found

    def still_there(self, name: str, keys: list[list[str]]) -> set[tuple[str, ...]]:
        """Asked by key, in whatever partition."""
        source = self._migration[name].declaration.from_table
        same = " and ".join(f"cast(t.{quoted(part)} as text) = ?" for part in source.key)
        query = f"select 1 from {quoted(source.table)} t where ({source.where or 'true'}) and {same}"  # noqa: S608
        return {tuple(key) for key in keys if self.opened.execute(query, key).fetchone()}


class SqliteExtraction(Extraction):
    """One partition of one table in one transaction; use as a context manager."""

    def __init__(
        self, source: SqliteSource, migration: Migration, name: str, key: str, scheme: Scheme
    ) -> None:
        """Args: the opened file, all entities, the entity, its partition and how it is cut."""
        self._source, self._migration, self._name = source, migration, name
        self._declared = migration[name].declaration
        self._where = f"{name}, {key}"
        self._windows = scheme.window(key, name)

    def __enter__(self) -> "SqliteExtraction":
        """Begin to read: from here on the file is seen as it is now. The facts are taken first."""
        try:
            self._file = self._source.opened
            self._file.execute("begin")
            self.taken_at = datetime.datetime.now(datetime.UTC).isoformat()
            self._table = self._source.describe(self._name)
            self._columns = [c for name, c in self._table.columns.items() if name != UNFIT]
            self.schema = pa.schema([arrow_field(c) for c in self._table.columns.values()])
            self.may_repeat_keys = not self._table.is_unique(self._declared.source.key)
            bound = condition(self._declared.from_table.where, self._windows)
            self._from, self._parameters = (
                f"{relation(self._migration, self._name)} where {bound[0]}",
                bound[1],
            )
            self._facts = self._count()
        except sqlite3.Error as error:
            raise told(error, self._where) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Let the file go."""
        with contextlib.suppress(sqlite3.Error):
            self._file.execute("rollback")

    def facts(self, *, fingerprint: bool = True) -> Facts:  # noqa: ARG002 - there is nothing to save
        """Count and sums of this partition, taken in the transaction in which its rows are read."""
        return self._facts

    def duplicates(self) -> pa.Table | None:
        """Keys of this partition that occur more than once anywhere in the table."""
        if not self.may_repeat_keys:
            return None
        source = self._declared.from_table
        keys = ", ".join(f"t.{quoted(name)}" for name in source.key)
        latest, names = "", [*source.key]
        if self._declared.duplicates == "keep_latest" and source.updated_at:
            at = f"t.{quoted(source.updated_at)}"
            # A tie for the newest, or a row without a time, leaves nobody to be kept.
            latest = (
                f", case when count({at}) = count(*) and count(*) = count(distinct {at}) then max({at}) end"
            )
            names.append(source.updated_at)
        query = (
            f"select {keys}{latest} from {quoted(source.table)} t where ({source.where or 'true'})"  # noqa: S608
            f" and ({keys}) in (select {keys} from {self._from}) group by {keys} having count(*) > 1"
        )
        rows = self._file.execute(query, self._parameters).fetchall()
        fields, arrays = [], []
        for at, name in enumerate(names):
            fit, field = fitting(self._table.columns[name]), arrow_field(self._table.columns[name])
            values = [fit(row[at]) for row in rows]
            fields.append(field)
            arrays.append(pa.array([None if value is MISFIT else value for value in values], field.type))
        if latest:
            fields[-1] = fields[-1].with_name("latest")
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def batches(self, span: Span = WHOLE) -> Iterator[pa.RecordBatch]:  # noqa: ARG002 - rows are not hashed
        """The rows, ordered by key, in batches of about 8 MiB; what does not fit its column goes into the last one."""
        select = ", ".join(f"t.{quoted(c.name)}" for c in self._columns)
        order = ", ".join(f"t.{quoted(name)}" for name in (*self._declared.source.key,))
        try:
            query = f"select {select} from {self._from} order by {order}"  # noqa: S608 - quoted names
            cursor = self._file.execute(query, self._parameters)
            size = 500
            while rows := cursor.fetchmany(size):
                batch = self._batch(rows)
                yield batch
                size = max(1, min(65_536, BATCH_BYTES * len(rows) // max(batch.nbytes, 1)))
        except sqlite3.Error as error:
            raise told(error, self._where) from None

    def _batch(self, rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
        unfit: dict[int, dict[str, Any]] = {}
        arrays: list[pa.Array] = []
        for of, field, values in zip(self._columns, self.schema, zip(*rows, strict=True), strict=False):
            fitted = list(map(fitting(of), values))
            for row, value in enumerate(fitted):
                if value is MISFIT:
                    unfit.setdefault(row, {})[of.name] = shown(values[row])
                    fitted[row] = None
            arrays.append(pa.array(fitted, field.type))
        said = [canonical(unfit[row]) if row in unfit else None for row in range(len(rows))]
        return pa.RecordBatch.from_arrays([*arrays, pa.array(said, pa.string())], schema=self.schema)

    def _count(self) -> Facts:
        summed = [c.name for c in self._columns if c.base_type == "int8"]
        each = "".join(
            f", sum(t.{name} / {_HALF}) filter (where typeof(t.{name}) = 'integer'),"
            f" sum(t.{name} % {_HALF}) filter (where typeof(t.{name}) = 'integer')"
            for name in map(quoted, summed)
        )
        query = f"select count(*){each} from {self._from}"  # noqa: S608 - quoted names
        rows, *halves = self._file.execute(query, self._parameters).fetchone()
        totals = {
            name: None if high is None else str(high * _HALF + low)
            for name, high, low in zip(summed, halves[::2], halves[1::2], strict=True)
        }
        return Facts(rows, totals)


def relation(migration: Migration, name: str) -> str:
    """`table t`, with the columns `#c0` (and `#c1`) that the partitions are windows of."""
    declared = migration[name].declaration
    table = quoted(declared.from_table.table)
    if declared.partition is None:
        return f"{table} t"
    if declared.partition.through is None:
        own = ", ".join(f'{quoted(by)} as "#c{at}"' for at, by in enumerate(cut_columns(migration, name)))
        return f"(select *, {own} from {table}) t"  # noqa: S608 - quoted names
    path = through_path(migration, name)
    parent, cuts = path[1], range(len(cut_columns(migration, path[-1])))
    reference = next(one for one in declared.references if one.to == parent)
    theirs = migration[parent].declaration.source.key
    keys = ", ".join(f"t.{quoted(key)} as k{at}" for at, key in enumerate(theirs))
    values = ", ".join(f'min(t."#c{at}") as "#c{at}"' for at in cuts)
    cut = f"select {keys}, {values} from {relation(migration, parent)} group by {_numbers(len(theirs))}"  # noqa: S608
    same = " and ".join(f"t.{quoted(mine)} = p.k{at}" for at, mine in enumerate(reference.column))
    taken = ", ".join(f'p."#c{at}"' for at in cuts)
    return f"(select t.*, {taken} from {table} t left join ({cut}) p on {same}) t"  # noqa: S608


def _numbers(count: int) -> str:
    return ", ".join(str(number) for number in range(1, count + 1))


def condition(where: str | None, windows: Sequence[Window]) -> tuple[str, list[Any]]:
    """The condition of one partition, and its parameters.

    SQLite orders NULL before numbers before text before bytes, so a value of any kind lies in exactly one window.
    """
    parts, values = ([f"({where})"] if where else []), []
    for at, window in enumerate(windows):
        cut, inside = f't."#c{at}"', []
        if window.value is not None:
            inside.append(f"cast({cut} as text) = ?")
            values.append(window.value)
        if window.others:
            # One parameter, for SQLite takes only so many.
            inside.append(f"cast({cut} as text) not in (select value from json_each(?))")  # noqa: S608
            values.append(json.dumps(window.others))
        for sign, bound in ((">=", window.low), ("<", window.high)):
            if bound is not None:
                inside.append(f"{cut} {sign} ?")
                values.append(_bound(bound))
        if inside:
            text = " and ".join(inside)
            parts.append(f"({text} or {cut} is null)" if window.or_null else text)
    return " and ".join(parts) or "true", values


def _bound(value: Any) -> Any:
    """A bound as SQLite holds such values: dates and times as ISO 8601 text, which sorts as they do."""
    if isinstance(value, datetime.datetime):
        whole_day = value.time() == datetime.time()
        return value.date().isoformat() if whole_day else value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, datetime.date) else value


def quoted(name: str) -> str:
    """A name as SQL wants it."""
    return '"' + name.replace('"', '""') + '"'


def told(error: sqlite3.Error, where: str) -> FerryError:
    """What SQLite said; a file that somebody writes to is free again soon."""
    said = str(error)
    if "locked" in said or "busy" in said:
        return TransientError("the file is in use", where=where, why=said)
    return PermanentError("the source refused the query", where=where, why=said)
