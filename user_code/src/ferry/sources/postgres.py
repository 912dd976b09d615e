# pyright: reportAttributeAccessIssue=false
"""PostgreSQL as a source: one consistent snapshot per extraction, read as Arrow through ADBC.

The driver reads `COPY … (FORMAT binary)` in C and hands over record batches bounded in bytes. Types that Arrow has
no exact counterpart for travel as PostgreSQL's own text, so that nothing is rounded on the way.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

import adbc_driver_manager as adbc
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry.catalogue import NATIVE, Column, Table, arrow_field, as_text, connect, describe
from ferry.declaration import Migration
from ferry.errors import PermanentError, TransientError
from ferry.extract import WHOLE, Arrived, Extraction, Source, Span, one_ahead
from ferry.partition import Scheme, scheme_of
from ferry.row_hashes import WAY
from ferry.settings import Settings
from ferry.sources.facts import ROW_HASH, Facts, canonical_number
from ferry.sources.page import canonical
from ferry.sources.postgres_connection import ArrowConnection, first_line
from ferry.sources.postgres_sql import HASHES_ROWS, bucket_of, condition, hash_of_rows, relation_of, row_hash
from ferry.sources.postgres_values import beside, conform, may_misfit
from ferry.sources.shape import UNFIT

SUMMABLE = ("int2", "int4", "int8", "numeric")
_PICKED = ("int2", "int4", "int8", "text", "varchar", "uuid")
"""Types of a key whose values are the same when they come back to the server as text."""


class PostgresSource(Source):
    """Two connections, held over a batch of partitions: one that reads Arrow, one that asks questions.

    Opening the Arrow driver costs it a look at the server's whole type catalogue; once a batch is enough.
    """

    kind: ClassVar[str] = "postgres"

    def __init__(self, migration: Migration, connection: str, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._migration, self._connection = migration, connection
        self._url = settings.url(connection)

    @functools.cached_property
    def control(self) -> psycopg.Connection:
        """The connection that asks questions."""
        return connect(self._url, self._connection)

    @functools.cached_property
    def arrow(self) -> ArrowConnection:
        """The connection that reads rows."""
        return self._arrow()

    @functools.cached_property
    def beside(self) -> ArrowConnection:
        """One that reads hashes, while the other one reads the rows that they tell of."""
        return self._arrow()

    def _arrow(self) -> ArrowConnection:
        try:
            return ArrowConnection(self._url)
        except adbc.Error as error:
            raise TransientError(
                f"connection {self._connection!r} does not open", where="settings", why=first_line(error)
            ) from None

    def close(self) -> None:
        """Close them, whatever state they are in."""
        names = ("control", "arrow", "beside")
        opened = [self.__dict__.pop(name) for name in names if name in self.__dict__]
        for connection in opened:
            with contextlib.suppress(psycopg.Error, adbc.Error):
                connection.close()

    def describe(self, name: str) -> Table:
        """The table as the server's catalogue has it, and a last column for what does not fit."""
        table = self._there(name)
        return replace(table, columns={**table.columns, **beside(table)})

    def _there(self, name: str) -> Table:
        entity = self._migration[name]
        return describe(self.control, entity.declaration.from_table.table, f"{entity.path}: source.table")

    def extraction(
        self,
        name: str,
        partition: str,
        scheme: Scheme,
        arrived: Arrived,  # noqa: ARG002 - rows come as the pipeline takes them
    ) -> "PostgresExtraction":
        """One partition in a snapshot of its own."""
        return PostgresExtraction(self, self._migration, name, partition, scheme)

    def fingerprints(self, name: str) -> dict[str, tuple[int | None, str]]:
        """Row count and hash of every partition, in one scan.

        Empty for servers before 14, which cannot hash a row.
        """
        source, scheme = self._migration[name].declaration.from_table, scheme_of(self._migration, name)
        if self.control.info.server_version < HASHES_ROWS:
            return {}
        where = sql.SQL(source.where or "true")  # type: ignore[arg-type]
        query = sql.SQL("select {} as bucket, count(*), {} from {} where {} group by 1").format(
            bucket_of(scheme),
            hash_of_rows(self.control, self._there(name)),
            relation_of(self._migration, name, self._there),
            where,
        )
        found = {position: (rows, total) for position, rows, total in self.control.execute(query)}
        return {key: found.get(position, (0, "0")) for position, key in enumerate(scheme.keys)}

    def values(self, name: str, column: str, most: int) -> list[str]:
        """One scan, or an index alone."""
        source = self._migration[name].declaration.from_table
        query = sql.SQL(
            "select distinct t.{column}::text from {table} t where ({where}) and t.{column} is not null limit {most}"
        ).format(
            column=sql.Identifier(column),
            table=self.describe(name).identifier,
            where=sql.SQL(source.where or "true"),  # type: ignore[arg-type]
            most=sql.Literal(most),
        )
        return [row[0] for row in self.control.execute(query)]

    def high_water_mark(self, name: str) -> str | None:
        """The newest `updated_at` of the whole table, as the server writes it."""
        updated_at = self._migration[name].declaration.from_table.updated_at
        if updated_at is None:
            return None
        query = sql.SQL("select max({})::text from {}").format(
            sql.Identifier(updated_at), self.describe(name).identifier
        )
        row = self.control.execute(query).fetchone()
        return row[0] if row else None

    def changes(self, name: str, since: str) -> dict[str, str]:
        """Asked of the table, by `updated_at`: how many rows, and a sum over their times."""
        source, scheme = self._migration[name].declaration.from_table, scheme_of(self._migration, name)
        at = sql.Identifier("t", source.updated_at or source.key[0])
        query = sql.SQL(
            "select {} as bucket, count(*), sum(hashtext({at}::text)::bigint) from {} where {at} >= {} group by 1"
        ).format(
            bucket_of(scheme), relation_of(self._migration, name, self._there), sql.Literal(since), at=at
        )
        return {scheme.keys[place]: f"{rows} {total}" for place, rows, total in self.control.execute(query)}

    def still_there(self, name: str, keys: list[list[str]]) -> set[tuple[str, ...]]:
        """Asked by key, in whatever partition."""
        source, there = self._migration[name].declaration.from_table, self.describe(name)
        key = sql.SQL("array[{}]").format(
            sql.SQL(", ").join(
                as_text(sql.Identifier("t", column), arrow_field(there.columns[column]).type)
                for column in source.key
            )
        )
        query = sql.SQL(
            "select {key} from {table} t where ({where}) and {key} in (select array(select"
            " jsonb_array_elements_text(k)) from jsonb_array_elements(%s) k)"
        ).format(
            key=key,
            table=there.identifier,
            where=sql.SQL(source.where or "true"),  # type: ignore[arg-type]
        )
        return {tuple(row[0]) for row in self.control.execute(query, (Jsonb(keys),))}


