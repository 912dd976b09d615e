"""Outgoing: the rows of a journal as their API takes them, with their parents' ids and the rows that go inside them."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from ferry import id_map
from ferry.catalogue import as_text
from ferry.edges import NULL_THEN_UPDATE, EdgePlan
from ferry.plan import EntityPlan, MigrationPlan
from ferry.refused import API, PARENT
from ferry.targets.api_declaration import Within
from ferry.targets.item import placed

PAGE = 500
# Of a parent that is not over there: its id, what became of it, the API's words, and ids beside its own.
_PARENT = 4


@dataclass(frozen=True)
class Row:
    """A row of the journal as it could be sent now, beside what was sent of it last.

    `waits` if a parent is not over there; `held` says which, and why, if that parent was refused. `passed_over` if the
    API has refused the row and nobody has asked for it again. `taken` is the body that the API took last.
    """

    key: str
    body: dict[str, Any]
    state: str | None
    remote_id: str | None
    body_hash: str | None
    taken: dict[str, Any] | None
    passed_over: bool
    waits: bool
    held: str


def parts_of(plans: MigrationPlan, name: str) -> list[EntityPlan]:
    """The entities whose rows go inside those of another."""
    found = []
    for plan in plans.entities.values():
        api = plan.declaration.target.api
        if api and api.within and api.within.entity == name:
            found.append(plan)
    return found


def link_of(plan: EntityPlan) -> EdgePlan:
    """The reference of an entity to the one whose rows its own go into."""
    return next(edge for edge in plan.edges if edge.parent == _within(plan).entity)


def _within(plan: EntityPlan) -> Within:
    api = plan.declaration.target.api
    assert api is not None
    assert api.within is not None
    return api.within


def may_come_later(plan: EntityPlan, edge: EdgePlan) -> bool:
    """Whether a row may be created without this reference and get it when the parent is there."""
    nullable = not any(plan.target.columns[name].not_null for name in edge.target_columns)
    return nullable and (edge.parent == plan.name or edge.strategy == NULL_THEN_UPDATE)


class Outgoing:
    """Reads one entity's journal; `rows` can be asked again after parents have arrived."""

    def __init__(
        self, connection: psycopg.Connection, plans: MigrationPlan, plan: EntityPlan, *, seals: bool
    ) -> None:
        """Args: the journal's database, the whole plan, the plan of the entity, and what `Api.seals` says."""
        self.connection, self.plans, self.plan = connection, plans, plan
        self.parts = parts_of(plans, plan.name)
        self.whole = [part for part in self.parts if seals and _within(part).incomplete == "hold"]

    def rows(self) -> Iterator[Row]:
        """Every row, in the order of the keys, a page at a time."""
        self._find_incomplete()
        statement, last = self._statement(), uuid.UUID(int=0)
        while True:
            page = self.connection.execute(statement, (last, PAGE)).fetchall()
            inside = self._inside([row[0] for row in page])
            for key, told, state, remote_id, body_hash, taken, passed_over, lacks, lost, *parents in page:
                waits, held = self._resolve(self.plan, told, parents)
                waits, held = waits or bool(lacks), held or lost or ""
                body = self._body(self.plan, told)
                for place, listed, why in inside.get(key, ()):
                    placed(body, place, listed)
                    waits, held = waits or why is not None, held or why or ""
                yield Row(str(key), body, state, remote_id, body_hash, taken, bool(passed_over), waits, held)
            if len(page) < PAGE:
                return
            last = page[-1][0]

    def _statement(self) -> sql.Composed:
        plan = self.plan
        named, joins = _parents(plan)
        return sql.SQL(
            "select t.{key}, to_jsonb(t) - {text}, d.state, d.remote_id, d.body_hash, d.taken, case when d.state ="
            " 'refused' then exists (select from ferry.rejected_rows r where r.reason = {api} and"
            " r.errors->0->>'sent_as' = d.key::text) end, i.key is not null, i.lost{named} from {journal} t"
            " left join ferry.deliveries d on d.entity = {name} and d.key = t.{key}"
            " left join pg_temp.incomplete i on i.key = t.{key} and d.remote_id is null{joins}"
            " where t.{key} > %s order by t.{key} limit %s"
        ).format(
            key=sql.Identifier(plan.target_key[0]),
            text=sql.Literal(plan.target_key[0]),
            api=sql.Literal(API),
            named=named,
            journal=plan.target.identifier,
            name=sql.Literal(plan.name),
            joins=joins,
        )

    def _find_incomplete(self) -> None:
        """Note the rows that would go without some of those that belong inside them, and what became of one of these.

        A rejected row names its owner as the source does. Rows that the API holds against their owner stand in the
        journal and are no obstacle.
        """
        execute = self.connection.execute
        execute("create temporary table if not exists incomplete (key uuid, lost text)")
        execute("truncate pg_temp.incomplete")
        for part in self.whole:
            execute(_incomplete_statement(part, link_of(part), self.plan), {"in_journal": [API, PARENT]})
        execute("analyze pg_temp.incomplete")

    def _inside(self, keys: list[Any]) -> dict[Any, list[tuple[str, list[Any], str | None]]]:
        """Of each row what goes inside it: the place, the bodies, and what they wait for (None if for nothing)."""
        found: dict[Any, list[tuple[str, list[Any], str | None]]] = {}
        for part in self.parts:
            bodies: dict[Any, list[Any]] = {key: [] for key in keys}
            waiting: dict[Any, str] = {}
            link = link_of(part)
            for owner, told, *parents in self.connection.execute(_part_statement(part, link), (keys,)):
                waits, held = self._resolve(part, told, parents, skip=link)
                if waits and not waiting.get(owner):
                    waiting[owner] = f"{part.name}: {held}" if held else ""
                told.pop(link.target_columns[0], None)
                bodies[owner].append(self._body(part, told))
            for key, listed in bodies.items():
                if listed:
                    found.setdefault(key, []).append((_within(part).place, listed, waiting.get(key)))
        return found

    def _resolve(
        self, plan: EntityPlan, row: dict[str, Any], parents: list[Any], skip: EdgePlan | None = None
    ) -> tuple[bool, str]:
        """Put the parents' ids into a row; gives whether it has to wait, and why it will in vain."""
        api = plan.declaration.target.api
        assert api is not None
        waits, held = False, ""
        for position, edge in enumerate(plan.edges):
            remote_id, state, problem, also = parents[position * _PARENT : (position + 1) * _PARENT]
            column = edge.target_columns[0]
            if edge is skip or row[column] is None:
                continue
            if remote_id is None and not may_come_later(plan, edge):
                waits = True
                if state in ("refused", "held"):
                    old = self._old_key(self.plans[edge.parent], row[column])
                    held = held or f"{edge.parent} {old} is not over there: {problem}"[:500]
            place = api.fields.get(column, column).rpartition(".")[2]
            row[column] = (also or {}).get(place, remote_id)
        return waits, held

    def _old_key(self, plan: EntityPlan, key: Any) -> str:
        table = id_map.map_table(plan)
        row = self.connection.execute(
            sql.SQL("select concat_ws(', ', {}) from {} where {} = %s").format(
                sql.SQL(", ").join(map(sql.Identifier, table.old)),
                table.identifier,
                sql.Identifier(table.new[0]),
            ),
            (key,),
        ).fetchone()
        return row[0] if row else str(key)

    def _body(self, plan: EntityPlan, row: dict[str, Any]) -> dict[str, Any]:
        """A row's columns at their declared places."""
        api, owner = plan.declaration.target.api, self.plan.declaration.target.api
        assert api is not None
        assert owner is not None
        body: dict[str, Any] = {}
        wrap = api.rest.wrap if api.rest else ""
        for column, value in row.items():
            place = api.fields.get(column, column if owner.rest else None)
            if place is not None:
                sent = _sent(value, plan.target.columns[column].base_type)
                placed(body, f"{wrap}.{place}" if wrap else place, sent)
        return body


