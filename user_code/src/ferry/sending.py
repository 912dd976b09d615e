"""Sending: one delivery of one entity's journal, row by row or many in a request.

Before a request leaves, the row in `ferry.deliveries` says so, with the request's key and body; after the answer it
holds the new id. What is found in between belongs to a process that died, and is asked for again under the same key,
or looked up.
"""

import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, LiteralString, Protocol

import psycopg
from psycopg import sql
from psycopg.types.json import Json, Jsonb, set_json_loads

from ferry import id_map, ledger
from ferry.contract.verdict import MASK
from ferry.declaration import fingerprint
from ferry.errors import DeclarationError, TransientError
from ferry.outgoing import Outgoing, Row, link_of, may_come_later, part_order
from ferry.plan import EntityPlan, MigrationPlan
from ferry.targets.item import Item, Result

# `sending` is on its way, or was when a process died; `held` is not sent because a parent was refused. `also` are ids
# beside the row's own, `taken` the body that the API took last, `operation` what it calls the work on a request.
TABLES: LiteralString = """
create table if not exists ferry.deliveries (
  entity text not null, key uuid not null, state text not null, request uuid not null, remote_id text,
  body json not null, body_hash text not null, problem text not null default '', attempts int not null default 1,
  run_id text not null default '', at timestamptz not null default now(),
  primary key (entity, key)
);
alter table ferry.deliveries drop constraint if exists deliveries_state_check;
alter table ferry.deliveries add if not exists operation text not null default '', add if not exists taken json,
  add if not exists also jsonb not null default '{}';
create index if not exists rejected_rows_sent_as on ferry.rejected_rows ((errors->0->>'sent_as'))
  where reason in ('api_refused', 'parent_refused')
"""
GROUP, SHOWN = 50, 100


class Api(Protocol):
    """What a delivery asks of an API; one module in `targets/` for each kind."""

    @property
    def batch(self) -> int:
        """How many rows one request takes."""
        ...

    @property
    def upserts(self) -> bool:
        """Whether `create` also brings up to date what is there, so that changed rows go in the same requests."""
        ...

    @property
    def seals(self) -> bool:
        """Whether what went inside a row stays as it was sent, so that nothing can be added to it later."""
        ...

    def find(self, items: list[Item]) -> list[Result]:
        """Those of some rows that are over there, where a repetition would not be recognised by itself."""
        ...

    def create(self, items: list[Item], note: Callable[[str], None]) -> list[Result]:
        """Create the rows of one request; those that an earlier try created are found.

        `note` keeps what the API calls the work, for the process that finds the request after this one has died.
        """
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

    def named(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """The body with the row's key in it, if the API finds rows by that."""
        ...

    def seen(self, body: dict[str, Any]) -> dict[str, Any]:
        """What of a body can be read back."""
        ...


@dataclass
class Delivered:
    """What became of the rows of one entity's journal.

    `waiting` have a parent that is not over there yet, `held` one that was refused. `problems` are the first of the
    refused rows, by the key under which they were sent, with the API's words.
    """

    entity: str
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    refused: int = 0
    held: int = 0
    waiting: int = 0
    problems: dict[str, str] = field(default_factory=dict)


def prepare(connection: psycopg.Connection, plan: EntityPlan) -> None:
    """Make what a delivery writes into, and the view of new ids; refuses an entity that was never loaded."""
    table = id_map.map_table(plan)
    if not ledger.is_prepared(connection) or id_map.count(connection, plan) is None:
        raise DeclarationError(
            f"nothing of {plan.name} was ever loaded", where="delivery", next=f"ferry run {plan.name}"
        )
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('ferry.deliveries'))")
        has = connection.execute(
            "select from pg_attribute where attrelid = to_regclass('ferry.deliveries') and attname = 'taken'"
        )
        if not has.rowcount:
            connection.execute(TABLES)
        connection.execute(
            sql.SQL(
                "create or replace view {} as select {}, d.remote_id from {} m join ferry.deliveries d"
                " on d.entity = {} and d.key = m.{} where d.remote_id is not null"
            ).format(
                sql.Identifier("ferry", f"api_map_{plan.name}"),
                sql.SQL(", ").join(sql.SQL("m.{}").format(sql.Identifier(name)) for name in table.old),
                table.identifier,
                sql.Literal(plan.name),
                sql.Identifier(table.new[0]),
            )
        )


