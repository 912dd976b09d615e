"""The record that a migration was cut over: kept in the target, and respected by whoever would write after it."""

import json
from typing import Any

import psycopg

from ferry.errors import PermanentError

_TABLE = """
create table if not exists ferry.signed_off (
  entity text primary key, signed_by text not null, signed_at timestamptz not null default now(),
  run_id text not null default '', plan_hash text not null, document jsonb not null
)
"""


def sign(
    connection: psycopg.Connection,
    entity: str,
    *,
    by: str,
    run_id: str,
    plan_hash: str,
    document: dict[str, Any],
) -> None:
    """Write (or renew) the record of one entity.

    Args:
        connection: to the target, in the caller's transaction.
        entity: what is signed.
        by: who signs.
        run_id: of the run that did it.
        plan_hash: the declarations that it was done with.
        document: what was found: rows by outcome, fingerprint of the source.
    """
    connection.execute(_TABLE)
    connection.execute(
        "insert into ferry.signed_off (entity, signed_by, run_id, plan_hash, document) values (%s, %s, %s, %s, %s)"
        " on conflict (entity) do update set signed_by = excluded.signed_by, signed_at = now(),"
        " run_id = excluded.run_id, plan_hash = excluded.plan_hash, document = excluded.document",
        (entity, by, run_id, plan_hash, json.dumps(document)),
    )


def signed(connection: psycopg.Connection, entity: str) -> dict[str, Any] | None:
    """The record of an entity, or None if it was not cut over."""
    there = connection.execute("select to_regclass('ferry.signed_off') is not null").fetchone()
    if not there or not there[0]:
        return None
    row = connection.execute(
        "select signed_by, signed_at, run_id, plan_hash, document from ferry.signed_off where entity = %s",
        (entity,),
    ).fetchone()
    names = ("signed_by", "signed_at", "run_id", "plan_hash", "document")
    return dict(zip(names, row, strict=True)) if row else None


def refuse_change(connection: psycopg.Connection, entity: str) -> None:
    """Raise `PermanentError` if the entity was signed off."""
    record = signed(connection, entity)
    if record is not None:
        raise PermanentError(
            "it was cut over, and nothing is changed after that",
            where=entity,
            why=f"{record['signed_by']} signed it off on {record['signed_at']:%Y-%m-%d %H:%M %Z}",
            next="If you mean it, set FERRY_CHANGE_AFTER_CUTOVER=true for this one run",
        )
