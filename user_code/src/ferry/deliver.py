"""Deliver: rows of a journal table to the API behind it, each created once, whatever dies in between.

An entity whose target declares `api` is loaded into a table of the platform's database like any other, with map,
ledger, rejects and rollback; that table is its journal. This stage sends what stands there on. Before a request leaves,
the row in `ferry.deliveries` says so, with the request's key and body; after the answer it holds the new id. What is
found in between belongs to a process that died, and is asked for again under the same key, or looked up.
"""

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import sql
from psycopg.types.json import Json, set_json_loads

from ferry import id_map
from ferry.catalogue import connect
from ferry.declaration import fingerprint
from ferry.edges import NULL_THEN_UPDATE, EdgePlan
from ferry.errors import DeclarationError, TransientError
from ferry.load import told
from ferry.plan import EntityPlan, MigrationPlan
from ferry.settings import Settings
from ferry.targets.rest import Item, RestTargetApi, Result

TABLES: LiteralString = """
create table if not exists ferry.deliveries (
  entity text not null, key uuid not null, state text not null check (state in ('sending', 'sent', 'refused')),
  request uuid not null, remote_id text, body json not null, body_hash text not null, problem text not null default '',
  attempts int not null default 1, run_id text not null default '', at timestamptz not null default now(),
  primary key (entity, key)
)
"""
PAGE, GROUP = 500, 50


