"""What has to wait for a parent: a row that has no new key for it, and a reference that is NULL until there is one."""

from psycopg import sql

from ferry.catalogue import as_text
from ferry.edges import EdgePlan
from ferry.id_map import deferred_table, map_table
from ferry.plan import EntityPlan
from ferry.row_hashes import added_up
from ferry.targets.postgres.hashes import row_hash
from ferry.targets.postgres.incoming import incoming_table, old_key_text
from ferry.targets.postgres.resolve import resolve


def missing_parents(plan: EntityPlan, as_null: frozenset[int] = frozenset()) -> sql.Composed:
    """The parents that a row `c`, with its incoming row `i`, waits for: an array of `<entity> <old key>`."""
    each = [
        sql.SQL("case when c.{} or c.{} then {} || (array[{}])::text end").format(
            sql.Identifier(f"m{position}"),
            sql.Identifier(f"d{position}"),
            sql.Literal(f"{edge.parent} "),
            sql.SQL(", ").join(
                as_text(sql.Identifier("i", n), plan.sent.field(n).type) for n in edge.source_columns
            ),
        )
        for position, edge in enumerate(plan.edges)
        if edge.waits and position not in as_null
    ]
    return sql.SQL("array_remove(array[{}]::text[], null)").format(sql.SQL(", ").join(each))


def wait(plan: EntityPlan) -> sql.Composed:
    """The part of the load statement that keeps the rows that wait."""
    return sql.SQL(
        "waits as (insert into ferry.waiting_rows (entity, partition, chunk, row_no, key, missing, row, run_id)"
        " select %(entity)s, %(partition)s, %(chunk)s, c.row_no, {}, {}, to_jsonb(i.*) - '#row_no', %(run_id)s"
        " from c join {} i on i.\"#row_no\" = c.row_no where c.outcome = 'waiting')"
    ).format(old_key_text(plan, "i"), missing_parents(plan), incoming_table(plan))


def wait_on(plan: EntityPlan, as_null: frozenset[int]) -> sql.Composed:
    """The same where the rows have waited already: one that goes on may have found one of its parents meanwhile."""
    return sql.SQL(
        "waits as (update ferry.waiting_rows w set missing = {missing}"
        ' from c join {incoming} i on i."#row_no" = c.row_no'
        " where w.id = c.row_no and c.outcome = 'waiting' and w.missing <> {missing})"
    ).format(missing=missing_parents(plan, as_null), incoming=incoming_table(plan))


def note_missing(plan: EntityPlan, as_null: frozenset[int]) -> sql.Composed:
    """Say anew, of the waiting rows in the temporary table, which parents have no key yet."""
    return sql.SQL(
        "with c as ({resolved}) update ferry.waiting_rows w set missing = {missing}"
        ' from c join {incoming} i on i."#row_no" = c.row_no where w.id = c.row_no and w.missing <> {missing}'
    ).format(
        resolved=resolve(plan, False, {}),
        missing=missing_parents(plan, as_null),
        incoming=incoming_table(plan),
    )


