"""The load statement: one statement sorts a chunk's rows by outcome and writes them all.

It writes map, target, waiting rows and deferred references, and returns the counts and the two hashes (of what was to
be written, of what the target says it holds) that the accounting and the hash check compare before the commit.
"""

from psycopg import sql

from ferry.id_map import map_table
from ferry.plan import EntityPlan
from ferry.row_hashes import added_up
from ferry.targets.postgres.classify import classify, resolved
from ferry.targets.postgres.hashes import holds_what_is_sent, new_key_text, row_hash
from ferry.targets.postgres.resolve import Bounds, resolve
from ferry.targets.postgres.waiting import defer, wait, wait_on


def load_chunk(
    plan: EntityPlan,
    *,
    known: bool,
    settling: bool = False,
    as_null: frozenset[int] = frozenset(),
    bounds: Bounds | None = None,
) -> sql.Composed:
    """The statement itself.

    Args:
        known: join map and target, because rows may be there already.
        settling: the rows come from `ferry.waiting_rows`: those that still wait stay there, the others go.
        as_null: positions of references whose missing parent becomes NULL now (`on_missing: set_null`).
        bounds: the smallest and the largest old key that the rows refer to, by the reference's position.

    Parameters of the statement: entity, partition, chunk, run_id (named).

    Returns one row: how many were to be inserted, and were; were updated, were known (updated ones among them), were
    preserved, wait; the hash of what was to be written, of what was, and of all that should be there. If `settling`,
    also the counts and hashes by partition, chunk and outcome.
    """
    ctes: list[sql.Composable] = [
        # What may be known is resolved before it is compared: as one query, its joins are estimated too badly.
        sql.SQL("r as {} ({})").format(
            sql.SQL("materialized" if known else "not materialized"), resolve(plan, known, bounds or {})
        ),
        sql.SQL("c as materialized ({})").format(classify(plan, known, as_null, _place(settling, "r"))),
    ]
    if plan.has_map:
        ctes += [
            _map_insert(plan, known, settling),
            *([_map_update(plan, settling)] if known else []),
        ]
    ctes.append(_insert(plan))
    updates = known and bool(_changeable(plan))
    if updates:
        ctes += [_image(plan, settling), _update(plan)]
    if settling:
        ctes.append(
            sql.SQL(
                "gone as (delete from ferry.waiting_rows w using c where w.id = c.row_no and"
                " c.outcome <> 'waiting' returning w.partition, w.chunk, c.outcome, c.hash)"
            )
        )
        ctes.append(wait_on(plan, as_null))
    else:
        ctes.append(wait(plan))
    ctes += [cte for position, edge in enumerate(plan.edges) for cte in defer(plan, position, edge, known)]
    # One scan over each result: a scan for each number would cost as much as the insert.
    returned = sql.SQL("count(*), {}").format(
        sql.SQL("0") if holds_what_is_sent(plan) else added_up(sql.SQL("hash"))
    )
    changes = (
        sql.SQL("(select {} from upd)").format(returned) if updates else sql.SQL("(select 0::bigint, 0)")
    )
    present = sql.SQL(
        "coalesce(sum(hash) filter (where outcome in ('insert', 'known')), 0)" if known else "null::numeric"
    )
    return sql.SQL(
        "with {ctes} select c.inserts, i.rows, u.rows, c.known, c.preserved, c.waiting, c.wanted,"
        " {written}, coalesce(c.present, c.wanted){by_chunk} from"
        " (select count(*) filter (where outcome = 'insert') inserts,"
        " count(*) filter (where outcome = 'known') known,"
        " count(*) filter (where outcome = 'preserved') preserved,"
        " count(*) filter (where outcome = 'waiting') waiting,"
        " coalesce(sum(hash) filter (where outcome = 'insert' or outcome = 'known' and changed), 0) wanted,"
        " {present} present from c) c, (select {returned} from ins) i (rows, hash), {changes} u (rows, hash)"
    ).format(
        ctes=sql.SQL(", ").join(ctes),
        written=sql.SQL("c.wanted" if holds_what_is_sent(plan) else "i.hash + u.hash"),
        present=present,
        returned=returned,
        changes=changes,
        by_chunk=sql.SQL(
            ", (select coalesce(jsonb_agg(to_jsonb(g)), '[]') from (select partition, chunk, outcome,"
            " count(*) n,"
            " sum(hash) filter (where outcome in ('insert', 'known'))::text hash from gone group by 1, 2, 3) g)"
        )
        if settling
        else sql.SQL(""),
    )


def _place(settling: bool, row: str = "c") -> sql.Composable:
    """The partition of a row: the statement's, or the one in which the row waited."""
    if not settling:
        return sql.SQL("%(partition)s::text")
    return sql.SQL("(select w.partition from ferry.waiting_rows w where w.id = {})").format(
        sql.Identifier(row, "row_no")
    )