class Api(Protocol):
    """What a delivery asks of an API; one module in `targets/` for each kind."""

    @property
    def batch(self) -> int:
        """How many rows one request takes."""
        ...

    def create(self, items: list[Item]) -> list[Result]:
        """Create the rows of one request; those that an earlier try created are found."""
        ...

    def update(self, item: Item) -> Result:
        """Bring a row over there up to date."""
        ...

    def delete(self, remote_id: str) -> None:
        """Take a row back; one that is gone is gone."""
        ...

    def read(self, remote_id: str) -> dict[str, Any] | None:
        """A row as it is over there, None if it is not."""
        ...

    def body(self, row: dict[str, Any]) -> dict[str, Any]:
        """The body of a row."""
        ...

    def named(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """The body with the row's key in it, if the API finds rows by that."""
        ...


@dataclass
class Delivered:
    """What became of the rows of one entity's journal; `waiting` have a parent that is not over there yet."""

    entity: str
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    refused: int = 0
    waiting: int = 0
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    key: str
    body: dict[str, Any]
    remote_id: str | None
    body_hash: str | None
    state: str | None
    waits: bool


def deliver(
    plans: MigrationPlan, name: str, settings: Settings, run_id: str = "", *, again: bool = False
) -> Delivered:
    """Send what is new or changed in an entity's journal, and take back what is gone from it.

    Args:
        plans: the whole plan.
        name: an entity whose target has an `api`.
        settings: connections, and where rate limits are shared.
        run_id: recorded with each row.
        again: also send rows as they are that the API has refused before.

    Raises:
        TransientError: API or journal cannot be reached, or somebody else delivers; what was sent is journalled.
        PermanentError: the API refuses all rows: credentials, permission, address.
    """
    plan = plans[name]
    target = plan.declaration.target
    api = _checked(plans, plan, settings)
    try:
        with connect(settings.url(target.connection), target.connection, autocommit=True) as connection:
            return _Delivery(connection, plans, plan, api, run_id, again).run(settings.lock_timeout_seconds)
    except psycopg.Error as error:
        raise told(error, f"{name}, delivery") from None


def deliver_all(
    plans: MigrationPlan, settings: Settings, run_id: str = "", only: tuple[str, ...] = (), *, again: bool = False
) -> list[Delivered]:  # fmt: skip
    """Deliver every entity that has an API behind it, parents first."""
    chosen = [
        name for name in plans.order if plans[name].declaration.target.api and (not only or name in only)
    ]
    return [deliver(plans, name, settings, run_id, again=again) for name in chosen]


def read_back(
    plans: MigrationPlan, name: str, settings: Settings, most: int | None = None
) -> tuple[int, list[str]]:
    """Hold rows over there against what was sent.

    Args:
        plans: the whole plan.
        name: an entity whose target has an `api`.
        settings: connections.
        most: so many rows, in the order of their keys; all if None.

    Returns:
        Rows that were compared, and a sentence for each that differs.
    """
    plan, target = plans[name], plans[name].declaration.target
    api = _checked(plans, plan, settings)
    differences, compared = [], 0
    with connect(settings.url(target.connection), target.connection, autocommit=True) as connection:
        connection.execute(TABLES)
        rows = connection.execute(
            "select key::text, remote_id, body from ferry.deliveries where entity = %s and state = 'sent'"
            " order by key limit %s",
            (name, most),
        ).fetchall()
    for key, remote_id, body in rows:
        compared += 1
        there = api.read(remote_id)
        if there is None:
            differences.append(f"{name} {key}: {remote_id} is not there any more")
        else:
            differences += [f"{name} {key} ({remote_id}): {one}" for one in _different(body, there)]
    return compared, differences


class _Delivery:
    """One delivery of one entity, over one connection to the journal."""

    def __init__(
        self,
        connection: psycopg.Connection,
        plans: MigrationPlan,
        plan: EntityPlan,
        api: Api,
        run_id: str,
        again: bool,
    ) -> None:
        self.connection, self.plans, self.plan, self.api = connection, plans, plan, api
        self.run_id, self.again, self.result = run_id, again, Delivered(plan.name)
        self._created: set[str] = set()
        self._updated: set[str] = set()
        set_json_loads(lambda text: json.loads(text, parse_float=Decimal), connection)

    def run(self, seconds: float) -> Delivered:
        """The doubtful rows first, then what has to go, then what is new, then references that had to wait."""
        self._prepare(seconds)
        self._finish_doubtful()
        self._take_back()
        later = any(_may_come_later(self.plan, edge) for edge in self.plan.edges)
        for _ in range(2 if later else 1):
            self._send()
        self._count()
        return self.result

    def _prepare(self, seconds: float) -> None:
        self.connection.execute(TABLES)
        self.connection.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(int(seconds * 1000))))
        try:
            self.connection.execute(
                "select pg_advisory_lock(hashtextextended(%s, 3))", (f"ferry {self.plan.name}",)
            )
        except psycopg.errors.LockNotAvailable:
            raise TransientError(
                "somebody else is delivering it",
                where=self.plan.name,
                next="Wait for the other run, or stop it",
            ) from None
        table = id_map.map_table(self.plan)
        self.connection.execute(
            sql.SQL(
                "create or replace view {} as select {}, d.remote_id from {} m join ferry.deliveries d"
                " on d.entity = {} and d.key = m.{} where d.remote_id is not null"
            ).format(
                sql.Identifier("ferry", f"api_map_{self.plan.name}"),
                sql.SQL(", ").join(sql.SQL("m.{}").format(sql.Identifier(name)) for name in table.old),
                table.identifier,
                sql.Literal(self.plan.name),
                sql.Identifier(table.new[0]),
            )
        )

    def _finish_doubtful(self) -> None:
        """Rows that were on their way when a process died: the same request again, under the same key."""
        rows = self.connection.execute(
            "select request, key::text, body, remote_id from ferry.deliveries"
            " where entity = %s and state = 'sending' order by request, key",
            (self.plan.name,),
        ).fetchall()
        for request, group in itertools.groupby(rows, key=lambda row: row[0]):
            items = [Item(key, request, body, remote_id, doubtful=True) for _, key, body, remote_id in group]
            self._call(items)

    def _take_back(self) -> None:
        """Rows that are over there and no longer in the journal: a rollback, or a source that lost them."""
        key = sql.Identifier(self.plan.target_key[0])
        gone = self.connection.execute(
            sql.SQL(
                "select d.key::text, d.remote_id from ferry.deliveries d where d.entity = %s"
                " and not exists (select from {} t where t.{} = d.key) order by 1"
            ).format(self.plan.target.identifier, key),
            (self.plan.name,),
        ).fetchall()
        for row_key, remote_id in gone:
            if remote_id is not None:
                self.api.delete(remote_id)
                self.result.removed += 1
            self.connection.execute(
                "delete from ferry.deliveries where entity = %s and key = %s", (self.plan.name, row_key)
            )

    def _send(self) -> None:
        self.result.waiting = 0
        group: list[tuple[_Row, str]] = []
        for row in self._journal():
            hash_ = fingerprint(row.body)
            if row.waits:
                self.result.waiting += 1
            elif row.body_hash != hash_ or (row.state == "refused" and self.again):
                group.append((row, hash_))
            if len(group) >= max(GROUP, self.api.batch):
                self._send_group(group)
                group = []
        self._send_group(group)

    def _count(self) -> None:
        self.result.problems = dict(
            self.connection.execute(
                "select key::text, problem from ferry.deliveries where entity = %s and state = 'refused'",
                (self.plan.name,),
            ).fetchall()
        )
        self.result.refused = len(self.result.problems)
        sent = self.connection.execute(
            "select count(*) from ferry.deliveries where entity = %s and state = 'sent'", (self.plan.name,)
        ).fetchone()
        assert sent is not None
        self.result.created, self.result.updated = len(self._created), len(self._updated - self._created)
        self.result.unchanged = sent[0] - self.result.created - self.result.updated

    def _send_group(self, group: list[tuple[_Row, str]]) -> None:
        """Journal the requests of some rows, send them, journal the answers."""
        new = [pair for pair in group if pair[0].remote_id is None]
        old = [pair for pair in group if pair[0].remote_id is not None]
        size = self.api.batch
        requests = [new[at : at + size] for at in range(0, len(new), size)] + [[pair] for pair in old]
        items: list[list[Item]] = []
        with self.connection.transaction(), self.connection.cursor() as cursor:
            for pairs in requests:
                request = uuid.uuid4()
                items.append([Item(row.key, request, row.body, row.remote_id) for row, _ in pairs])
                cursor.executemany(
                    "insert into ferry.deliveries as d"
                    " (entity, key, state, request, remote_id, body, body_hash, run_id)"
                    " values (%s, %s, 'sending', %s, %s, %s, %s, %s) on conflict (entity, key) do update set"
                    " state = 'sending', request = excluded.request, body = excluded.body, problem = '',"
                    " body_hash = excluded.body_hash, attempts = d.attempts + 1, run_id = excluded.run_id, at = now()",
                    [
                        (self.plan.name, row.key, request, row.remote_id, Json(row.body), hash_, self.run_id)
                        for row, hash_ in pairs
                    ],
                )
        for one in items:
            self._call(one)

    def _call(self, items: list[Item]) -> None:
        """One request, and its answer into the journal."""
        fresh = [item for item in items if item.remote_id is None]
        results = self.api.create(fresh) if fresh else [self.api.update(item) for item in items]
        self._record(results, created=bool(fresh))

    def _record(self, results: list[Result], *, created: bool) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(
                "update ferry.deliveries set state = %s, remote_id = coalesce(%s, remote_id), problem = %s, at = now()"
                " where entity = %s and key = %s",
                [
                    (
                        "refused" if one.problem else "sent",
                        one.remote_id,
                        one.problem,
                        self.plan.name,
                        one.key,
                    )
                    for one in results
                ],
            )
        done = self._created if created else self._updated
        done |= {one.key for one in results if not one.problem}

    def _journal(self) -> Iterator[_Row]:
        """The rows that are to be over there, each with its body as it can be sent now."""
        statement, last = self._statement(), uuid.UUID(int=0)
        while True:
            rows = self.connection.execute(statement, (last, PAGE)).fetchall()
            for key, row, state, remote_id, body_hash, *parents in rows:
                body, waits = self._body(row, parents)
                yield _Row(str(key), self.api.named(body, str(key)), remote_id, body_hash, state, waits)
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def _statement(self) -> sql.Composed:
        joins, named = [], []
        for position, edge in enumerate(self.plan.edges):
            parent = sql.Identifier(f"p{position}")
            named.append(sql.SQL(", {}.remote_id").format(parent))
            joins.append(
                sql.SQL(
                    " left join ferry.deliveries {p} on {p}.entity = {name} and {p}.key = t.{column}"
                ).format(
                    p=parent, name=sql.Literal(edge.parent), column=sql.Identifier(edge.target_columns[0])
                )
            )
        return sql.SQL(
            "select t.{key}, to_jsonb(t) - {text}, d.state, d.remote_id, d.body_hash{parents} from {journal} t"
            " left join ferry.deliveries d on d.entity = {name} and d.key = t.{key}{joins}"
            " where t.{key} > %s order by t.{key} limit %s"
        ).format(
            key=sql.Identifier(self.plan.target_key[0]),
            text=sql.Literal(self.plan.target_key[0]),
            parents=sql.SQL("").join(named),
            journal=self.plan.target.identifier,
            name=sql.Literal(self.plan.name),
            joins=sql.SQL("").join(joins),
        )

    def _body(self, row: dict[str, Any], parents: list[str | None]) -> tuple[dict[str, Any], bool]:
        """The body of a row with its parents' ids, and whether it has to wait for one of them."""
        waits = False
        for edge, remote_id in zip(self.plan.edges, parents, strict=True):
            column = edge.target_columns[0]
            if row[column] is not None:
                waits = waits or (remote_id is None and not _may_come_later(self.plan, edge))
                row[column] = remote_id
        columns = self.plan.target.columns
        return self.api.body(
            {name: _sent(value, columns[name].base_type) for name, value in row.items()}
        ), waits


