"""Settle: load the children whose parents have come, and decide about those whose parents never will.

A row whose parent has no new key yet waits in `ferry.waiting_rows`. `settle` loads what can be loaded at any time;
only when every partition of all parents is complete by the ledger is `on_missing` applied to the rest.
"""

from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from ferry import constraints, ledger, vanished
from ferry.catalogue import as_text, connect
from ferry.circle import move, refuse, resolve
from ferry.contract.verdict import MASK
from ferry.edges import AHEAD, EdgePlan
from ferry.errors import PermanentError
from ferry.known_keys import with_known_keys
from ferry.loader import Loader
from ferry.partition import scheme_of
from ferry.plan import EntityPlan, MigrationPlan, waits_for
from ferry.settings import Settings
from ferry.targets.errors import REFUSALS, refusal, told
from ferry.targets.postgres.entries import make_stubs
from ferry.targets.postgres.incoming import refill_incoming
from ferry.targets.types import wire_type
from ferry.whole_rows import complete, kept_as


@dataclass
class Settled:
    """What settling did to one entity: rows loaded, set to NULL, rejected by reason, and rows that still wait.

    `stubs` counts parents that were made up, as declared, because nobody else will bring them; `vanished` rows that
    are in the target and no longer in the source; `removed` those of them that were taken out.
    """

    entity: str
    linked: int = 0
    loaded: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    waits_for: tuple[str, ...] = ()
    stubs: int = 0
    vanished: int = 0
    removed: int = 0


def settle(
    plans: MigrationPlan, settings: Settings, run_id: str = "", only: tuple[str, ...] = ()
) -> list[Settled]:
    """Settle the entities in plan order, so that a parent's end is known before its children are judged."""
    results = {name: Settled(name) for name in plans.order}
    settled = [results[name] for name in plans.order if not only or name in only]
    for one in settled:
        settle_entity(plans, one.entity, settings, run_id, results)
    # A reference that is filled in later may lead to a row that came only when it was its own entity's turn.
    for one in settled:
        if plans[one.entity].later:
            _link(plans, one, settings)
    for one in reversed(settled):
        _vanished(plans, one, settings)
    for target in sorted({plan.declaration.target.connection for plan in plans.entities.values()}):
        with connect(settings.url(target), target, autocommit=True) as connection:
            constraints.put_back(connection)
    return settled


def _link(plans: MigrationPlan, one: Settled, settings: Settings) -> None:
    try:
        with Loader(plans, one.entity, settings) as loader:
            loader.lock(None)
            one.linked += loader.link()
    except psycopg.Error as error:
        raise told(error, one.entity) from None


def _vanished(plans: MigrationPlan, one: Settled, settings: Settings) -> None:
    """Count the rows that vanished from the source; take them out, children first, if that is declared."""
    try:
        with Loader(plans, one.entity, settings) as loader:
            one.vanished = vanished.count(loader)
            if one.vanished and loader.plan.declaration.on_vanished == "delete":
                loader.lock(None)
                one.removed, one.vanished = vanished.remove(loader)
    except psycopg.Error as error:
        raise told(error, one.entity) from None


def settle_entity(
    plans: MigrationPlan,
    name: str,
    settings: Settings,
    run_id: str = "",
    results: dict[str, Settled] | None = None,
) -> Settled:
    """Settle one entity; nothing happens to rows whose parents are not complete.

    Args:
        plans: the whole plan.
        name: the entity.
        settings: connections and patience.
        run_id: recorded with what is rejected.
        results: of each entity what was done so far; rows that need this entity's rows are loaded with them.

    Raises:
        TransientError: the connection was lost, or somebody holds a lock; what was settled so far stays.
        PermanentError: the target refuses rows that need each other, or `on_missing: fail` applies.
    """
    results = results if results is not None else {one: Settled(one) for one in plans.order}
    try:
        with Loader(plans, name, settings, run_id) as loader:
            circle = {name: loader}
            for other in loader.plan.ahead:
                if other != name:
                    circle[other] = Loader(plans, other, settings, run_id).borrow(loader.connection)
            for one in sorted(circle):
                circle[one].lock(None)
            _settle(circle, results, name)
    except psycopg.Error as error:
        raise told(error, name) from None
    return results[name]


