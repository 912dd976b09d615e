"""What is wrong with a target after a trial, told by plain SQL and no code of the engine."""

import re
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from oracle import Oracle
from oracle.oracle import TABLES

KEYS = {"customers": "customer_id", "products": "product_id", "employees": "staff_id", "orders": "order_id"}
Pairs = dict[str, dict[int, int]]


@dataclass
class Judgement:
    """Rows lost, rows there once too often (or where none belongs), old keys that have, or had, two new ones."""

    lost: int = 0
    duplicated: int = 0
    mapped_twice: int = 0
    unaccounted: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing at all is wrong."""
        return not (self.said or self.lost or self.duplicated or self.mapped_twice or self.unaccounted)


def judge(oracle: Oracle, target_url: str, earlier: Pairs) -> Judgement:
    """Hold a settled target against what plain SQL expects, and its maps against `earlier` pairs of the same keys."""
    found = Judgement(said=oracle.differences(target_url))
    # Several sentences may give examples of one difference: table, number and kind together are counted once.
    kinds = {
        match.groups()
        for line in found.said
        if (match := re.match(r"(\w+): (\d+) rows (there but|\w+)", line))
    }
    for _, number, what in kinds:
        if what == "there but":
            found.duplicated += int(number)
        else:
            found.lost += int(number)
    with psycopg.connect(target_url) as target:
        _maps(target, found, earlier)
        _accounts(target, oracle, found)
    return found


def pairs(target_url: str) -> Pairs:
    """Every old key and its new one by entity, tombstones included, as far as there are maps."""
    with psycopg.connect(target_url) as target:
        return {
            entity: dict(
                target.execute(
                    sql.SQL("select old_id, {} from {}").format(
                        sql.Identifier(f"new_{key}"), sql.Identifier("ferry", f"id_map_{entity}")
                    )
                ).fetchall()
            )
            for entity, key in KEYS.items()
            if target.execute("select to_regclass(%s)", [f"ferry.id_map_{entity}"]).fetchone() != (None,)
        }


def leftovers(target_url: str, before_url: str) -> list[str]:
    """What differs between a target that was rolled back as a whole and what it was before, table by table."""
    found = []
    for table in TABLES.values():
        rows = []
        for url in (target_url, before_url):
            with psycopg.connect(url) as connection:
                query = sql.SQL("select md5(t::text) from {} t").format(sql.Identifier("public", table))
                rows.append(sorted(row[0] for row in connection.execute(query)))
        if rows[0] != rows[1]:
            found.append(f"{table}: {len(rows[0])} rows after the rollback, {len(rows[1])} before")
    return found


def _maps(target: psycopg.Connection, found: Judgement, earlier: Pairs) -> None:
    for entity, key in KEYS.items():
        there, new = sql.Identifier("ferry", f"id_map_{entity}"), sql.Identifier(f"new_{key}")
        row = target.execute(
            sql.SQL(
                "select (select count(*) from (select old_id from {map} group by 1 having count(*) > 1) x),"
                " (select count(*) from (select {new} from {map} where status <> 'preserved' group by 1"
                " having count(*) > 1) x),"
                " (select count(*) from {map} m where status <> 'tombstone' and not exists"
                " (select from {table} t where t.{key} = m.{new}))"
            ).format(
                map=there, new=new, key=sql.Identifier(key), table=sql.Identifier("public", TABLES[entity])
            )
        ).fetchone()
        assert row is not None
        twice, shared, dangling = row
        now = dict(target.execute(sql.SQL("select old_id, {} from {}").format(new, there)).fetchall())
        changed = sum(now.get(old) != known for old, known in earlier.get(entity, {}).items())
        if twice or shared or dangling or changed:
            found.mapped_twice += twice + shared + changed
            found.lost += dangling
            found.said.append(
                f"{entity}: {twice} old keys twice in the map, {shared} new keys shared, {changed} pairs changed,"
                f" {dangling} lead nowhere"
            )


def _accounts(target: psycopg.Connection, oracle: Oracle, found: Judgement) -> None:
    """Promise P1: the ledger adds up to what was in the source, and every rejected row is kept under its reason."""
    for entity, expected in oracle.outcomes().items():
        sums = target.execute(
            "select sum(extracted)::int, sum(inserted + updated + unchanged)::int, sum(preserved)::int,"
            " sum(rejected)::int, sum(waiting)::int from ferry.ledger where entity = %s",
            (entity,),
        ).fetchone()
        wanted = (expected.extracted, expected.inserted, expected.preserved, expected.rejected, 0)
        kept = target.execute(
            "select key, reason from ferry.rejected_rows where entity = %s order by 1", (entity,)
        ).fetchall()
        right = oracle.rejected(entity)
        if sums != wanted or {tuple(k): r for k, r in kept} != right or len(kept) != expected.rejected:
            found.unaccounted += 1
            found.said.append(f"{entity}: the ledger says {sums} and keeps {len(kept)}, {wanted} is right")
