"""A whole migration by the command `ferry`, held against what plain SQL says must come of it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from conftest import NEW_SHOP_TEMPLATE, Shop
from migrating import Migrating, declarations_by_year
from oracle import Oracle
from oracle.oracle import TABLES


@pytest.fixture(scope="module")
def migrated(module_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Migrating, dict[str, Any]]:
    """A shop that one `ferry run` migrated, and the report that the run gave."""
    folder = declarations_by_year(tmp_path_factory.mktemp("defs"))
    stage = tmp_path_factory.mktemp("stage")
    migrating = Migrating(module_shop.source_url, module_shop.target_url, folder, stage)
    ran = migrating.ferry("run", "--json")
    assert ran.returncode == 0, ran.stderr
    return migrating, json.loads(ran.stdout)


def test_the_target_holds_what_plain_sql_expects(migrated: tuple[Migrating, Any], oracle: Oracle) -> None:
    """Row for row, every reference followed, and rows from before the migration as they were."""
    assert oracle.differences(migrated[0].target_url) == []


def test_every_count_is_the_expected_one(migrated: tuple[Migrating, Any], oracle: Oracle) -> None:
    """Outcomes and reasons of each entity, as the run reports them, are those that plain SQL counts."""
    report = migrated[1]
    assert report["reconciled"] is True
    for name, outcome in oracle.outcomes().items():
        expected = asdict(outcome)
        rules = {f"contract: {rule}": n for rule, n in expected.pop("rules").items()}
        reasons = expected.pop("rejections")
        reasons.pop("contract", None)
        found = report["entities"][name]
        assert {key: found[key] for key in expected} == expected, name
        assert found["rejections"] == {**reasons, **rules}, name
        assert found["reconciled"] is True, name


def test_each_rejected_row_is_kept_whole_under_its_reason(
    migrated: tuple[Migrating, Any], oracle: Oracle
) -> None:
    """Exactly the rows that plain SQL rejects are in `ferry.rejected_rows`, with all that would have been loaded."""
    with migrated[0].target() as target, migrated[0].source() as source:
        for name in TABLES:
            rows = target.execute(
                "select key, reason, row from ferry.rejected_rows where entity = %s", (name,)
            ).fetchall()
            assert {tuple(key): reason for key, reason, _ in rows} == oracle.rejected(name), name
            columns = {c.name for c in source.execute(f"select * from {name} limit 0").description or ()}
            dropped = set(migrated[0].plans()[name].declaration.drop)
            assert all(columns - dropped <= set(row) <= columns for *_, row in rows), name


def test_the_kept_row_is_what_stood_in_the_source(migrated: tuple[Migrating, Any]) -> None:
    """Numbers, dates beyond Python's and text of a rejected row read back from its JSON as the source has them."""
    with migrated[0].target() as target, migrated[0].source() as source:
        kept = target.execute(
            "select row->>'id', row->>'total', row->>'placed_at', row->>'comment' from ferry.rejected_rows"
            " where entity = 'orders' and reason = 'contract' order by 1"
        ).fetchall()
        there = source.execute(
            "select id::text, total::text, to_char(placed_at, 'YYYY-MM-DD\"T\"HH24:MI:SS') ||"
            " case when extract(microseconds from placed_at)::bigint %% 1000000 = 0 then ''"
            " else to_char(placed_at, '.US') end, comment from orders where id = any(%s::bigint[]) order by 1",
            ([row[0] for row in kept],),
        ).fetchall()
    assert len(kept) == 35
    assert kept == there


def test_a_customer_who_refers_to_a_later_one_gets_his_reference(migrated: tuple[Migrating, Any]) -> None:
    """The row that is read before its parent, both in one table, points to the parent's new key in the end."""
    migrating = migrated[0]
    with migrating.source() as source, migrating.target() as target:
        pairs = source.execute("select id, referred_by from customers where referred_by = id + 1").fetchall()
        for old, referrer in pairs:
            found = target.execute(
                "select referred_by_id from customers where customer_id = %s",
                (migrating.new_key("customers", old),),
            ).fetchone()
            assert found == (migrating.new_key("customers", referrer),)
    assert len(pairs) == 5


def test_the_map_has_one_pair_for_each_row_that_is_in_the_target(
    migrated: tuple[Migrating, Any], oracle: Oracle
) -> None:
    """No accepted row lacks its pair, no rejected one has any, no two share a new key."""
    with migrated[0].target() as target:
        for name in ("customers", "products", "employees", "orders"):
            outcome = oracle.outcomes()[name]
            counted = target.execute(
                "select count(*), count(distinct new_%s), count(*) filter (where status = 'preserved')"
                " from ferry.id_map_%s".replace("%s", "{}").format(
                    {"customers": "customer_id", "products": "product_id", "employees": "staff_id",
                     "orders": "order_id"}[name], name,
                )
            ).fetchone()  # fmt: skip
            expected = outcome.inserted + outcome.preserved
            assert counted == (expected, expected, outcome.preserved), name


def test_status_and_rejects_say_the_same_as_the_run(migrated: tuple[Migrating, Any]) -> None:
    """The ledger's sums and reasons, asked for later by the command, are the run's; each row is named by its key."""
    migrating, report = migrated
    status = {row["entity"]: row for row in json.loads(migrating.ferry("status", "--json").stdout)}
    rejects = json.loads(migrating.ferry("rejects", "--json", "--limit", "3").stdout)
    for name, found in report["entities"].items():
        assert {
            key: status[name][key] for key in ("extracted", "inserted", "preserved", "rejected", "waiting")
        } == {key: found[key] for key in ("extracted", "inserted", "preserved", "rejected", "waiting")}
        assert (
            status[name]["complete"] == status[name]["partitions"] == (7 if name.startswith("order") else 1)
        )
        assert rejects["counts"][name] == found["rejections"]
    assert len(rejects["rows"]) == 15
    assert all(row["key"] and row["reason"] for row in rejects["rows"])