def _settle(circle: dict[str, Loader], results: dict[str, Settled], name: str) -> None:
    """Settle one entity of a circle; the others get what can be loaded, and their ends when it is their turn."""
    loader, result = circle[name], results[name]
    # Rows of a circle wait again all at once, when it is the turn of its first entity.
    revives = loader.plan.ahead[:1] in ((), (name,))
    for other, one in circle.items():
        if revives:
            _revive(one)
        results[other].linked += one.link()
    _fill(circle, results, dict.fromkeys(circle, frozenset()))
    incomplete = {other: _incomplete(one) for other, one in circle.items()}
    as_null = dict.fromkeys(circle, frozenset[int]())
    for other, one in circle.items():
        if not incomplete[other]:
            as_null[other] = frozenset(
                position
                for position, edge in enumerate(one.plan.edges)
                if edge.waits and edge.reference.on_missing == "set_null"
            )
            results[other].stubs += sum(
                _stub(one, edge) for edge in one.plan.edges if edge.reference.on_missing == "stub"
            )
    # What comes without a parent, or with one that was made up, may be what another row of the circle waits for.
    if any(as_null.values()) or any(results[other].stubs for other in circle):
        _fill(circle, results, as_null)
    result.waits_for = incomplete[name]
    if not result.waits_for:
        result.rejected = _reject_rest(loader)
    row = loader.connection.execute(
        "select count(*) from ferry.waiting_rows where entity = %s", (name,)
    ).fetchone()
    result.waiting = row[0] if row else 0


def _fill(circle: dict[str, Loader], results: dict[str, Settled], as_null: dict[str, frozenset[int]]) -> None:
    """Load all waiting rows of a circle that can be loaded now; what still lacks a parent says which."""
    for name, one in circle.items():
        results[name].loaded += _load_waiting(one, as_null[name])
    if next(iter(circle.values())).plan.ahead:
        for name, loaded in resolve(circle, as_null).items():
            results[name].loaded += loaded
        for name, one in circle.items():
            results[name].loaded += _load_waiting(one, as_null[name])


def _incomplete(loader: Loader) -> tuple[str, ...]:
    """The parents of an entity that are not loaded to their end."""
    return tuple(parent for parent in waits_for(loader.plan) if _missing_partitions(loader, parent))


def _missing_partitions(loader: Loader, parent: str) -> set[str]:
    migration = with_known_keys(loader.plans.migration, loader.settings, [parent])
    wanted = set(scheme_of(migration, parent).keys)
    return wanted - ledger.complete_partitions(loader.connection, parent)


def _load_waiting(loader: Loader, as_null: frozenset[int]) -> int:
    """Load whatever of the waiting rows can be loaded now, a partition a transaction, and move the ledger along."""
    name = loader.plan.name
    partitions = [
        row[0]
        for row in loader.connection.execute(
            "select distinct partition from ferry.waiting_rows where entity = %s order by 1", (name,)
        )
    ]
    return sum(_load_some(loader, partition, None, as_null) for partition in partitions)


def _stub(loader: Loader, edge: EdgePlan) -> int:
    """Make up a parent for each old key that waiting rows refer to and that nobody else brings any more."""
    plan = loader.plan
    parent = Loader(loader.plans, edge.parent, loader.settings, loader.run_id).borrow(loader.connection)
    parent.lock(None)
    wanted = sql.SQL("select distinct {} from ferry.waiting_rows w where w.entity = {} and {}").format(
        sql.SQL(", ").join(
            sql.SQL("(w.row->>{})::{} as {}").format(
                sql.Literal(name),
                sql.SQL(wire_type(plan.sent.field(name).type)),  # type: ignore[arg-type]
                sql.Identifier(f"k{position}"),
            )
            for position, name in enumerate(edge.source_columns)
        ),
        sql.Literal(plan.name),
        _lacks(plan, edge),
    )
    with loader.connection.transaction():
        statement = make_stubs(parent.plan, wanted, edge.reference.stub)
        row = loader.connection.execute(statement, {"partition": parent.plan.scheme.keys[0]}).fetchone()
    return row[0] if row else 0


