"""Compute what the new shop must hold after a migration, and compare it with what it does hold."""

from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

# Each entity of the migration and the new shop's table that it fills.
TABLES = {
    "customers": "customers",
    "products": "products",
    "employees": "staff",
    "orders": "orders",
    "order_lines": "order_items",
}
SHOWN = 5


@dataclass(frozen=True)
class Outcome:
    """How many of an entity's source rows must end in which way, after a settled first migration.

    `rejections` counts rows by reason (duplicate_key, contract, missing_parent, parent_rejected), `rules`
    those of the reason contract by `<column>: <rule>`; no row of the shop breaks more than one rule.
    """

    extracted: int
    inserted: int
    preserved: int
    rejected: int
    rejections: dict[str, int] = field(default_factory=dict)
    rules: dict[str, int] = field(default_factory=dict)
    updated: int = 0
    unchanged: int = 0
    waiting: int = 0


class Oracle:
    """What must come of a migration, given both databases as they were before it.

    Args:
        source_url: the legacy shop.
        before_url: the new shop before the migration: the database itself, or a copy of it.
        scratch_url: an empty database that belongs to this oracle.
    """

    def __init__(self, source_url: str, before_url: str, scratch_url: str) -> None:
        self.scratch_url = scratch_url
        with psycopg.connect(scratch_url) as scratch:
            copy_tables(source_url, scratch, "legacy", tuple(TABLES))
            copy_tables(before_url, scratch, "before", tuple(TABLES.values()))
            scratch.execute(_script("expected.sql"))

    def outcomes(self) -> dict[str, Outcome]:
        """The expected counts of each entity."""
        with psycopg.connect(self.scratch_url) as scratch:
            counts = scratch.execute("SELECT * FROM outcomes").fetchall()
            reasons = scratch.execute(
                "SELECT entity, reason, count(*) FROM rejected GROUP BY 1, 2"
            ).fetchall()
            rules = scratch.execute(
                "SELECT entity, rule, count(*) FROM rejected, unnest(rules) AS rule"
                " WHERE reason = 'contract' GROUP BY 1, 2"
            ).fetchall()
        return {
            entity: Outcome(
                *numbers,
                rejections={reason: n for of, reason, n in reasons if of == entity},
                rules={rule: n for of, rule, n in rules if of == entity},
            )
            for entity, *numbers in counts
        }

    def rejected(self, entity: str) -> dict[tuple[str, ...], str]:
        """The key of each source row that must be rejected, as text, and the reason."""
        with psycopg.connect(self.scratch_url) as scratch:
            rows = scratch.execute("SELECT key, reason FROM rejected WHERE entity = %s", [entity]).fetchall()
        return {tuple(key): reason for key, reason in rows}

    def differences(self, target_url: str) -> list[str]:
        """Each way in which the new shop is not what it must be, in words; empty if it is so, row for row.

        Rows are compared whole, as often as they occur. Generated keys are not compared: what refers to a row
        is compared by that row's identity. Rows from before the migration are compared with their keys.
        """
        with psycopg.connect(self.scratch_url) as scratch:
            # One look at the target, rolled back at the end: the next comparison starts from nothing.
            copy_tables(target_url, scratch, "after", tuple(TABLES.values()))
            scratch.execute(_script("actual.sql"))
            found = [line for table in TABLES.values() for line in _compare(scratch, table)]
            scratch.rollback()
        return found


def _compare(scratch: psycopg.Connection, table: str) -> list[str]:
    expected, actual = sql.Identifier(f"expected_{table}"), sql.Identifier(f"actual_{table}")
    columns = sql.SQL(", ").join(
        sql.Identifier(column)
        for column in _columns(scratch, "public", f"expected_{table}")
        if column != "old_id"
    )
    before, after = sql.Identifier("before", table), sql.Identifier("after", table)
    difference = sql.SQL("SELECT {columns} FROM {these} EXCEPT ALL SELECT {columns} FROM {those}")
    questions = {
        "missing, or not as it must be": difference.format(columns=columns, these=expected, those=actual),
        "there but not expected, or once too often": difference.format(
            columns=columns, these=actual, those=expected
        ),
        "there before the migration and no longer what it was": difference.format(
            columns=sql.SQL("*"), these=before, those=after
        ),
    }
    found = []
    for what, question in questions.items():
        rows = scratch.execute(
            sql.SQL(
                "SELECT count(*) OVER (), left(row::text, 400) FROM ({}) AS row ORDER BY row::text LIMIT {}"
            ).format(question, SHOWN)
        ).fetchall()
        found += [f"{table}: {rows[0][0]} rows {what}, such as {row}" for _, row in rows]
    return found


def copy_tables(url: str, scratch: psycopg.Connection, schema: str, tables: tuple[str, ...]) -> None:
    """Copy tables of another database, in one snapshot, into a new schema of the scratch database."""
    scratch.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    with psycopg.connect(url) as origin:
        origin.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in tables:
            columns = _columns(origin, "public", table)
            scratch.execute(
                sql.SQL("CREATE TABLE {} ({})").format(
                    sql.Identifier(schema, table),
                    sql.SQL(", ").join(
                        sql.Identifier(column) + sql.SQL(f" {kind}")  # type: ignore[arg-type]
                        for column, kind in columns.items()
                    ),
                )
            )
            there = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("public", table)
            )
            here = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(sql.Identifier(schema, table))
            with origin.cursor().copy(there) as reading, scratch.cursor().copy(here) as writing:
                for block in reading:
                    writing.write(block)
            scratch.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table)))


def _columns(connection: psycopg.Connection, schema: str, table: str) -> dict[str, str]:
    """A table's columns in order, with their types in PostgreSQL's own words."""
    found = connection.execute(
        """SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
           WHERE attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND attnum > 0
             AND NOT attisdropped ORDER BY attnum""",
        [schema, table],
    ).fetchall()
    return dict(found)


def _script(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()
