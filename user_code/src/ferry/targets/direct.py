# pyright: reportAttributeAccessIssue=false
"""The short way of a first load: rows go into the target's table by `COPY`, with new keys and parents filled in.

The load statement (`ferry.targets.postgres`) sorts a chunk's rows by outcome, and for that they lie in a temporary
table first. Where nothing of a partition was loaded before, almost every row is inserted, and all that is left to do
can be done while they are encoded: draw their keys from the target's sequence, look their parents up in the maps.

Whatever is otherwise shows itself, and takes the long way: a key that is there already breaks a unique constraint, a
value that the target refuses breaks the `COPY`, and rows whose parent has no key yet are named in the result. The hash
is the source's own where its rows hash as those of the target do, else that of what the target holds afterwards.
"""

import functools
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql

from ferry.arrow import array_of, constant, numbers_of
from ferry.edges import EdgePlan
from ferry.id_map import map_table
from ferry.plan import EntityPlan
from ferry.row_hashes import WAY, SourceHashes, added_up, sum_of
from ferry.targets.binary import copy_in, read_numbers, sent_as, since_2000
from ferry.targets.postgres.hashes import hashed_alike, holds_what_is_sent, row_hash
from ferry.targets.postgres.resolve import in_doubt
from ferry.targets.types import wire_type

