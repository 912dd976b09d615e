# pyright: reportAttributeAccessIssue=false
"""Incoming rows with all that joins tell: their own entry of the map, their parents' keys, rows that they match."""

import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql

from ferry.catalogue import Column
from ferry.id_map import map_table
from ferry.plan import EntityPlan
from ferry.targets.postgres.incoming import ROW, UUID5, incoming_table, old_key
from ferry.targets.types import carry, wire_type

Bounds = dict[int, tuple[int, int]]
"""Smallest and largest old key that rows refer to, by the position of the reference; whole numbers only."""


def bounds_of(plan: EntityPlan, rows: pa.Table) -> Bounds:
    """Between which old keys the parents of these rows lie, for references whose first column is a whole number."""
    found: Bounds = {}
    for position, edge in enumerate(plan.edges):
        column = rows.column(edge.source_columns[0])
        whole = pa.types.is_integer(plan.schema.field(edge.source_columns[0]).type)
        if whole and column.null_count < len(column):
            ends = pc.call_function("min_max", [column])
            found[position] = (ends["min"].as_py(), ends["max"].as_py())
    return found


def in_doubt(entity: str, alias: str) -> sql.Composed:
    """Whether a map entry is of a partition that is not as it was staged: what refers to it waits."""
    return sql.SQL(
        "{} = any(array(select u.partition from ferry.unreconciled u where u.entity = {}))"
    ).format(sql.Identifier(alias, "partition"), sql.Literal(entity))


def resolve(plan: EntityPlan, known: bool, bounds: Bounds) -> sql.Composed:
    """A query of the incoming rows with what is known of them; a row each, whatever is missing.

    Args:
        plan: the entity's.
        known: join the entity's own map, because rows may be in it.
        bounds: between which old keys parents are looked for.

    Columns: `row_no`; the old key (`k0` …) and a key that the client made (`made`); of each reference whether its
    parent has no key (`m0` …) or is in doubt (`d0` …); what the columns of the target get (`c_<column>`); the version;
    if `known`, the entry of the map (`n0` …, `status`, `known_partition`, `is_ours`, `known_version`); the key of a row
    of the target that it matches (`x0` …).
    """
    select: list[sql.Composable] = [sql.SQL("i.{} as row_no").format(sql.Identifier(ROW))]
    joins: list[sql.Composable] = []
    select += [
        sql.SQL("{} as {}").format(name, sql.Identifier(f"k{position}"))
        for position, name in enumerate(old_key(plan, "i"))
    ]
    select += _made(plan)
    filled: dict[str, list[sql.Composable]] = {}
    for position, edge in enumerate(plan.edges):
        alias = f"p{position}"
        on = [
            sql.SQL("{} = {}").format(sql.Identifier(alias, f"old_{key}"), sql.Identifier("i", name))
            for name, key in zip(edge.source_columns, edge.parent_key, strict=True)
        ]
        if position in bounds:
            # Rows come in the order of their key, and often of their parent's: a small part of its map is enough.
            first = sql.Identifier(alias, f"old_{edge.parent_key[0]}")
            low, high = map(sql.Literal, bounds[position])
            on.append(sql.SQL("{} between {} and {}").format(first, low, high))
        joins.append(
            sql.SQL("left join {} {} on {} and {} <> 'tombstone'").format(
                sql.Identifier("ferry", f"id_map_{edge.parent}"),
                sql.Identifier(alias),
                sql.SQL(" and ").join(on),
                sql.Identifier(alias, "status"),
            )
        )
        for target, new in zip(edge.target_columns, edge.parent_new_key, strict=True):
            filled.setdefault(target, []).append(sql.Identifier(alias, f"new_{new}"))
        select.append(sql.SQL("{} as {}").format(_lacks(plan, position), sql.Identifier(f"m{position}")))
        if edge.waits:
            doubt = sql.SQL("coalesce({}, false) as {}")
            select.append(doubt.format(in_doubt(edge.parent, alias), sql.Identifier(f"d{position}")))
    select += [
        sql.SQL("{} as {}").format(_referred(plan, target, news), sql.Identifier(f"c_{target}"))
        for target, news in filled.items()
    ]
    for column in plan.columns:
        if column.target not in filled:
            value = _expression(plan, column.source, plan.target.columns[column.target], column.cast)
            select.append(sql.SQL("{} as {}").format(value, sql.Identifier(f"c_{column.target}")))
    if plan.version:
        select.append(sql.SQL("{} as version").format(sql.Identifier("i", plan.version)))
    if plan.has_map and known:
        select += [
            sql.SQL("m.{} as {}").format(sql.Identifier(name), sql.Identifier(f"n{position}"))
            for position, name in enumerate(map_table(plan).new)
        ]
        select.append(
            # Without a hash the row is made up, taken back, or as it was before us.
            sql.SQL("m.status, m.partition as known_partition, m.row_hash is not null as is_ours")
        )
        if plan.version:
            select.append(sql.SQL("m.version as known_version"))
        joins.append(
            sql.SQL("left join {} m on {}").format(
                map_table(plan).identifier,
                sql.SQL(" and ").join(
                    sql.SQL("m.{} = {}").format(sql.Identifier(old), name)
                    for old, name in zip(map_table(plan).old, old_key(plan, "i"), strict=True)
                ),
            )
        )
    if plan.declaration.match:
        select += [sql.Identifier("x", f"x{position}") for position in range(len(plan.target_key))]
        joins.append(_match(plan))
    return sql.SQL("select {} from {} i {}").format(
        sql.SQL(", ").join(select), incoming_table(plan), sql.SQL(" ").join(joins)
    )