def _parents(plan: EntityPlan) -> tuple[sql.Composed, sql.Composed]:
    """Of each reference what is known of its parent over there: the columns, and the joins that bring them."""
    named, joins = [], []
    for position, edge in enumerate(plan.edges):
        parent = sql.Identifier(f"p{position}")
        named.append(sql.SQL(", {0}.remote_id, {0}.state, {0}.problem, {0}.also").format(parent))
        joins.append(
            sql.SQL(" left join ferry.deliveries {p} on {p}.entity = {name} and {p}.key = t.{column}").format(
                p=parent, name=sql.Literal(edge.parent), column=sql.Identifier(edge.target_columns[0])
            )
        )
    return sql.Composed(named), sql.Composed(joins)


def _incomplete_statement(part: EntityPlan, link: EdgePlan, owner: EntityPlan) -> sql.Composed:
    """Fills `incomplete` with the owners of rows that are rejected (and which), or wait (without saying)."""
    table, on = id_map.map_table(owner), []
    for name, key in zip(link.source_columns, link.parent_key, strict=True):
        type_ = owner.sent.field(key).type
        told = sql.SQL("r.row->>{}").format(sql.Literal(name))
        if pa.types.is_decimal(type_):  # 7.00 is 7; what is no number belongs to nobody
            told = sql.SQL(
                "case when {0} ~ '^-?[0-9]+([.][0-9]+)?$' then trim_scale(({0})::numeric)::text end"
            ).format(told)
        on.append(sql.SQL("{} = {}").format(as_text(sql.Identifier("m", f"old_{key}"), type_), told))
    return sql.SQL(
        "insert into pg_temp.incomplete select m.{new}, min(r.lost) from (select coalesce(sent, row) as row,"
        " {part} || ' ' || array_to_string(key, ', ') || ' is rejected (' || reason || ') and would be missing in it;"
        " replay that, or declare `incomplete: send`' as lost from ferry.rejected_rows where entity = {part}"
        " and reason <> all(%(in_journal)s) union all select row, null from ferry.waiting_rows where entity = {part})"
        " r join {map} m on {on} group by 1"
    ).format(
        new=sql.Identifier(table.new[0]),
        part=sql.Literal(part.name),
        map=table.identifier,
        on=sql.SQL(" and ").join(on),
    )


def _part_statement(part: EntityPlan, link: EdgePlan) -> sql.Composed:
    named, joins = _parents(part)
    owner = sql.Identifier("t", link.target_columns[0])
    return sql.SQL(
        "select {owner}, to_jsonb(t) - {key}{named} from {journal} t{joins} where {owner} = any(%s)"
        " order by {order}"
    ).format(
        owner=owner,
        key=sql.Literal(part.target_key[0]),
        named=named,
        journal=part.target.identifier,
        joins=joins,
        order=part_order(part),
    )


def part_order(part: EntityPlan) -> sql.Composed:
    """By what rows that go inside another are sorted, for `order by`."""
    columns = [*filter(None, [_within(part).sorted_by]), part.target_key[0]]
    return sql.SQL(", ").join(sql.Identifier("t", name) for name in columns)


def _sent(value: Any, base_type: str) -> Any:
    """A value as it goes into JSON: decimals as text, digit for digit, for a JSON number is read as a double."""
    if base_type in ("float4", "float8") and isinstance(value, Decimal):
        return float(value)
    return (
        str(value) if isinstance(value, Decimal) or (base_type == "numeric" and value is not None) else value
    )