_INTEGERS = {"int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64()}
_AS_THEY_ARE = {
    **_INTEGERS, "float4": pa.float32(), "float8": pa.float64(), "bool": pa.bool_(), "text": pa.string(),
    "varchar": pa.string(), "bytea": pa.binary(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"), "time": pa.time64("us"),
}  # fmt: skip
"""Types of a target column, and the Arrow type whose binary form is theirs."""

# What lies between two keys is read as a whole if it is hardly more than so many rows for each that is wanted.
_DENSE = 4


class OtherwiseError(Exception):
    """The rows are not what the short way takes; nothing may be kept of them."""


@dataclass(frozen=True)
class Written:
    """What a direct load did: rows written, the sum of their hashes, and the numbers of rows that it left alone."""

    rows: int
    row_hash: Decimal
    left: np.ndarray


def writes_directly(plan: EntityPlan) -> bool:
    """Whether an entity's first load may take the short way.

    The target holds what it is sent (`holds_what_is_sent`), its binary types are those of the rows, keys are natural or
    come from a sequence, no row is matched, no version of a row is kept beside its key, and every reference waits for
    a whole number of another entity, in a column of its own.
    """
    key = plan.declaration.target.key
    columns = plan.target.columns
    made = key.source == "identity" and columns[plan.target_key[0]].base_type in _INTEGERS
    return (
        holds_what_is_sent(plan)
        and not plan.declaration.match
        and not plan.version
        and not plan.ahead
        and not plan.later
        and (made or key.source == "natural")
        and all(_looked_up(plan, edge) for edge in plan.edges)
        and len({name for edge in plan.edges for name in edge.target_columns}) == len(plan.edges)
        and all(_encodes(plan, one.source, one.target) for one in plan.columns)
    )


def _looked_up(plan: EntityPlan, edge: EdgePlan) -> bool:
    """Whether a reference is one whole number that becomes another one."""
    return (
        len(edge.source_columns) == len(edge.target_columns) == 1
        and edge.waits
        and edge.parent != plan.name
        and plan.sent.field(edge.source_columns[0]).type in _INTEGERS.values()
        and plan.target.columns[edge.target_columns[0]].base_type in _INTEGERS
    )


def _encodes(plan: EntityPlan, source: str, target: str) -> bool:
    """Whether a column's values are, in binary, what the target stores."""
    type_, column = plan.sent.field(source).type, plan.target.columns[target]
    if pa.types.is_decimal(type_):
        return column.base_type == "numeric"
    if type_ in _INTEGERS.values():
        return column.base_type in _INTEGERS
    if column.base_type == "varchar" and column.length is not None:
        # Of text that is too long, PostgreSQL cuts off blanks at the end without a word.
        there = plan.parsed.get(source)
        return there is not None and there.length is not None and there.length <= column.length
    return _AS_THEY_ARE.get(column.base_type) == type_


class DirectLoad:
    """Writes accepted rows of an entity for the first time, over one connection."""

    def __init__(self, plan: EntityPlan, connection: psycopg.Connection) -> None:
        """Args: the entity's plan (`writes_directly` must hold), and the target's connection."""
        self.plan, self.connection = plan, connection
        self._end = 0

    @functools.cached_property
    def _way(self) -> str | None:
        """How the target hashes its rows (`WAY`); None if they never hash to what those of the source do."""
        if not hashed_alike(self.plan):
            return None
        row = self.connection.execute(
            sql.SQL(
                "select {} where not exists (select from pg_attribute a join pg_collation c on c.oid = a.attcollation"
                " where a.attrelid = %s::regclass and not c.collisdeterministic)"
            ).format(WAY),
            (self.plan.target.identifier.as_string(self.connection),),
        ).fetchone()
        return row[0] if row else None

    def write(
        self, table: pa.Table, numbers: np.ndarray, partition: str, hashes: SourceHashes | None = None
    ) -> Written:
        """Write rows in the open transaction, which must have no savepoint: its id tells the rows afterwards.

        Args:
            table: the rows, with the columns of `EntityPlan.sent`.
            numbers: which of them; rows whose parent has no new key are left alone.
            partition: what the map records.
            hashes: of all rows of the table, as the source has them. Where the target's are the same, its own are
                not computed now: reconciliation holds what it has against those of the source.

        Raises:
            OtherwiseError: the rows do not fit, or the target holds another number of them. Roll back.
            psycopg.Error: the target refused them. Roll back.
        """
        plan = self.plan
        parents = {edge.target_columns[0]: self._parents(edge, table, numbers) for edge in plan.edges}
        missing = np.zeros(len(numbers), dtype=bool)
        for _, absent in parents.values():
            missing |= absent
        take, left = numbers[~missing], numbers[missing]
        if not len(take):
            return Written(0, Decimal(0), left)
        rows = table if len(take) == table.num_rows else table.take(array_of(take))
        filled = {name: new.filter(array_of(~missing)) for name, (new, _) in parents.items()}
        keys = self._keys(len(take))
        if keys is not None:
            filled[plan.target_key[0]] = keys
        columns = self._filled(rows, filled)
        mine: sql.Composable | pa.ChunkedArray
        if hashes and hashes.way == self._way:
            mine = hashes.values if len(take) == table.num_rows else hashes.values.take(array_of(take))
        else:
            mine = self._mine(columns[plan.target_key[0]])
        copied = self._copy(columns)
        if plan.has_map:
            written, row_hash = self._mapped(rows, columns, partition, mine)
        elif isinstance(mine, sql.Composable):
            written, row_hash = self._hashed(mine)
        else:
            written, row_hash = copied, Decimal(sum_of(mine))
        if not copied == written == len(take):
            raise OtherwiseError(f"{written} of {len(take)} rows are where they should be")
        return Written(written, row_hash, left)

    def _parents(self, edge: EdgePlan, table: pa.Table, numbers: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Of each row the parent's new key (int64, NULL where there is none), and where one should be and is not."""
        old = table.column(edge.source_columns[0]).combine_chunks()
        if len(numbers) != table.num_rows:
            old = old.take(array_of(numbers))
        absent = numbers_of(old.is_null())
        if absent.all():
            return pa.nulls(len(old), pa.int64()), np.zeros(len(old), dtype=bool)
        there, new = self._pairs(edge, old)
        order = np.argsort(there, kind="stable")
        there, new = there[order], new[order]
        if not len(there):
            return pa.nulls(len(old), pa.int64()), ~absent
        wanted = numbers_of(pc.fill_null(pc.cast(old, pa.int64()), constant(0, pa.int64())))
        position = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
        found = (there[position] == wanted) & ~absent
        keys = pc.if_else(array_of(found), array_of(new[position]), constant(None, pa.int64()))
        return keys, ~found & ~absent

    def _pairs(self, edge: EdgePlan, wanted: pa.Array) -> list[np.ndarray]:
        """Old and new keys of a parent, in any order; at least those of the old keys that are wanted."""
        parent = sql.Identifier("ferry", f"id_map_{edge.parent}")
        old, new = (
            sql.Identifier("p", name)
            for name in (f"old_{edge.parent_key[0]}", f"new_{edge.parent_new_key[0]}")
        )
        low, high = _ends(wanted)
        if high - low < _DENSE * len(wanted):
            narrowed = sql.SQL("{} p where {} between {} and {}").format(
                parent, old, sql.Literal(low), sql.Literal(high)
            )
        else:
            each = wanted.drop_null().unique().to_pylist()
            listed = sql.Literal("{" + ",".join(map(str, each)) + "}")
            narrowed = sql.SQL("unnest({}::bigint[]) k join {} p on {} = k where true").format(
                listed, parent, old
            )
        return read_numbers(
            self.connection,
            sql.SQL(
                "select {}::bigint as n0, {}::bigint as n1 from {} and p.status <> 'tombstone' and not {}"
            ).format(old, new, narrowed, in_doubt(edge.parent, "p")),
            2,
        )

    def _keys(self, rows: int) -> pa.Array | None:
        """New keys from the target's sequence, None where the key is natural."""
        if self.plan.declaration.target.key.source == "natural":
            return None
        sequence = sql.Literal(self.plan.target.columns[self.plan.target_key[0]].sequence)
        drawn = sql.SQL("select nextval({}::regclass) as n0 from generate_series(1, {})").format(
            sequence, sql.Literal(rows)
        )
        return array_of(read_numbers(self.connection, drawn, 1)[0])

    def _mine(self, keys: pa.Array | pa.ChunkedArray) -> sql.Composable:
        """Which rows `t` this transaction writes, where `keys` is the first column of their key; called before.

        Their key tells where they are if it is a whole number and the rows lie close together. Otherwise it is the end
        of the table, as it was when the `COPY` before this one began; now and then a short row fits in further to the
        front, and then they do not add up.
        """
        place: sql.Composable
        if keys.null_count:
            raise OtherwiseError("a key is NULL")
        low, high = _ends(keys) if pa.types.is_integer(keys.type) else (0, 0)
        if low < high < low + _DENSE * len(keys):
            place = sql.SQL("{} between {} and {}").format(
                sql.Identifier("t", self.plan.target_key[0]), sql.Literal(low), sql.Literal(high)
            )
        else:
            row = self.connection.execute(
                "select pg_relation_size(%s::regclass) / current_setting('block_size')::int",
                (self.plan.target.identifier.as_string(self.connection),),
            ).fetchone()
            assert row is not None
            place = sql.SQL("t.ctid >= {}::tid").format(sql.Literal(f"({self._end},0)"))
            self._end = int(row[0])
        return sql.SQL("{} and t.xmin = pg_current_xact_id()::xid").format(place)

    def _filled(self, rows: pa.Table, filled: dict[str, pa.Array]) -> dict[str, pa.ChunkedArray]:
        """The columns of the target with the values that they get, in the target's types."""
        carried = {one.target: one.source for one in self.plan.columns}
        columns = {}
        for name in dict.fromkeys((*self.plan.target_key, *self.plan.written)):
            column = filled[name] if name in filled else rows.column(carried[name])
            base = self.plan.target.columns[name].base_type
            try:
                column = pc.cast(column, _INTEGERS[base]) if base in _INTEGERS else column
            except pa.ArrowInvalid as error:
                raise OtherwiseError(str(error)) from None
            columns[name] = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
        return columns

    def _copy(self, columns: dict[str, pa.ChunkedArray]) -> int:
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        return copy_in(
            self.connection, sql.SQL("{} ({})").format(self.plan.target.identifier, names), _encoded(columns)
        )

    def _hashed(self, mine: sql.Composable) -> tuple[int, Decimal]:
        """Number and hashes of the rows that this transaction has put into the target."""
        row = self.connection.execute(
            sql.SQL("select count(*), {} from {} t where {}").format(
                added_up(row_hash(self.plan, "t")), self.plan.target.identifier, mine
            )
        ).fetchone()
        assert row is not None
        return row[0], Decimal(row[1])

    def _mapped(
        self,
        rows: pa.Table,
        columns: dict[str, pa.ChunkedArray],
        partition: str,
        mine: sql.Composable | pa.ChunkedArray,
    ) -> tuple[int, Decimal]:
        """The same, and an entry of the map for each, with its hash; `mine` may be the hashes themselves."""
        plan, map_ = self.plan, map_table(self.plan)
        pairs = sql.Identifier("pg_temp", f"pairs_{plan.name}"[:63])
        keys = {
            **{name: rows.column(key) for name, key in zip(map_.old, plan.source_key, strict=True)},
            **{name: columns[key] for name, key in zip(map_.new, plan.target_key, strict=True)},
        }
        self.connection.execute(
            sql.SQL("create temporary table if not exists {} ({}) on commit delete rows").format(
                sql.Identifier(f"pairs_{plan.name}"[:63]),
                sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(wire_type(key.type)))  # type: ignore[arg-type]
                    for name, key in {**keys, "row_hash": pa.nulls(0, pa.int64())}.items()
                ),
            )
        )
        told = not isinstance(mine, sql.Composable)
        sent = {**keys, "row_hash": mine} if told else keys
        copy_in(
            self.connection,
            sql.SQL("{} ({})").format(pairs, sql.SQL(", ").join(map(sql.Identifier, sent))),
            _encoded(sent),
        )
        names = sql.SQL(", ").join(map(sql.Identifier, (*map_.old, *map_.new)))
        on = sql.SQL(" and ").join(
            sql.SQL("t.{} = k.{}").format(sql.Identifier(name), sql.Identifier(new))
            for name, new in zip(plan.target_key, map_.new, strict=True)
        )
        row = self.connection.execute(
            sql.SQL(
                "with made as (insert into {map} ({names}, status, partition, row_hash)"
                " select {picked}, 'inserted', %s, {hashed} returning row_hash) select count(*), {total} from made"
            ).format(
                map=map_.identifier,
                names=names,
                picked=sql.SQL(", ").join(sql.Identifier("k", name) for name in (*map_.old, *map_.new)),
                hashed=sql.SQL("k.row_hash from {} k").format(pairs)
                if told
                else sql.SQL("{} from {} t join {} k on {} where {}").format(
                    row_hash(self.plan, "t"), plan.target.identifier, pairs, on, mine
                ),
                total=added_up(sql.SQL("row_hash")),
            ),
            (partition,),
        ).fetchone()
        assert row is not None
        return row[0], Decimal(row[1])


def _ends(keys: pa.Array | pa.ChunkedArray) -> tuple[int, int]:
    """The smallest and the largest of whole numbers, of which one at least is not NULL."""
    ends = pc.call_function("min_max", [keys])
    return ends["min"].as_py(), ends["max"].as_py()


def _encoded(columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    """Columns as `copy_in` takes them."""
    fields = [sent_as(pa.field(name, column.type)) for name, column in columns.items()]
    return pa.table(list(map(since_2000, columns.values())), schema=pa.schema(fields))
