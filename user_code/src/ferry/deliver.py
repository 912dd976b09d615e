"""Deliver: rows of a journal table to the API behind it, each created once, whatever dies in between.

An entity whose target declares `api` is loaded into a table of the platform's database like any other, with map,
ledger, rejects and rollback; that table is its journal. This stage sends what stands there on (`ferry.sending`), takes
back what is gone from it, and counts what the API refuses among the rejected rows (`ferry.refused`).
"""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import psycopg

from ferry.catalogue import connect
from ferry.errors import DeclarationError
from ferry.outgoing import parts_of
from ferry.plan import EntityPlan, MigrationPlan
from ferry.refused import account
from ferry.sending import Api, Delivered, Delivery, gone, prepare
from ferry.settings import Settings
from ferry.sign_off import refuse_change
from ferry.targets.api_declaration import ApiTarget
from ferry.targets.errors import told

__all__ = ["Delivered", "api_of", "deliver", "deliver_all", "delivery_order", "needs", "read_back"]


def deliver(plans: MigrationPlan, name: str, settings: Settings, run_id: str = "") -> Delivered:
    """Send what is new or changed in an entity's journal, and take back what is gone from it.

    A row that the API has refused is passed over until its body changes or `replay` takes it from the rejected rows.

    Args:
        plans: the whole plan.
        name: an entity whose target has an `api`.
        settings: connections, and where rate limits are shared.
        run_id: recorded with each row.

    Raises:
        TransientError: API or journal cannot be reached, or somebody else delivers; what was sent is journalled.
        PermanentError: the API refuses all rows (credentials, permission, address), or the entity was signed off.
    """
    plan = plans[name]
    target = plan.declaration.target
    api = api_of(plans, plan, settings)
    try:
        with connect(settings.url(target.connection), target.connection, autocommit=True) as connection:
            prepare(connection, plan)
            if not settings.change_after_cutover:
                refuse_change(connection, name)
            # What refers to rows that go has to go first.
            for below in _below(plans, name):
                child = plans[below]
                if gone(connection, child):
                    delivery = Delivery(connection, plans, child, api_of(plans, child, settings), run_id)
                    delivery.begin(settings.lock_timeout_seconds)
            result = Delivery(connection, plans, plan, api, run_id).run(settings.lock_timeout_seconds)
            account(connection, plans, name, settings, run_id)
            return result
    except psycopg.Error as error:
        raise told(error, f"{name}, delivery") from None


def deliver_all(
    plans: MigrationPlan, settings: Settings, run_id: str = "", only: tuple[str, ...] = ()
) -> list[Delivered]:
    """Deliver every entity that has an API behind it, or those of `only`, parents first."""
    return [
        deliver(plans, name, settings, run_id) for name in delivery_order(plans) if not only or name in only
    ]


def delivery_order(plans: MigrationPlan) -> list[str]:
    """Entities with an API: each after those that its rows, and the rows that go inside them, refer to."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or plans[name].declaration.target.api is None:
            return
        seen.add(name)
        for needed in needs(plans, name):
            visit(needed)
        order.append(name)

    for name in plans.order:
        visit(name)
    return order


def needs(plans: MigrationPlan, name: str) -> list[str]:
    """The entities whose rows have to be over there before those of this one."""
    own = [edge.parent for edge in plans[name].edges]
    inside = [edge.parent for part in parts_of(plans, name) for edge in part.edges]
    return [one for one in dict.fromkeys([*own, *inside]) if one != name]


def _below(plans: MigrationPlan, name: str) -> list[str]:
    """What refers to an entity, directly or not, the farthest first."""
    found = {name}
    order = delivery_order(plans)
    for one in order:
        if found & {edge.parent for edge in plans[one].edges}:
            found.add(one)
    return [one for one in reversed(order) if one in found and one != name]


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
        Rows that were compared, and a sentence for each that differs. Rows inside others are not read by themselves.
    """
    plan, target = plans[name], plans[name].declaration.target
    api = api_of(plans, plan, settings)
    differences, compared = [], 0
    if api is None:
        return 0, []
    with connect(settings.url(target.connection), target.connection, autocommit=True) as connection:
        prepare(connection, plan)
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
            differences += [f"{name} {key} ({remote_id}): {one}" for one in _different(api.seen(body), there)]
    return compared, differences


def api_of(plans: MigrationPlan, plan: EntityPlan, settings: Settings) -> Api | None:
    """The API of an entity, None if its rows go inside those of another; refuses what cannot be delivered."""
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
        parent = plans[edge.parent].declaration.target
        if parent.api is None or parent.connection != target.connection:
            raise DeclarationError(
                f"{edge.parent} is delivered to no API from this journal's database, so nothing can refer to it",
                where=f"{where}: references",
                next=f"Give the target of {edge.parent} an `api` and the same connection, or drop the reference",
            )
    if target.api.within:
        _check_within(plans, plan, target.api)
        return None
    # Imported here, with the clients behind them: most runs deliver nothing.
    if target.api.rest:
        from ferry.targets.rest import RestTargetApi

        return RestTargetApi(target.api.rest, target.api.connection, settings, where)
    from ferry.targets.shopify import ShopifyTargetApi

    assert target.api.shopify is not None
    return ShopifyTargetApi(target.api.shopify, target.api.connection, settings, where)


def _check_within(plans: MigrationPlan, plan: EntityPlan, api: ApiTarget) -> None:
    assert api.within is not None
    owner, where = api.within.entity, f"{plan.entity.path}: target.api.within"
    if owner not in (edge.parent for edge in plan.edges):
        raise DeclarationError(
            f"its rows cannot go inside those of {owner}: it has no reference to them",
            where=where,
            next=f"Add a reference to {owner}",
        )
    outer = plans[owner].declaration.target.api
    if outer is None or outer.within or outer.connection != api.connection:
        raise DeclarationError(
            f"{owner} is not sent to {api.connection} by itself",
            where=where,
            next=f"Give {owner} an `api` of the same connection, with `rest` or `shopify`",
        )
    sorted_by = api.within.sorted_by
    if sorted_by and sorted_by not in plan.target.columns:
        raise DeclarationError(f"{plan.target.label} has no column {sorted_by!r}", where=f"{where}.sorted_by")


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