def gone(connection: psycopg.Connection, plan: EntityPlan) -> list[tuple[str, str | None]]:
    """Key and id of rows that are over there, or were to be, and no longer in the journal."""
    return connection.execute(
        sql.SQL(
            "select d.key::text, d.remote_id from ferry.deliveries d where d.entity = %s"
            " and not exists (select from {} t where t.{} = d.key) order by 1"
        ).format(plan.target.identifier, sql.Identifier(plan.target_key[0])),
        (plan.name,),
    ).fetchall()


class Delivery:
    """One delivery of one entity, over one connection to the journal. Without an API its rows go inside others."""

    def __init__(
        self,
        connection: psycopg.Connection,
        plans: MigrationPlan,
        plan: EntityPlan,
        api: Api | None,
        run_id: str,
    ) -> None:
        self.connection, self.plan, self.api, self.run_id = connection, plan, api, run_id
        self.outgoing = Outgoing(connection, plans, plan, seals=api is not None and api.seals)
        self.result = Delivered(plan.name)
        self.hides = any(one.personal for one in (plan, *self.outgoing.parts))
        self._created: set[str] = set()
        self._updated: set[str] = set()
        self._refused: set[str] = set()
        set_json_loads(lambda text: json.loads(text, parse_float=Decimal), connection)

    def run(self, seconds: float) -> Delivered:
        """The doubtful rows first, then what has to go, then what is new, then references that had to wait."""
        self.begin(seconds)
        later = any(may_come_later(self.plan, edge) for edge in self.plan.edges)
        for _ in range(2 if later else 1):
            self._send()
        self._count()
        return self.result

    def begin(self, seconds: float) -> None:
        """Finish what a process left behind, and take back what is no longer in the journal."""
        self._lock(seconds)
        if self.api is not None:
            self._finish_doubtful(self.api)
        self._take_back()

    def _lock(self, seconds: float) -> None:
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

    def _finish_doubtful(self, api: Api) -> None:
        """Rows that were on their way when a process died: looked up, or the same request under the same key."""
        rows = self.connection.execute(
            "select request, key::text, body, remote_id, taken, operation from ferry.deliveries"
            " where entity = %s and state = 'sending' order by request, key",
            (self.plan.name,),
        ).fetchall()
        for _, group in itertools.groupby(rows, key=lambda row: row[0]):
            items = [
                Item(key, request, body, remote_id, taken, operation)
                for request, key, body, remote_id, taken, operation in group
            ]
            found = [] if items[0].operation else api.find([one for one in items if one.remote_id is None])
            if found:
                there = {one.key for one in found}
                self._record([one for one in items if one.key in there], found)
                items = self._renewed([one for one in items if one.key not in there])
            if items:
                self._call(api, items)

    def _renewed(self, items: list[Item]) -> list[Item]:
        """The rest of a request, under a key of its own: the API may know the whole under the old one."""
        request = uuid.uuid4()
        self.connection.execute(
            "update ferry.deliveries set request = %s, operation = '' where entity = %s and key = any(%s)",
            (request, self.plan.name, [uuid.UUID(one.key) for one in items]),
        )
        return [replace(one, request=request, operation="") for one in items]

    def _take_back(self) -> None:
        """Rows that are over there and no longer in the journal: a rollback, or a source that lost them."""
        for key, remote_id in gone(self.connection, self.plan):
            if remote_id is not None and self.api is not None:
                self.api.delete(remote_id)
                self.result.removed += 1
            self.connection.execute(
                "delete from ferry.deliveries where entity = %s and key = %s", (self.plan.name, key)
            )

    def _send(self) -> None:
        self.result.waiting = 0
        group: list[tuple[Row, str]] = []
        held: list[Row] = []
        mark = uuid.uuid4()
        for row in self.outgoing.rows():
            hash_ = fingerprint(row.body) if self.api is None else self._fingerprint(self.api, row)
            if row.held:
                held.append(row)
            elif row.waits:
                self.result.waiting += 1
            elif self.api and (row.body_hash != hash_ or self._again(row)):
                group.append((row, hash_))
            if self.api and len(group) >= max(GROUP, self.api.batch):
                self._send_group(self.api, group)
                group = []
            if len(held) >= GROUP:
                self._hold(held, mark)
                held = []
        if self.api:
            self._send_group(self.api, group)
        self._hold(held, mark)
        self._release(mark)
        if self.api is None:
            self._name_inside()

    def _again(self, row: Row) -> bool:
        """Whether a row that was refused as it is has been asked for again since."""
        return row.state == "refused" and not row.passed_over and row.key not in self._refused

    def _fingerprint(self, api: Api, row: Row) -> str:
        api.named(row.body, row.key)
        return fingerprint(row.body)

    def _hold(self, rows: list[Row], mark: uuid.UUID) -> None:
        """Keep with rows that cannot go which parent was refused."""
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(
                "insert into ferry.deliveries as d (entity, key, state, request, body, body_hash, problem, attempts,"
                " run_id) values (%s, %s, 'held', %s, '{}', '', %s, 0, %s) on conflict (entity, key) do update set"
                " state = 'held', request = excluded.request, problem = excluded.problem, body_hash = '', at = now()",
                [(self.plan.name, row.key, mark, row.held, self.run_id) for row in rows],
            )

    def _release(self, mark: uuid.UUID) -> None:
        """Forget what is held no longer; a row that was over there before is brought up to date when it can be."""
        for statement in (
            "delete from ferry.deliveries where entity = %s and state = 'held' and request <> %s and remote_id is null",
            "update ferry.deliveries set state = 'sent', problem = '' where entity = %s and state = 'held'"
            " and request <> %s",
        ):
            self.connection.execute(statement, (self.plan.name, mark))

    def _name_inside(self) -> None:
        """Give rows that went inside others the ids that came back for them, in the order in which they went."""
        api, link = self.plan.declaration.target.api, link_of(self.plan)
        assert api is not None
        assert api.within is not None
        self.connection.execute(
            sql.SQL(
                "insert into ferry.deliveries (entity, key, state, request, remote_id, body, body_hash, run_id)"
                " select {name}, t.key, 'sent', d.request, d.also->{place}->>(t.at - 1)::int, '{{}}', '', {run}"
                " from (select t.{key} as key, t.{link} as link,"
                " row_number() over (partition by t.{link} order by {order}) as at,"
                " count(*) over (partition by t.{link}) as of from {journal} t) t"
                " join ferry.deliveries d on d.entity = {owner} and d.key = t.link and d.state = 'sent'"
                " where jsonb_array_length(d.also->{place}) = t.of"
                " on conflict (entity, key) do update set state = 'sent', remote_id = excluded.remote_id, problem = ''"
                " where (deliveries.state, deliveries.remote_id) is distinct from ('sent', excluded.remote_id)"
            ).format(
                name=sql.Literal(self.plan.name),
                run=sql.Literal(self.run_id),
                place=sql.Literal(api.within.place),
                key=sql.Identifier(self.plan.target_key[0]),
                link=sql.Identifier(link.target_columns[0]),
                order=part_order(self.plan),
                journal=self.plan.target.identifier,
                owner=sql.Literal(link.parent),
            )
        )

    def _count(self) -> None:
        counts = dict(
            self.connection.execute(
                "select state, count(*) from ferry.deliveries where entity = %s group by 1", (self.plan.name,)
            ).fetchall()
        )
        self.result.problems = dict(
            self.connection.execute(
                "select key::text, problem from ferry.deliveries where entity = %s and state = 'refused'"
                " order by key limit %s",
                (self.plan.name, SHOWN),
            ).fetchall()
        )
        self.result.refused, self.result.held = counts.get("refused", 0), counts.get("held", 0)
        sent = counts.get("sent", 0)
        if self.api is None:
            rows = self.connection.execute(
                sql.SQL("select count(*) from {}").format(self.plan.target.identifier)
            ).fetchone()
            assert rows is not None
            sent = rows[0] - self.result.held - self.result.waiting
        self.result.created, self.result.updated = len(self._created), len(self._updated - self._created)
        self.result.unchanged = sent - self.result.created - self.result.updated

    def _send_group(self, api: Api, group: list[tuple[Row, str]]) -> None:
        """Journal the requests of some rows, send them, journal the answers."""
        together = [pair for pair in group if api.upserts or pair[0].remote_id is None]
        alone = [pair for pair in group if not api.upserts and pair[0].remote_id is not None]
        size = api.batch
        requests = [together[at : at + size] for at in range(0, len(together), size)]
        requests += [[pair] for pair in alone]
        items: list[list[Item]] = []
        with self.connection.transaction(), self.connection.cursor() as cursor:
            for pairs in requests:
                request = uuid.uuid4()
                items.append([Item(row.key, request, row.body, row.remote_id, row.taken) for row, _ in pairs])
                cursor.executemany(
                    "insert into ferry.deliveries as d"
                    " (entity, key, state, request, remote_id, body, body_hash, run_id)"
                    " values (%s, %s, 'sending', %s, %s, %s, %s, %s) on conflict (entity, key) do update set"
                    " state = 'sending', request = excluded.request, body = excluded.body, problem = '',"
                    " operation = '', body_hash = excluded.body_hash, attempts = d.attempts + 1,"
                    " run_id = excluded.run_id, at = now()",
                    [
                        (self.plan.name, row.key, request, row.remote_id, Json(row.body), hash_, self.run_id)
                        for row, hash_ in pairs
                    ],
                )
        for one in items:
            self._call(api, one)

    def _call(self, api: Api, items: list[Item]) -> None:
        """One request, and its answer into the journal."""

        def note(operation: str) -> None:
            self.connection.execute(
                "update ferry.deliveries set operation = %s where entity = %s and request = %s",
                (operation, self.plan.name, items[0].request),
            )

        if api.upserts or items[0].remote_id is None:
            results = api.create(items, note)
        else:
            results = [api.update(item) for item in items]
        self._record(items, results)
        if len(results) < len(items):
            known = {one.key for one in results}
            self._renewed([item for item in items if item.key not in known])
            raise TransientError(
                f"the API says nothing of {len(items) - len(results)} of {len(items)} rows",
                where=f"{self.plan.name}, delivery",
                next="Deliver again: they are looked up, or sent as before",
            )

    def _record(self, items: list[Item], results: list[Result]) -> None:
        sent = {item.key: item for item in items}
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(
                "update ferry.deliveries set state = case when %(problem)s = '' then 'sent' else 'refused' end,"
                " remote_id = coalesce(%(id)s, remote_id), problem = %(problem)s, operation = '', at = now(),"
                " taken = case when %(problem)s = '' then body else taken end,"
                " also = case when %(problem)s = '' then %(also)s else also end"
                " where entity = %(entity)s and key = %(key)s",
                [
                    {
                        "id": one.remote_id,
                        "problem": self._shown(one.problem, sent[one.key].body),
                        "also": Jsonb(one.also),
                        "entity": self.plan.name,
                        "key": one.key,
                    }
                    for one in results
                ],
            )
        for one in results:
            fresh = self._created if sent[one.key].remote_id is None else self._updated
            (self._refused if one.problem else fresh).add(one.key)

    def _shown(self, problem: str, body: Any) -> str:
        """The API's words without the row's values, if any of those belong to a person."""
        if not problem or not self.hides:
            return problem
        values = sorted({str(one) for one in _leaves(body) if str(one).strip()}, key=len, reverse=True)
        for value in values:
            # A short value is hidden where it stands by itself: words would be torn apart otherwise.
            edge = r"\b" if len(value) < 3 else ""
            problem = re.sub(f"{edge}{re.escape(value)}{edge}", MASK, problem, flags=re.IGNORECASE)
        return problem


def _leaves(body: Any) -> Iterable[Any]:
    match body:
        case dict():
            for one in body.values():
                yield from _leaves(one)
        case list():
            for one in body:
                yield from _leaves(one)
        case None | bool():
            return
        case _:
            yield body