def _load_some(loader: Loader, partition: str, ids: list[int] | None, as_null: frozenset[int]) -> int:
    """Load waiting rows in one transaction; where the target refuses some, halve them until those are alone."""
    place = {"entity": loader.plan.name, "partition": partition, "ids": ids}
    try:
        with loader.connection.transaction():
            loader.connection.execute(refill_incoming(loader.plan), place)
            moved = loader.run(partition, -1, known=True, settling=True, as_null=as_null)[9]
            loader.connection.execute("set constraints all immediate")
            for one in moved:
                move(loader, one)
            return sum(one["n"] for one in moved)
    except REFUSALS as error:
        if ids is None:
            ids = [
                row[0]
                for row in loader.connection.execute(
                    "select id from ferry.waiting_rows where entity = %(entity)s and partition = %(partition)s"
                    " order by id",
                    place,
                )
            ]
        if len(ids) == 1:
            refuse(loader, ids[0], refusal(error, loader.plan))
            return 0
        middle = len(ids) // 2
        return sum(_load_some(loader, partition, half, as_null) for half in (ids[:middle], ids[middle:]))


def _reject_rest(loader: Loader) -> dict[str, int]:
    """Apply `on_missing` to what still waits: reject it as `parent_rejected` or `missing_parent`, or fail."""
    plan = loader.plan
    for edge in plan.edges:
        if edge.reference.on_missing == "fail" and edge.waits:
            row = loader.connection.execute(
                "select count(*), min(key::text) from ferry.waiting_rows"
                " where entity = %s and exists (select from unnest(missing) m where starts_with(m, %s))",
                (plan.name, f"{edge.parent} "),
            ).fetchone()
            if row and row[0]:
                raise PermanentError(
                    f"{row[0]} rows refer to {edge.parent} that do not exist",
                    where=plan.name,
                    why=f"`on_missing: fail` is declared; the first has the key {row[1]}",
                    next="Repair the source and load the parents again, or declare another `on_missing`",
                )
    # A row is `parent_rejected` only if each parent that it lacks was rejected: one that never was is the harder fact.
    edges = [e for e in plan.edges if e.waits and e.reference.on_missing != "set_null"]
    if not edges:
        return {}
    never = sql.SQL(" or ").join(
        sql.SQL("({} and not {})").format(_lacks(plan, edge), _was_rejected(plan, edge)) for edge in edges
    )
    listed = sql.SQL(", ").join(
        sql.SQL(
            "case when {lacks} then jsonb_build_object('column', {column}::text, 'value', {shown},"
            " 'rule', case when {rejected} then 'parent_rejected' else 'missing_parent' end, 'message', {parent} ||"
            " {shown} || case when {rejected} then ' was rejected' else ' does not exist' end) end"
        ).format(
            lacks=_lacks(plan, edge),
            column=sql.Literal(", ".join(edge.source_columns)),
            shown=sql.Literal(MASK)
            if plan.personal & set(edge.source_columns)
            else sql.SQL("array_to_string({}, ', ')").format(_parent_key(plan, edge)),
            rejected=_was_rejected(plan, edge),
            parent=sql.Literal(f"{edge.parent} "),
        )
        for edge in edges
    )
    with loader.connection.transaction():
        rows = loader.connection.execute(
            sql.SQL(
                "with gone as (delete from ferry.waiting_rows w where w.entity = %(entity)s returning w.*,"
                " case when {never} then 'missing_parent' else 'parent_rejected' end as reason,"
                " to_jsonb(array_remove(array[{listed}], null)) as errors),"
                " kept as (insert into ferry.rejected_rows (entity, partition, chunk, row_no, key, reason, errors,"
                " row, sent, run_id) select entity, partition, chunk, row_no, key, reason, errors, {kept}, %(run)s"
                " from gone),"
                " counted as (select partition, chunk, count(*) n from gone group by 1, 2),"
                " moved as (update ferry.ledger l set waiting = waiting - n, rejected = rejected + n from counted c"
                " where l.entity = %(entity)s and l.partition = c.partition and l.chunk = c.chunk)"
                " select reason, count(*) from gone group by 1"
            ).format(never=never, listed=listed, kept=kept_as(loader)),
            {"entity": plan.name, "run": loader.run_id},
        ).fetchall()
        complete(loader)
    return dict(rows)