def _map_insert(plan: EntityPlan, known: bool, settling: bool) -> sql.Composed:
    old = [sql.Identifier("c", f"k{position}") for position in range(len(plan.source_key))]
    new = [sql.Identifier("c", f"c_{name}") for name in plan.target_key]
    return sql.SQL(
        "map_ins as (insert into {} ({}, {}, status, partition, row_hash{}) select {}, {},"
        " (case when c.outcome = 'insert' then 'inserted' else 'preserved' end)::ferry.map_status,"
        " {}, case when c.outcome <> 'preserved' then c.hash end{}"
        " from c where c.outcome in ('insert', 'preserved', 'known'){})"
    ).format(
        map_table(plan).identifier,
        sql.SQL(", ").join(map(sql.Identifier, map_table(plan).old)),
        sql.SQL(", ").join(map(sql.Identifier, map_table(plan).new)),
        sql.SQL(", version" if plan.version else ""),
        sql.SQL(", ").join(old),
        sql.SQL(", ").join(new),
        _place(settling),
        sql.SQL(", c.version" if plan.version else ""),
        sql.SQL(" and c.n0 is null" if known else ""),
    )


def _map_update(plan: EntityPlan, settling: bool) -> sql.Composed:
    on = sql.SQL(" and ").join(
        sql.SQL("m.{} = c.{}").format(sql.Identifier(old), sql.Identifier(f"k{position}"))
        for position, old in enumerate(map_table(plan).old)
    )
    return sql.SQL(
        "map_upd as (update {map} m set partition = {place}, row_hash = case when c.outcome = 'preserved'"
        " then m.row_hash else c.hash end{version}, status = (case when c.outcome = 'insert' or m.status = 'stub'"
        " then 'inserted' else m.status::text end)::ferry.map_status from c where {on} and c.n0 is not null and"
        " not c.outdated and c.outcome in ('insert', 'known', 'preserved') and (m.partition <> {place} or c.changed"
        " or c.outcome = 'insert' or m.status = 'stub'"
        # Other columns than the last time have another hash, though the row is unchanged.
        " or c.outcome = 'known' and m.row_hash is distinct from c.hash{newer}))"
    ).format(
        map=map_table(plan).identifier,
        on=on,
        place=_place(settling),
        version=sql.SQL(", version = c.version" if plan.version else ""),
        newer=sql.SQL(" or m.version is distinct from c.version" if plan.version else ""),
    )


def _insert(plan: EntityPlan) -> sql.Composed:
    columns = list(dict.fromkeys((*plan.target_key, *plan.written)))
    return sql.SQL(
        "ins as (insert into {target} as t ({columns}) overriding system value select {values} from c"
        " where c.outcome = 'insert' returning {hash})"
    ).format(
        target=plan.target.identifier,
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(sql.Identifier("c", f"c_{name}") for name in columns),
        hash=_returned(plan),
    )


def _image(plan: EntityPlan, settling: bool) -> sql.Composed:
    """What a row that was there before held, kept before a partition changes it: rollback restores it.

    Not if that partition was the last to change it: what it held in between is nobody's.
    """
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
        for name in plan.target_key
    )
    if plan.has_map:
        theirs: sql.Composable = sql.SQL("(c.n0 is null or c.status = 'preserved')")
    else:
        theirs = sql.SQL("exists (select from {} f where {})").format(
            sql.Identifier("ferry", f"found_{plan.name}"),
            sql.SQL(" and ").join(
                sql.SQL("f.{0} = t.{0}").format(sql.Identifier(name)) for name in plan.target_key
            ),
        )
    return sql.SQL(
        "imaged as (insert into ferry.before_images (entity, partition, key, row)"
        " select %(entity)s, {place}, {key}, to_jsonb(t.*) from c join {target} t on {on}"
        " where c.outcome = 'known' and c.changed and {theirs} and {place} is distinct from"
        " (select b.partition from ferry.before_images b where b.entity = %(entity)s and b.key = {key}"
        " order by b.id desc limit 1))"
    ).format(
        place=_place(settling),
        key=new_key_text(plan, "t"),
        target=plan.target.identifier,
        on=on,
        theirs=theirs,
    )


def _update(plan: EntityPlan) -> sql.Composed:
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
        for name in plan.target_key
    )
    sets = sql.SQL(", ").join(
        sql.SQL("{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
        for name in _changeable(plan)
    )
    return sql.SQL(
        "upd as (update {} t set {} from c where {} and c.outcome = 'known' and c.changed returning {})"
    ).format(plan.target.identifier, sets, on, _returned(plan))


def _returned(plan: EntityPlan) -> sql.Composable:
    """What a write gives back of each row: the hash of what is there now, unless that is known."""
    return sql.SQL("1") if holds_what_is_sent(plan) else sql.SQL("{} as hash").format(row_hash(plan, "t"))


def hash_held(plan: EntityPlan) -> sql.Composed:
    """The sum of the hashes of the rows that stand in the target where the incoming ones belong."""
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
        for name in plan.target_key
    )
    return sql.SQL("select {} from ({}) c join {} t on {}").format(
        added_up(row_hash(plan, "t")), resolved(plan), plan.target.identifier, on
    )


def _changeable(plan: EntityPlan) -> tuple[str, ...]:
    """The columns in which a row that is there may differ; a table that only links others has none."""
    return tuple(name for name in plan.written if name not in plan.target_key)