def _may_come_later(plan: EntityPlan, edge: EdgePlan) -> bool:
    """Whether a row may be created without this reference and get it when the parent is there."""
    nullable = not any(plan.target.columns[name].not_null for name in edge.target_columns)
    return nullable and (edge.parent == plan.name or edge.strategy == NULL_THEN_UPDATE)


def _sent(value: Any, base_type: str) -> Any:
    """A value as it goes into JSON: decimals as text, digit for digit, for a JSON number is read as a double."""
    if base_type in ("float4", "float8") and isinstance(value, Decimal):
        return float(value)
    return (
        str(value) if isinstance(value, Decimal) or (base_type == "numeric" and value is not None) else value
    )


def _checked(plans: MigrationPlan, plan: EntityPlan, settings: Settings) -> Api:
    """The API of an entity; refuses what cannot be delivered."""
    target, where = plan.declaration.target, str(plan.entity.path)
    if target.api is None:
        raise DeclarationError(
            f"{plan.name} has no API to be delivered to", where=f"{where}: target", next="Add `api`"
        )
    if target.key.source != "uuid5" or not plan.has_map:
        raise DeclarationError(
            "a journal's key has to be `from: uuid5`, with an id map",
            where=f"{where}: target.key",
            why="it is what a row is known by until the API has given it an id, and again after a rollback",
        )
    for edge in plan.edges:
        if plans[edge.parent].declaration.target.api is None:
            raise DeclarationError(
                f"{edge.parent} is delivered to no API, so nothing there can refer to it",
                where=f"{where}: references",
                next=f"Give the target of {edge.parent} an `api`, or drop the reference",
            )
    if target.api.rest:
        return RestTargetApi(target.api.rest, target.api.connection, settings, where)
    from ferry.targets.shopify import ShopifyTargetApi

    assert target.api.shopify is not None
    return ShopifyTargetApi(target.api.shopify, target.api.connection, settings, where)


def _different(sent: Any, there: Any, place: str = "") -> Iterable[str]:
    if isinstance(sent, dict):
        for name, value in sent.items():
            inner = there.get(name) if isinstance(there, dict) else None
            yield from _different(value, inner, f"{place}.{name}" if place else name)
    elif not _same(sent, there):
        yield f"{place} is {there!r}, should be {sent!r}"


def _same(sent: Any, there: Any) -> bool:
    if sent == there or str(sent) == str(there):
        return True
    try:
        return not isinstance(sent, bool) and Decimal(str(sent)) == Decimal(str(there))
    except InvalidOperation:
        return False