def test_a_second_run_writes_nothing(by_year: Migrating) -> None:
    """No row of the new shop, of a map, of the ledger or of the rejected rows is written again."""
    by_year.load_all()
    before = by_year.row_versions("public", "ferry")
    again = by_year.load_all()
    after = by_year.row_versions("public", "ferry")
    # Which run looked at a partition last is all that a second run has to say.
    for versions in (before, after):
        del versions["ferry.partitions"]
    assert after == before
    for name, went in again.items():
        assert went.skipped_chunks == went.chunks > 0, name
        assert (went.outcomes.inserted, went.outcomes.updated, went.different) == (0, 0, 0), name


def test_one_changed_source_row_updates_exactly_one(by_year: Migrating) -> None:
    """Of a table of thousands one row is written, and the target is again what plain SQL expects."""
    by_year.load_all()
    before = by_year.row_versions("public")
    with by_year.source() as source:
        changed = source.execute("update orders set comment = 'changed' where id = 7 returning id").rowcount
    again = by_year.load_all()
    after = by_year.row_versions("public")
    assert changed == 1
    assert {name: went.outcomes.updated for name, went in again.items()} == {
        "customers": 0, "employees": 0, "orders": 1, "products": 0, "order_lines": 0,
    }  # fmt: skip
    assert {table for table in before if before[table] != after[table]} == {"public.orders"}
    assert len(set(after["public.orders"]) - set(before["public.orders"])) == 1
    with by_year.target() as target:
        row = target.execute(
            "select remark from orders where order_id = %s", (by_year.new_key("orders", 7),)
        ).fetchone()
    assert row == ("changed",)


def test_a_flipped_digit_is_found_with_key_and_column(by_year: Migrating) -> None:
    """`ferry reconcile` names the old key, the column and both values, and ends with status 1; whole, with 0."""
    by_year.load_all()
    whole = by_year.ferry("reconcile")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.endswith(" 0 differ.\n")
    with by_year.target() as target:
        order = by_year.new_key("orders", 7)
        total = target.execute("select total_amount from orders where order_id = %s", (order,)).fetchone()[0]
        target.execute("update orders set total_amount = total_amount + 0.01 where order_id = %s", (order,))
        target.execute("update order_items set quantity = quantity + 1 where order_id = %s and line_number = 1",
                       (order,))  # fmt: skip
        target.execute("delete from order_items where order_id = %s and line_number = 2", (order,))
    found = by_year.ferry("reconcile", "--json")
    assert found.returncode == 1
    differences = {
        (row["entity"], one["key"], one["column"]): (one["expected"], one["found"])
        for row in json.loads(found.stdout)
        for one in row["differences"]
    }
    assert differences[("orders", "7", "total_amount")] == (str(total), str(total + type(total)("0.01")))
    assert set(differences) == {
        ("orders", "7", "total_amount"), ("order_lines", "7, 1", "quantity"), ("order_lines", "7, 2", ""),
    }  # fmt: skip
    assert sum(row["different"] for row in json.loads(found.stdout)) == 3


def test_a_run_finds_what_somebody_changed_in_the_target_meanwhile(by_year: Migrating) -> None:
    """A chunk that is skipped because its content was loaded before is still held against the target."""
    by_year.load_all()
    with by_year.target() as target:
        target.execute(
            "update customers set credit = credit + 1 where customer_id = %s",
            (by_year.new_key("customers", 9),),
        )
    again = by_year.load("customers")
    assert (again.skipped_chunks, again.different) == (1, 1)


def test_smaller_chunks_give_the_same_target(by_year: Migrating, oracle: Oracle) -> None:
    """Where a partition is cut into chunks does not show in the target or in the counts."""
    by_year.chunk_rows = 97
    went = by_year.load_all()
    assert went["order_lines"].chunks > 100
    assert oracle.differences(by_year.target_url) == []
    assert went["customers"].outcomes.as_dict() | {"waiting": 0} == {
        name: n for name, n in asdict(oracle.outcomes()["customers"]).items() if isinstance(n, int)
    }


def test_a_source_that_shrank_and_grew_is_followed(
    by_year: Migrating, new_database: Callable[..., str]
) -> None:
    """Repaired dirt, a corrected date and a row more: the next run gives what a first one of that source would."""
    by_year.load_all()
    with by_year.source() as source:
        repaired = source.execute("update orders set total = 1 where total is null").rowcount
        moved = source.execute(
            "update orders set placed_at = placed_at + interval '1 year' * case id % 2 when 0 then 1 else -1 end"
            " where id in (select id from orders where placed_at between '1995-01-01' and '1995-12-28'"
            " and total >= 0 order by id limit 10)"
        ).rowcount
        source.execute(
            "insert into orders select 99999999, customer_id, employee_id, status, total, priority, placed_at,"
            " 'one more', now() from orders where id = 7"
        )
    assert (repaired, moved) == (5, 10)
    by_year.load_all()
    now = Oracle(by_year.source_url, new_database(NEW_SHOP_TEMPLATE), new_database())
    assert now.differences(by_year.target_url) == []