def _lacks(plan: EntityPlan, position: int) -> sql.Composed:
    """Whether an incoming row `i` refers to a parent that has no key yet."""
    edge, alias = plan.edges[position], f"p{position}"
    return sql.SQL("({} and {} is null)").format(
        sql.SQL(" and ").join(
            sql.SQL("{} is not null").format(sql.Identifier("i", name)) for name in edge.source_columns
        ),
        sql.Identifier(alias, f"new_{edge.parent_new_key[0]}"),
    )


def _referred(plan: EntityPlan, target: str, news: list[sql.Composable]) -> sql.Composable:
    """The value of a column that references fill: their parents' new key; they have to agree.

    Where the parent keeps that part of its key, the value is there without the parent too: a reference of which
    another part is NULL leads nowhere and says something all the same.
    """
    value = news[0]
    for other in news[1:]:
        value = sql.SQL(
            "case when {0} <> {1} then ferry.differ({2}, {0}) else coalesce({0}, {1}) end"
        ).format(value, other, sql.Literal(target))
    for position, edge in enumerate(plan.edges):
        kept = dict(zip(edge.target_columns, edge.kept, strict=True)).get(target)
        column = plan.target.columns[target]
        cast = carry(plan.parsed[kept], column) if kept else None
        if kept and cast is not None:
            itself = _expression(plan, kept, column, cast)
            if target in edge.own:
                itself = sql.SQL("case when not {} then {} end").format(_lacks(plan, position), itself)
            value = sql.SQL("coalesce({}, {})").format(value, itself)
    return value


def _match(plan: EntityPlan) -> sql.Composed:
    """Rows that were in the target before, found by the declared columns; those that we made do not count."""
    match = plan.declaration.match
    assert match is not None
    theirs = [sql.Identifier("x", plan.declaration.target_column(name)) for name in match.on]
    mine = [sql.Identifier("i", name) for name in match.on]
    keys = [
        sql.SQL("{} as {}").format(sql.Identifier("x", name), sql.Identifier(f"x{position}"))
        for position, name in enumerate(plan.target_key)
    ]
    made = sql.SQL(" and ").join(
        sql.SQL("q.{} = x.{}").format(sql.Identifier(new), sql.Identifier(name))
        for new, name in zip(map_table(plan).new, plan.target_key, strict=True)
    )
    on = sql.SQL(" and ").join(
        sql.SQL("x.{} = {}").format(sql.Identifier(f"y{position}"), name)
        for position, name in enumerate(mine)
    )
    return sql.SQL(
        "left join (select distinct on ({theirs}) {named}, {keys} from {target} x where ({theirs}) in"
        " (select {mine} from {incoming} i) and not exists"
        " (select from {map} q where {made} and q.status in ('inserted', 'stub', 'tombstone'))"
        " order by {theirs}, {order}) x on {on}"
    ).format(
        theirs=sql.SQL(", ").join(theirs),
        named=sql.SQL(", ").join(
            sql.SQL("{} as {}").format(name, sql.Identifier(f"y{position}"))
            for position, name in enumerate(theirs)
        ),
        keys=sql.SQL(", ").join(keys),
        target=plan.target.identifier,
        mine=sql.SQL(", ").join(mine),
        incoming=incoming_table(plan),
        map=map_table(plan).identifier,
        made=made,
        order=sql.SQL(", ").join(sql.Identifier("x", name) for name in plan.target_key),
        on=on,
    )


def _expression(plan: EntityPlan, source: str, column: Column, cast: str) -> sql.Composable:
    """The value for a target column; where types differ it gets the target's type, but never a length to cut to."""
    value = sql.Identifier("i", source)
    if cast:
        return sql.SQL("{}{}").format(value, sql.SQL(cast))  # type: ignore[arg-type]
    wire = wire_type(plan.sent.field(source).type)
    plain = {"int2": "smallint", "int4": "integer", "int8": "bigint", "numeric": "numeric", "bpchar": "bpchar",
             "float8": "double precision"}.get(column.base_type)  # fmt: skip
    if column.category == "b" and plain and plain != wire:
        return sql.SQL("{}::{}").format(value, sql.SQL(plain))  # type: ignore[arg-type]
    return value


def _made(plan: EntityPlan) -> list[sql.Composable]:
    """The key that the client made, where it does."""
    made = plan.declaration.target.key.source == "uuid5"
    return [sql.SQL("i.{} as made").format(sql.Identifier(UUID5))] if made else []