def _parent_key(plan: EntityPlan, edge: EdgePlan) -> sql.Composed:
    """The old key that a waiting row `w` gives for a parent, as an array of text."""
    return sql.SQL("array[{}]").format(
        sql.SQL(", ").join(
            as_text(
                sql.SQL("(w.row->>{})::{}").format(
                    sql.Literal(name),
                    sql.SQL(wire_type(plan.sent.field(name).type)),  # type: ignore[arg-type]
                ),
                plan.sent.field(name).type,
            )
            for name in edge.source_columns
        )
    )


def _lacks(plan: EntityPlan, edge: EdgePlan) -> sql.Composed:
    """Whether a waiting row `w` waits for this parent (see `missing_parents`)."""
    return sql.SQL("coalesce({} || {}::text = any(w.missing), false)").format(
        sql.Literal(f"{edge.parent} "), _parent_key(plan, edge)
    )


def _was_rejected(plan: EntityPlan, edge: EdgePlan) -> sql.Composed:
    """Whether the parent was rejected, or will be because it lacks a parent itself."""
    either = sql.SQL("exists (select from {} x where x.entity = {} and x.key = {})")
    tables = ["rejected_rows", *(["waiting_rows"] if edge.strategy == AHEAD else [])]
    return sql.SQL("({})").format(
        sql.SQL(" or ").join(
            either.format(sql.Identifier("ferry", table), sql.Literal(edge.parent), _parent_key(plan, edge))
            for table in tables
        )
    )


def _revive(loader: Loader) -> int:
    """Let rows wait again that were rejected for their parent, if that parent has a key now."""
    plan = loader.plan
    waits = [edge for edge in plan.edges if edge.waits]
    if not waits:
        return 0
    resolved = sql.SQL(" and ").join(
        [sql.SQL("true")]
        + [
            sql.SQL("({null} or exists (select from {map} p where p.status <> 'tombstone' and {on}))").format(
                null=sql.SQL(" or ").join(
                    sql.SQL("coalesce(r.sent, r.row)->>{} is null").format(sql.Literal(name))
                    for name in edge.source_columns
                ),
                map=sql.Identifier("ferry", f"id_map_{edge.parent}"),
                on=sql.SQL(" and ").join(
                    sql.SQL("p.{} = (coalesce(r.sent, r.row)->>{})::{}").format(
                        sql.Identifier(f"old_{key}"),
                        sql.Literal(name),
                        sql.SQL(wire_type(plan.sent.field(name).type)),  # type: ignore[arg-type]
                    )
                    for name, key in zip(edge.source_columns, edge.parent_key, strict=True)
                ),
            )
            for edge in waits
            # Whether rows that need each other can come now is seen when all of them wait again, and a parent that
            # may be missing, or is made up, is no reason to stay rejected.
            if edge.strategy != AHEAD and edge.reference.on_missing not in ("set_null", "stub")
        ]
    )
    with loader.connection.transaction():
        row = loader.connection.execute(
            sql.SQL(
                "with back as (delete from ferry.rejected_rows r where r.entity = %(entity)s and"
                " r.reason in ('missing_parent', 'parent_rejected') and {} returning r.*),"
                " waits as (insert into ferry.waiting_rows (entity, partition, chunk, row_no, key, missing, row,"
                " run_id)"
                " select entity, partition, chunk, row_no, key, '{{}}', coalesce(sent, row), %(run)s from back),"
                " counted as (select partition, chunk, count(*) n from back group by 1, 2),"
                " moved as (update ferry.ledger l set waiting = waiting + n, rejected = rejected - n from counted c"
                " where l.entity = %(entity)s and l.partition = c.partition and l.chunk = c.chunk)"
                " select count(*) from back"
            ).format(resolved),
            {"entity": plan.name, "run": loader.run_id},
        ).fetchone()
    return row[0] if row else 0
