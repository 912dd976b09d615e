"""MySQL and MariaDB as a source: one connection, and each partition in a transaction with a consistent snapshot.

The server lets no second connection into a snapshot, so the facts are asked for before the rows are read.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import pyarrow as pa
import pymysql

from ferry.catalogue import Column, Table, arrow_field
from ferry.declaration import Migration, nearest
from ferry.errors import DeclarationError
from ferry.extract import WHOLE, Arrived, Extraction, Source, Span
from ferry.partition import Scheme, cut_columns, scheme_of, through_path
from ferry.settings import Settings
from ferry.sources.facts import Facts, canonical_number, summable
from ferry.sources.mysql_connection import connect, told
from ferry.sources.mysql_rows import stream
from ferry.sources.mysql_sql import condition, doubled, number_of, quoted, same_part, written
from ferry.sources.mysql_values import UNSIGNED_BEYOND, Declared, carried
from ferry.sources.page import canonical
from ferry.sources.shape import UNFIT

_COLUMNS = """
select column_name, data_type, column_type, is_nullable, numeric_precision, numeric_scale,
       character_maximum_length, datetime_precision
from information_schema.columns where table_schema = %s and table_name = %s order by ordinal_position
"""
_KEYS = """
select index_name, column_name, sub_part from information_schema.statistics
where table_schema = %s and table_name = %s and non_unique = 0
order by index_name <> 'PRIMARY', index_name, seq_in_index
"""
# MariaDB's `json` is text that a check of this form holds to be JSON.
_CHECKS = """
select check_clause from information_schema.check_constraints where constraint_schema = %s and table_name = %s
"""
_HASH = "cast(conv(left(md5(concat({})), 16), 16, 10) as unsigned)"


class MysqlSource(Source):
    """One connection, opened when it is first asked."""

    kind: ClassVar[str] = "mysql"

    def __init__(self, migration: Migration, connection: str, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._migration, self._connection = migration, connection
        self._url = settings.url(connection)

    @functools.cached_property
    def opened(self) -> "pymysql.Connection[Any]":
        """The connection, in autocommit."""
        return connect(self._url, self._connection)

    def close(self) -> None:
        """Close it, whatever state it is in."""
        opened = self.__dict__.pop("opened", None)
        if opened is not None:
            opened._force_close()

    def ask(self, query: str, values: Sequence[Any], where: str) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        try:
            with self.opened.cursor() as cursor:
                cursor.execute(query, tuple(values))
                return list(cursor.fetchall())
        except (pymysql.MySQLError, OSError) as error:
            raise told(error, where) from None

    def declared(self, name: str) -> dict[str, Declared]:
        """The columns of an entity's table as the server has them; raises `DeclarationError` if there is no table."""
        entity = self._migration[name]
        where = f"{entity.path}: source.table"
        schema, table = self._place(name)
        rows = self.ask(_COLUMNS, (schema, table), where)
        if not rows:
            names = [
                row[0]
                for row in self.ask(
                    "select table_name from information_schema.tables where table_schema = %s",
                    (schema,),
                    where,
                )
            ]
            raise DeclarationError(
                f"there is no table {table!r}",
                where=where,
                why=f"looked in database {schema!r} as {self._here[1]!r}",
                next=nearest(table, names, "Its tables are"),
            )
        checks = (
            {row[0].lower() for row in self.ask(_CHECKS, (schema, table), where)}
            if self._is_mariadb
            else set()
        )
        return {
            row[0]: Declared(
                row[0], row[1].lower(), row[2].lower(), row[3] == "NO", *row[4:],
                is_json=f"json_valid({quoted(row[0])})".lower() in checks,
            )
            for row in rows
        }  # fmt: skip

    @functools.cached_property
    def _here(self) -> tuple[Any, ...]:
        """The database and the user, as the server names them."""
        return self.ask("select database(), current_user()", (), "settings")[0]

    @property
    def _is_mariadb(self) -> bool:
        return "mariadb" in self.opened.get_server_info().lower()

    def _place(self, name: str) -> tuple[str, str]:
        """Database and table of an entity."""
        schema, dot, table = self._migration[name].declaration.from_table.table.partition(".")
        return (schema, table) if dot else (self._here[0], schema)

    def table(self, name: str) -> str:
        """The quoted name of an entity's table."""
        return ".".join(map(quoted, self._place(name)))

    def describe(self, name: str) -> Table:
        """The columns with what their types are, unique keys, and a last column for what has no counterpart."""
        entity = self._migration[name]
        read_as_text = entity.declaration.parse
        columns = {
            column: one.column(as_text=column in read_as_text) for column, one in self.declared(name).items()
        }
        columns[UNFIT] = Column(UNFIT, "text", "text", "b", False, False, None, False)
        indexes: dict[str, list[tuple[str | None, int | None]]] = {}
        for index, column, part in self.ask(_KEYS, self._place(name), f"{entity.path}: source.table"):
            indexes.setdefault(index, []).append((column, part))
        keys = [
            tuple(str(column) for column, _ in index)
            for index in indexes.values()
            if all(column and part is None for column, part in index)
        ]
        return Table(*self._place(name), columns, tuple(keys), kind="v")

    def extraction(
        self,
        name: str,
        partition: str,
        scheme: Scheme,
        arrived: Arrived,  # noqa: ARG002 - rows come as the pipeline takes them
    ) -> "MysqlExtraction":
        """One partition in a transaction of its own."""
        return MysqlExtraction(self, self._migration, name, partition, scheme)

    def values(self, name: str, column: str, most: int) -> list[str]:
        """One scan, or an index alone."""
        source, value = self._migration[name].declaration.from_table, f"t.{quoted(column)}"
        query = (
            f"select distinct {written(value)} from {self.table(name)} t"
            f" where ({doubled(source.where or 'true')}) and {value} is not null limit %s"
        )
        return [row[0].decode() for row in self.ask(query, (most,), name)]

    def fingerprints(self, name: str) -> dict[str, tuple[int | None, str]]:
        """Row count and hash of every partition, in one scan; it takes about as long as reading the rows.

        A row that is too large for the server to hash makes the hash of its partition a new one each time.
        """
        source, scheme = self._migration[name].declaration.from_table, scheme_of(self._migration, name)
        asked = [one.asked(f"t.{quoted(column)}") for column, one in self.declared(name).items()]
        row = _HASH.format(", ',', ".join(f"quote(cast({one} as binary))" for one in asked))
        relation, cuts = self.relation(name)
        bucket, values = number_of(scheme, cuts)
        query = (
            f"select {bucket} as bucket, count(*), if(count(*) = count({row}), concat(sum({row})), concat(uuid()))"
            f" from {relation} where ({doubled(source.where or 'true')}) group by 1"
        )
        found = {at: (rows, total) for at, rows, total in self.ask(query, values, name)}
        return {key: found.get(at, (0, "0")) for at, key in enumerate(scheme.keys)}

    def high_water_mark(self, name: str) -> str | None:
        """The greatest `updated_at` of the table, as the server writes it."""
        updated_at = self._migration[name].declaration.from_table.updated_at
        if updated_at is None:
            return None
        query = f"select cast(max({quoted(updated_at)}) as char) from {self.table(name)}"
        return self.ask(query, (), name)[0][0]

    def changes(self, name: str, since: str) -> dict[str, str]:
        """Asked of the table, by `updated_at`: how many rows, and a sum over their times."""
        source, scheme = self._migration[name].declaration.from_table, scheme_of(self._migration, name)
        relation, cuts = self.relation(name)
        bucket, values = number_of(scheme, cuts)
        column = f"t.{quoted(source.updated_at or source.key[0])}"
        query = (
            f"select {bucket} as bucket, count(*), sum(crc32(cast({column} as char)))"
            f" from {relation} where {column} >= %s group by 1"
        )
        found = self.ask(query, [*values, since], name)
        return {scheme.keys[place]: f"{rows} {total}" for place, rows, total in found}

    def still_there(self, name: str, keys: list[list[str]]) -> set[tuple[str, ...]]:
        """Asked by key, in whatever partition."""
        source, there, declared = (
            self._migration[name].declaration.from_table,
            self.describe(name),
            self.declared(name),
        )
        query = f"select 1 from {self.table(name)} t where ({doubled(source.where or 'true')})"
        found = set()
        for key in keys:
            parts = [
                same_part(declared[column].asked(f"t.{quoted(column)}"), there.columns[column], text)
                for column, text in zip(source.key, key, strict=True)
            ]
            same = " and ".join(part for part, _ in parts)
            if self.ask(f"{query} and {same} limit 1", [one for _, values in parts for one in values], name):
                found.add(tuple(key))
        return found

    def relation(self, name: str) -> tuple[str, list[str]]:
        """`table t`, with the parents through which it is cut, and the expressions of what its windows are of."""
        text, mine = f"{self.table(name)} t", "t"
        if self._migration[name].declaration.partition is None:
            return text, []
        path = through_path(self._migration, name)
        columns = cut_columns(self._migration, path[-1])
        for depth, (child, parent) in enumerate(pairwise(path), 1):
            theirs, alias = self._migration[parent].declaration.source.key, f"p{depth}"
            mine_keys = next(
                r for r in self._migration[child].declaration.references if r.to == parent
            ).column
            alone = self.describe(parent).is_unique(theirs)
            if alone:
                joined, names = self.table(parent), [quoted(key) for key in theirs]
            else:  # one row for each key, or children would be there more than once
                relation, cuts = self.relation(parent)
                keys = ", ".join(f"t.{quoted(key)} as k{at}" for at, key in enumerate(theirs))
                values = ", ".join(f"min({cut}) as c{at}" for at, cut in enumerate(cuts))
                grouped = ", ".join(f"t.{quoted(key)}" for key in theirs)
                joined = f"(select {keys}, {values} from {relation} group by {grouped})"
                names = [f"k{at}" for at in range(len(theirs))]
            same = " and ".join(
                f"{mine}.{quoted(one)} = {alias}.{other}" for one, other in zip(mine_keys, names, strict=True)
            )
            text, mine = f"{text} left join {joined} {alias} on {same}", alias
            if not alone:
                return text, [f"{alias}.c{at}" for at in range(len(columns))]
        return text, [f"{mine}.{quoted(column)}" for column in columns]