def defer(plan: EntityPlan, position: int, edge: EdgePlan, known: bool) -> list[sql.Composable]:
    """The parts of the load statement that keep the references of this edge that are NULL first, and forget others."""
    if edge not in plan.later:
        return []
    table = deferred_table(plan, edge)
    mine = [sql.Identifier("c", f"c_{name}") for name in plan.target_key]
    parents = [sql.Identifier(f"parent_{n}") for n in range(len(edge.source_columns))]
    out: list[sql.Composable] = [
        sql.SQL(
            "defer{n} as (insert into {table} ({new}, {parents}) select {mine}, {theirs} from c join {incoming} i"
            ' on i."#row_no" = c.row_no where c.{missing} and not c.outdated and c.outcome in'
            " ('insert', 'known') on conflict ({new}) do update set ({parents}) = row({excluded}))"
        ).format(
            n=sql.SQL(str(position)),  # type: ignore[arg-type]
            table=table,
            new=sql.SQL(", ").join(map(sql.Identifier, map_table(plan).new)),
            parents=sql.SQL(", ").join(parents),
            mine=sql.SQL(", ").join(mine),
            theirs=sql.SQL(", ").join(sql.Identifier("i", name) for name in edge.source_columns),
            incoming=incoming_table(plan),
            missing=sql.Identifier(f"m{position}"),
            excluded=sql.SQL(", ").join(
                sql.SQL("excluded.{}").format(sql.Identifier(f"parent_{n}"))
                for n in range(len(edge.source_columns))
            ),
        )
    ]
    if known:
        out.append(
            sql.SQL(
                "undefer{n} as (delete from {table} d using c where ({news}) = ({mine})"
                " and not c.{missing} and not c.outdated)"
            ).format(
                n=sql.SQL(str(position)),  # type: ignore[arg-type]
                table=table,
                news=sql.SQL(", ").join(sql.Identifier("d", name) for name in map_table(plan).new),
                mine=sql.SQL(", ").join(mine),
                missing=sql.Identifier(f"m{position}"),
            )
        )
    return out


def link_deferred(plan: EntityPlan, edge: EdgePlan) -> sql.Composed:
    """Fill in deferred references whose parent has a key by now; returns how many, and the hashes are renewed.

    Without a map there is no hash of a row, but the sum of all in the ledger: any chunk of it takes the difference.
    """
    table = deferred_table(plan, edge)
    parent = sql.Identifier("ferry", f"id_map_{edge.parent}")
    mine = sql.SQL(" and ").join(
        sql.SQL("t.{} = d.{}").format(sql.Identifier(target), sql.Identifier(name))
        for target, name in zip(plan.target_key, map_table(plan).new, strict=True)
    )
    theirs = sql.SQL(" and ").join(
        sql.SQL("p.{} = d.{}").format(sql.Identifier(f"old_{name}"), sql.Identifier(f"parent_{position}"))
        for position, name in enumerate(edge.parent_key)
    )
    sets = sql.SQL(", ").join(
        sql.SQL("{} = p.{}").format(sql.Identifier(target), sql.Identifier(f"new_{name}"))
        for target, name in zip(edge.target_columns, edge.parent_new_key, strict=True)
        if target in edge.own
    )
    news = sql.SQL(", ").join(sql.Identifier("d", name) for name in map_table(plan).new)
    set_news = sql.SQL(", ").join(sql.Identifier("set", name) for name in map_table(plan).new)
    map_news = sql.SQL(", ").join(sql.Identifier("m", name) for name in map_table(plan).new)
    return sql.SQL(
        "with set as (update {target} t set {sets} from {table} d, {parent} p, {target} o"
        " where {mine} and {same} and {theirs} and p.status <> 'tombstone'"
        " returning {news}, {hash} as hash, {hash_before} as before),"
        " done as (delete from {table} d using set where ({news}) = ({set_news})),"
        " renewed as ({renewed})"
        " select count(*) from set"
    ).format(
        same=sql.SQL(" and ").join(
            sql.SQL("o.{0} = t.{0}").format(sql.Identifier(name)) for name in plan.target_key
        ),
        hash_before=row_hash(plan, "o"),
        renewed=sql.SQL(
            "update {} m set row_hash = set.hash from set where ({}) = ({}) and m.status <> 'preserved'"
        ).format(map_table(plan).identifier, map_news, set_news)
        if plan.has_map
        else sql.SQL(
            "update ferry.ledger l set row_hash = l.row_hash + (select {1} - {2}"
            " from set) where l.entity = {0} and (l.partition, l.chunk) = (select f.partition, f.chunk from"
            " ferry.ledger f where f.entity = {0} order by 1, 2 limit 1)"
        ).format(sql.Literal(plan.name), added_up(sql.SQL("hash")), added_up(sql.SQL("before"))),
        target=plan.target.identifier,
        sets=sets,
        table=table,
        parent=parent,
        mine=mine,
        theirs=theirs,
        news=news,
        hash=row_hash(plan, "t"),
        set_news=set_news,
    )