class PostgresExtraction(Extraction):
    """One partition of one table in one snapshot.

    Use as a context manager. The reading connection, the counting connection and the search for repeated keys all
    see the same snapshot.
    """

    def __init__(
        self, source: PostgresSource, migration: Migration, name: str, key: str, scheme: Scheme
    ) -> None:
        """Args: the source, all entities, the entity, its partition and the scheme that has it."""
        self._source, self._control = source, source.control
        self._migration, self._name = migration, name
        self._entity = migration[name].declaration
        self._where = f"{name}, {key}"
        self._cut, self._windows = bool(scheme.cuts), scheme.window(key, name)

    def __enter__(self) -> "PostgresExtraction":
        """Open the snapshot."""
        self._control.rollback()
        self._control.execute("set transaction isolation level repeatable read, read only")
        # Two scans that start at different blocks, or workers that race, would give the same rows in another order.
        self._control.execute("set local synchronize_seqscans = off")
        way = WAY if self._control.info.server_version >= HASHES_ROWS else sql.SQL("''")
        row = self._control.execute(sql.SQL("select pg_export_snapshot(), now(), {}").format(way)).fetchone()
        assert row is not None
        self._snapshot: str = row[0]
        self.taken_at: str = row[1].isoformat()
        self.hashes_way: str = row[2]
        self._tables: dict[str, Table] = {}
        self._table = self._there(self._name)
        self._sent = pa.schema([arrow_field(column) for column in self._table.columns.values()])
        self.schema = pa.schema([*self._sent, *map(arrow_field, beside(self._table).values())])
        self.may_repeat_keys = not self._table.is_unique(self._entity.source.key)
        self._from = relation_of(self._migration, self._name, self._there)
        self._condition = condition(self._entity.from_table.where, self._windows)
        self._key = [self._table.columns[name] for name in self._entity.source.key]
        self.hashed = (
            self._control.info.server_version >= HASHES_ROWS
            and not self.may_repeat_keys
            and ROW_HASH.name not in self._table.columns
            and all(c.not_null and c.category == "b" and c.base_type in self._pickable() for c in self._key)
        )
        return self

    def _there(self, name: str) -> Table:
        """The table of an entity as it is in this snapshot, asked for once."""
        if name not in self._tables:
            table = self._migration[name].declaration.from_table.table
            self._tables[name] = describe(self._control, table, self._where)
        return self._tables[name]

    def _pickable(self) -> tuple[str, ...]:
        """Types of a key by which rows can be asked for; what has no encoding cannot be said to be some text."""
        ascii_ = self._control.info.parameter_status("server_encoding") == "SQL_ASCII"
        return tuple(name for name in _PICKED if not (ascii_ and name in ("text", "varchar")))

    def __exit__(self, *_: object) -> None:
        """Let the snapshot go."""
        with contextlib.suppress(psycopg.Error):
            self._control.rollback()

    def facts(self, *, fingerprint: bool = True) -> Facts:
        """Count and sum this partition's rows in the source itself."""
        columns = [c for c in self._table.columns.values() if c.base_type in SUMMABLE]
        hashed = fingerprint or not self.hashed
        query = sql.SQL("select count(*), {}{} from {} where {}").format(
            hash_of_rows(self._control, self._table) if hashed else sql.SQL("null::text"),
            sql.SQL("").join(
                sql.SQL(
                    ", (sum(t.{0}) filter (where t.{0} <> 'NaN'))::text"
                    if may_misfit(c)
                    else ", sum(t.{})::text"
                ).format(sql.Identifier(c.name))
                for c in columns
            ),
            self._from,
            self._condition,
        )
        row = self._control.execute(query).fetchone()
        assert row is not None
        sums = {c.name: _canonical(total) for c, total in zip(columns, row[2:], strict=True)}
        return Facts(row[0], sums, fingerprint=row[1])

    def duplicates(self) -> pa.Table | None:
        """Keys of this partition that occur more than once anywhere in the table, or None when it cannot happen."""
        if not self.may_repeat_keys:
            return None
        names = self._names()
        where = sql.SQL(self._entity.from_table.where or "true")  # type: ignore[arg-type]
        latest = sql.SQL("")
        if self._entity.duplicates == "keep_latest" and self._entity.source.updated_at:
            column = sql.Identifier("t", self._entity.source.updated_at)
            latest = sql.SQL(
                ", case when count(*) filter (where {c} is null) = 0 and"
                " (array_agg({c} order by {c} desc))[1] <> (array_agg({c} order by {c} desc))[2]"
                " then max({c}) end as latest"
            ).format(c=column)
        narrowed = sql.SQL("")
        if self._cut:
            narrowed = sql.SQL(" and ({}) in (select {} from {} where {})").format(
                names, names, self._from, self._condition
            )
        query = sql.SQL("select {}{} from {} t where ({}){} group by {} having count(*) > 1").format(
            names, latest, self._table.identifier, where, narrowed, names
        )
        return self._read(query)

    def batches(self, span: Span = WHOLE) -> Iterator[pa.RecordBatch]:
        """Read the rows, ordered by key, in batches of about 4 MiB with the types of `schema`."""
        query = self._rows(self._table.columns.values(), span)
        yield from one_ahead(map(self._conformed, self._stream(query)))

    def hashes(self, span: Span) -> Iterator[pa.RecordBatch]:
        """Read keys and hashes, ordered by key."""
        schema = pa.schema([*(self.schema.field(column.name) for column in self._key), ROW_HASH])
        for batch in self._stream(self._rows(self._key, span), self._source.beside):
            yield conform(batch, schema, self._where)

    def picked(self, keys: pa.Table) -> Iterator[pa.RecordBatch]:
        """Ask for each row by its key: an index has them, as `hashed` says."""
        columns = sql.SQL(", ").join(
            sql.SQL("{}::text[]::{}[]").format(
                sql.Literal([str(value) for value in keys.column(column.name).to_pylist()]),
                sql.SQL(column.base_type),  # type: ignore[arg-type]
            )
            for column in self._key
        )
        wanted = sql.SQL("({}) in (select * from unnest({}))").format(self._names(), columns)
        for batch in self._stream(self._rows(self._table.columns.values(), WHOLE, wanted)):
            yield self._conformed(batch)

    def _rows(
        self, columns: Iterable[Column], span: Span, also: sql.Composable | None = None
    ) -> sql.Composed:
        """Some columns of the rows of a span, and their hashes if they have such, ordered by key."""
        selected = [
            sql.SQL("t.{}").format(sql.Identifier(c.name))
            if c.base_type in NATIVE or pa.types.is_decimal(self.schema.field(c.name).type)
            else sql.SQL("t.{0}::text as {0}").format(sql.Identifier(c.name))
            for c in columns
        ]
        if self.hashed:
            selected.append(sql.SQL("{} as {}").format(row_hash(self._table), sql.Identifier(ROW_HASH.name)))
        conditions = [self._condition] if also is None else [self._condition, also]
        for form, key in ((sql.SQL("({}) > ({})"), span.after), (sql.SQL("({}) <= ({})"), span.upto)):
            if key is not None:
                bound = sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(sql.Literal(str(value)), sql.Identifier(column.base_type))
                    for value, column in zip(key, self._key, strict=True)
                )
                conditions.append(form.format(self._names(), bound))
        return sql.SQL("select {} from {} where {} order by {}").format(
            sql.SQL(", ").join(selected), self._from, sql.SQL(" and ").join(conditions), self._names()
        )

    def _names(self) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier("t", column) for column in self._entity.source.key)

    @property
    def _carried(self) -> pa.Schema:
        """What a batch of rows has: `schema`, and the hash."""
        return self.schema.append(ROW_HASH) if self.hashed else self.schema

    def _conformed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch with the types of `schema`, what does not fit beside its row."""
        unfit: dict[int, dict[str, str]] = {}
        columns = conform(batch, self._sent, self._where, unfit).columns
        if UNFIT in self.schema.names:
            said = [canonical(unfit[row]) if row in unfit else None for row in range(batch.num_rows)]
            columns.append(pa.array(said, pa.string()) if unfit else pa.nulls(batch.num_rows, pa.string()))
        if self.hashed:
            columns.append(batch.column(len(self._sent)))
        return pa.RecordBatch.from_arrays(columns, schema=self._carried)

    def _read(self, query: sql.Composed) -> pa.Table:
        batches = list(self._stream(query))
        table = pa.Table.from_batches(batches[1:] if len(batches) > 1 else batches)
        fields = [
            self.schema.field(name if name in self.schema.names else str(self._entity.source.updated_at))
            for name in table.column_names
        ]
        wanted = pa.schema([f.with_name(n) for f, n in zip(fields, table.column_names, strict=True)])
        return pa.Table.from_batches(
            [conform(batch, wanted, self._where, {}) for batch in table.to_batches()], schema=wanted
        )

    def _stream(self, query: sql.Composed, arrow: ArrowConnection | None = None) -> Iterator[pa.RecordBatch]:
        """The result of a query in this snapshot; the first batch is empty and carries the schema."""
        text = query.as_string(self._control)
        try:
            arrow = arrow or self._source.arrow
            arrow.rollback()
            for statement in (
                "begin isolation level repeatable read, read only",
                f"set transaction snapshot '{self._snapshot}'",
                "set local synchronize_seqscans = off",
                "set local max_parallel_workers_per_gather = 0",
            ):
                arrow.execute(statement)
            yield from arrow.stream(text)
        except adbc.OperationalError as error:
            raise TransientError(
                "the source broke off while it was read",
                where=self._where,
                why=first_line(error),
                next="Run it again; the partition is read anew as a whole",
            ) from None
        except (adbc.Error, pa.ArrowException) as error:
            raise PermanentError(
                "the source refused the query", where=self._where, why=first_line(error)
            ) from None


def _canonical(total: str | None) -> str | None:
    return None if total is None else canonical_number(total)