class MysqlExtraction(Extraction):
    """One partition of one table in one transaction; use as a context manager."""

    def __init__(
        self, source: MysqlSource, migration: Migration, name: str, key: str, scheme: Scheme
    ) -> None:
        """Args: the source, all entities, the entity, its partition and how it is cut."""
        self._source, self._name = source, name
        self._entity = migration[name].declaration
        self._where = f"{name}, {key}"
        self._windows = scheme.window(key, name)
        self._is_reading = False

    def __enter__(self) -> "MysqlExtraction":
        """Begin to read: from here on the tables are seen as they are now. The facts are taken first."""
        relation, cuts = self._source.relation(self._name)
        where, self._values = condition(self._entity.from_table.where, self._windows, cuts)
        self._from = f"{relation} where {where}"
        self._table, self._declared = self._source.describe(self._name), self._source.declared(self._name)
        self.schema = pa.schema([arrow_field(column) for column in self._table.columns.values()])
        self.may_repeat_keys = not self._table.is_unique(self._entity.source.key)
        self._source.ask("start transaction with consistent snapshot, read only", (), self._where)
        self.taken_at = (
            self._source.ask("select utc_timestamp(6)", (), self._where)[0][0].isoformat() + "+00:00"
        )
        self._facts = self._count()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the snapshot go; a connection that is still sending rows is of no use to anybody."""
        if self._is_reading:
            self._source.close()
        else:
            with contextlib.suppress(Exception):
                self._source.opened.rollback()

    def facts(self, *, fingerprint: bool = True) -> Facts:  # noqa: ARG002 - there is nothing to save
        """Count and sums of this partition, taken in the transaction in which its rows are read."""
        return self._facts

    def duplicates(self) -> pa.Table | None:
        """Keys of this partition that occur more than once anywhere in the table."""
        if not self.may_repeat_keys:
            return None
        source, names = self._entity.from_table, list(self._entity.source.key)
        # What a collation calls equal (`a` and `A`) are two keys, as in the target.
        exact = ", ".join(f"binary t.{quoted(name)}" for name in names)
        keys = ", ".join(f"t.{quoted(name)}" for name in names)
        inside = f"({keys}) in (select {keys} from {self._from})"
        among = f"{self._source.table(self._name)} t where ({doubled(source.where or 'true')}) and {inside}"
        if self._entity.duplicates == "keep_latest" and source.updated_at:
            names.append(source.updated_at)
            at = f"t.{quoted(source.updated_at)}"
            # A tie for the newest, or a row without a time, leaves nobody to be kept.
            query = (
                f"select {self._asked(names[:-1])}, case when max({at} is null) = 0 and"
                f" substring_index(group_concat(t.c order by {at} desc), ',', 1) = '1' then max({at}) end"
                f" from (select {keys}, {at}, count(*) as c from {among} group by {exact}, {at}) t"
                f" group by {exact} having sum(t.c) > 1"
            )
        else:
            query = f"select {self._asked(names)} from {among} group by {exact} having count(*) > 1"
        shown = pa.schema([self.schema.field(name) for name in names])
        tables = [
            pa.Table.from_arrays(
                [carried(self._table.columns[n], sent).values for n, sent in zip(names, block, strict=True)],
                schema=shown,
            )
            for block in self._rows(query)
        ]
        found = pa.concat_tables(tables) if tables else shown.empty_table()
        return found.rename_columns([*self._entity.source.key, "latest"][: len(names)])

    def batches(self, span: Span = WHOLE) -> Iterator[pa.RecordBatch]:  # noqa: ARG002 - rows are not hashed
        """The rows, ordered by key, in batches of about 4 MiB; what has no counterpart goes into the last column."""
        order = ", ".join(f"t.{quoted(name)}" for name in self._entity.source.key)
        query = f"select {self._asked(self._declared)} from {self._from} order by {order}"
        for block in self._rows(query):
            unfit: dict[int, dict[str, str]] = {}
            arrays = []
            for column, sent in zip(self._table.columns.values(), block, strict=False):
                found = carried(column, sent)
                arrays.append(found.values)
                for row, value in found.unfit.items():
                    unfit.setdefault(row, {})[column.name] = value
            rows = len(block[0])
            if unfit:
                said = pa.array(
                    [canonical(unfit[row]) if row in unfit else None for row in range(rows)], pa.string()
                )
            else:
                said = pa.nulls(rows, pa.string())
            yield pa.RecordBatch.from_arrays([*arrays, said], schema=self.schema)

    def _asked(self, names: Iterable[str]) -> str:
        return ", ".join(self._declared[name].asked(f"t.{quoted(name)}") for name in names)

    def _rows(self, query: str) -> Iterator[list[pa.Array]]:
        try:
            with self._source.opened.cursor() as cursor:
                text = cursor.mogrify(query, tuple(self._values))
            self._is_reading = True
            yield from stream(self._source.opened, text)
            self._is_reading = False
        except (pymysql.MySQLError, OSError) as error:
            raise told(error, self._where) from None

    def _count(self) -> Facts:
        summed = [field.name for field in self.schema if summable(field.type)]
        sums = "".join(
            f", sum(if(t.{name} < {UNSIGNED_BEYOND}, t.{name}, null))" if beyond else f", sum(t.{name})"
            for name, beyond in ((quoted(name), self._declared[name].may_be_beyond) for name in summed)
        )
        rows, *totals = self._source.ask(
            f"select count(*){sums} from {self._from}", self._values, self._where
        )[0]
        told_ = {n: None if t is None else canonical_number(t) for n, t in zip(summed, totals, strict=True)}
        return Facts(rows, told_)
