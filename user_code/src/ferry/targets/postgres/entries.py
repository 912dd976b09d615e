"""Entries of the map that are made before their rows are loaded, beside them, or long after."""

from psycopg import sql

from ferry.id_map import map_table
from ferry.plan import EntityPlan
from ferry.targets.postgres.classify import new_key, resolved
from ferry.targets.postgres.hashes import comparable, row_hash
from ferry.targets.postgres.incoming import incoming_table, old_key
from ferry.targets.postgres.resolve import resolve


def allocate_keys(plan: EntityPlan) -> sql.Composed:
    """Give the waiting rows in the temporary table their new keys ahead of themselves."""
    made = plan.declaration.target.key.source != "natural"
    new: list[sql.Composable] = (
        [new_key(plan)] if made else [sql.Identifier("r", f"c_{name}") for name in plan.target_key]
    )
    return sql.SQL(
        "insert into {map} as m ({old}, {new_names}, status, partition) select {keys}, {new}, 'inserted',"
        " w.partition from ({resolved}) r join ferry.waiting_rows w on w.id = r.row_no"
        " on conflict ({old}) do update set status = 'inserted' where m.status = 'tombstone'"
    ).format(
        map=map_table(plan).identifier,
        old=sql.SQL(", ").join(map(sql.Identifier, map_table(plan).old)),
        new_names=sql.SQL(", ").join(map(sql.Identifier, map_table(plan).new)),
        keys=sql.SQL(", ").join(sql.Identifier("r", f"k{n}") for n in range(len(plan.source_key))),
        new=sql.SQL(", ").join(new),
        resolved=resolve(plan, False, {}),
    )


def make_stubs(plan: EntityPlan, wanted: sql.Composable, values: dict[str, object]) -> sql.Composed:
    """Insert a row of declared values for each old key in `wanted` (columns k0, k1, …), and its map entry.

    Parameter: partition. Returns the number of rows. A key that the map remembers is used again.
    """
    table = map_table(plan)
    old = [sql.Identifier("r", f"k{position}") for position in range(len(table.old))]
    if plan.declaration.target.key.source == "natural":
        into = {
            plan.declaration.target_column(name): key for name, key in zip(plan.source_key, old, strict=True)
        }
        new: list[sql.Composable] = [
            sql.SQL("{}::{}").format(into[name], sql.SQL(plan.target.columns[name].type))  # type: ignore[arg-type]
            for name in plan.target_key
        ]
    else:
        new = [sql.SQL("coalesce(m.{}, {})").format(sql.Identifier(table.new[0]), new_key(plan))]
    given = [
        sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(plan.target.columns[name].type))  # type: ignore[arg-type]
        for name, value in values.items()
    ]
    keys = [sql.Identifier("s", f"s{position}") for position in range(len(new))]
    return sql.SQL(
        "with s as materialized (select r.*, {named} from ({wanted}) r left join {map} m on {on}),"
        " ins as (insert into {target} ({columns}) overriding system value select {values} from s returning 1),"
        " mapped as (insert into {map} ({old}, {new}, status, partition) select {old_keys}, {keys}, 'stub',"
        " %(partition)s from s on conflict ({old}) do update set status = 'stub', partition = excluded.partition)"
        " select count(*) from ins"
    ).format(
        named=sql.SQL(", ").join(
            sql.SQL("{} as {}").format(one, sql.Identifier(f"s{position}"))
            for position, one in enumerate(new)
        ),
        wanted=wanted,
        map=table.identifier,
        on=sql.SQL(" and ").join(
            sql.SQL("m.{} = {}").format(sql.Identifier(name), key)
            for name, key in zip(table.old, old, strict=True)
        ),
        target=plan.target.identifier,
        columns=sql.SQL(", ").join(map(sql.Identifier, (*plan.target_key, *values))),
        values=sql.SQL(", ").join([*keys, *given]),
        old=sql.SQL(", ").join(map(sql.Identifier, table.old)),
        new=sql.SQL(", ").join(map(sql.Identifier, table.new)),
        old_keys=sql.SQL(", ").join(sql.Identifier("s", f"k{n}") for n in range(len(old))),
        keys=sql.SQL(", ").join(keys),
    )


def claim_entries(plan: EntityPlan) -> sql.Composed:
    """Give incoming rows the map entry of the row of the target that is theirs, where that is certain.

    A row is theirs if it has their key, where the old key tells that, or else is the only one that equals them in
    all that is written, and has no entry. Where the map knows rows that were there before, this may be one, and is
    not taken back. Parameter: partition.
    """
    told = plan.declaration.target.key.source in ("natural", "uuid5")
    names = plan.target_key if told else [n for n in plan.written if n not in plan.target_key]
    sides = [
        sql.SQL("hash_record_extended(row({}), 0)").format(
            sql.SQL(", ").join(comparable(plan, alias, name) for name in names)
        )
        for alias in ("t", "c")
    ]
    same = [
        sql.SQL("{} is not distinct from {}").format(comparable(plan, "t", n), comparable(plan, "c", n))
        for n in names
    ]
    return sql.SQL(
        "insert into {map} ({old}, {new}, status, partition, row_hash) select {old_keys}, {new_keys},"
        " (case when exists (select from {map} where status = 'preserved') then 'preserved' else 'inserted' end)"
        "::ferry.map_status, %(partition)s, there from (select c.*, {keys}, {hash} as there, count(*) over"
        " (partition by c.row_no) of_theirs, count(*) over (partition by {key}) of_ours"
        " from ({resolved}) c join {target} t on {same} where not exists (select from {map} q where {claimed}))"
        " x where of_theirs = 1 and of_ours = 1"
    ).format(
        map=map_table(plan).identifier,
        old=sql.SQL(", ").join(map(sql.Identifier, map_table(plan).old)),
        new=sql.SQL(", ").join(map(sql.Identifier, map_table(plan).new)),
        old_keys=sql.SQL(", ").join(sql.Identifier("x", f"k{n}") for n in range(len(plan.source_key))),
        new_keys=sql.SQL(", ").join(sql.Identifier("x", f"t{n}") for n in range(len(plan.target_key))),
        keys=sql.SQL(", ").join(
            sql.SQL("t.{} as {}").format(sql.Identifier(name), sql.Identifier(f"t{n}"))
            for n, name in enumerate(plan.target_key)
        ),
        key=sql.SQL(", ").join(sql.Identifier("t", name) for name in plan.target_key),
        hash=row_hash(plan, "t"),
        resolved=resolved(plan),
        target=plan.target.identifier,
        same=sql.SQL(" and ").join([sql.SQL("{} = {}").format(*sides), *same]),
        claimed=sql.SQL(" and ").join(
            sql.SQL("q.{} = t.{}").format(sql.Identifier(new), sql.Identifier(name))
            for new, name in zip(map_table(plan).new, plan.target_key, strict=True)
        ),
    )


def forget_mapped(plan: EntityPlan) -> sql.Composed:
    """Remove the incoming rows whose old key is in the map."""
    return sql.SQL("delete from {} i using {} m where {}").format(
        incoming_table(plan),
        map_table(plan).identifier,
        sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier("m", old), name)
            for old, name in zip(map_table(plan).old, old_key(plan, "i"), strict=True)
        ),
    )
