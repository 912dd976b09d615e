"""What of a row is hashed and compared: what was written, its key included."""

from psycopg import sql

from ferry.catalogue import Column
from ferry.plan import EntityPlan
from ferry.row_hashes import SAME_HASH, hash_of_values
from ferry.sources.shape import UNFIT

HASHED = (
    "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar", "bool", "date", "timestamp",
    "timestamptz", "time", "uuid", "bytea", "inet", "cidr",
)  # fmt: skip
"""Types whose hash and equality are taken as they are; of others, their text's.

To an `interval` a month is 30 days, and to the hash of `jsonb` a number has no sign.
"""


def row_hash(plan: EntityPlan, alias: str) -> sql.Composed:
    """The 64-bit hash of the written columns of a row, key included."""
    return hash_of_values(_values(plan, alias))


def first_row_hash(plan: EntityPlan, alias: str) -> sql.Composed:
    """The same by the first formula (`row_hashes.FORMULA`)."""
    values = (value for value, _ in _values(plan, alias, (*HASHED, "jsonb")))
    return sql.SQL("hash_record_extended(row({}), 0)").format(sql.SQL(", ").join(values))


def _values(
    plan: EntityPlan, alias: str, as_they_are: tuple[str, ...] = HASHED
) -> list[tuple[sql.Composable, str]]:
    """The written columns of a row, key included, and the types that they are hashed as."""

    def value(name: str) -> tuple[sql.Composable, str]:
        column, place = plan.target.columns[name], sql.Identifier(alias, _named(alias, name))
        if column.base_type in as_they_are and column.category == "b":
            return place, column.base_type
        return sql.SQL("{}::text").format(place), "text"

    return [value(name) for name in dict.fromkeys((*plan.target_key, *plan.written))]


def hashed_alike(plan: EntityPlan) -> bool:
    """Whether a row of the target hashes to what the source's row does, on servers that hash alike (`WAY`).

    All columns of the source, in their order and as they are, are all that is written.
    """
    carried = {one.target: one.source for one in plan.columns}
    names = tuple(dict.fromkeys((*plan.target_key, *plan.written)))
    there = [column for column in plan.source.columns.values() if column.name != UNFIT]

    def alike(one: Column, other: Column) -> bool:
        exact = one.base_type != "numeric" or one.scale is not None
        return (
            exact
            and one.category == other.category == "b"
            and one.base_type in SAME_HASH
            and SAME_HASH[one.base_type] == SAME_HASH.get(other.base_type)
        )

    return (
        not plan.changes
        and not plan.edges
        and [carried.get(name) for name in names] == [column.name for column in there]
        and all(alike(one, plan.target.columns[name]) for one, name in zip(there, names, strict=True))
    )


def comparable(plan: EntityPlan, alias: str, name: str) -> sql.Composable:
    """A column that `is distinct from` can compare: types without equality are compared as text."""
    column = plan.target.columns[name]
    plain = column.base_type in HASHED or column.category == "e"
    return sql.SQL("{}" if plain else "{}::text").format(sql.Identifier(alias, _named(alias, name)))


def _named(alias: str, name: str) -> str:
    return f"c_{name}" if alias in ("r", "c") else name


def holds_what_is_sent(plan: EntityPlan) -> bool:
    """Whether the target can hold nothing else than what it is sent, or refuse it.

    No trigger, no rule, no type that rounds or pads; otherwise what it holds is hashed as well, and compared.
    """
    written = [plan.target.columns[name] for name in dict.fromkeys((*plan.target_key, *plan.written))]
    scales = {
        c.target: plan.source.columns[c.source].scale for c in plan.columns if c.source in plan.source.columns
    }

    def faithful(column: Column) -> bool:
        if column.base_type == "numeric" and column.scale is not None:
            scale = scales.get(column.name)
            return scale is not None and scale <= column.scale
        return column.base_type == "varchar" or "(" not in column.type

    return (
        plan.target.kind == "r"
        and not plan.target.intervenes
        and all(column.category == "b" and faithful(column) for column in written)
    )


def new_key_text(plan: EntityPlan, alias: str) -> sql.Composed:
    """The new key of a row as an array of text."""
    return sql.SQL("array[{}]").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(alias, n)) for n in plan.target_key)
    )
