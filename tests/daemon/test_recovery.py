"""A run that failed in the middle of the graph goes on where it failed: what succeeded is not run again."""

from collections.abc import Iterator

import pytest

from conftest import Shop
from migrating import Migrating, declarations_by_year
from serving import Served, serving

EMPLOYEES = ("raw_employees", "validated_employees", "loaded_employees_and_id_mapping")
CUSTOMERS = ("raw_customers", "validated_customers", "loaded_customers_and_id_mapping")
ORDERS = ("raw_orders", "validated_orders", "loaded_orders")
LINES = ("raw_order_lines", "validated_order_lines", "loaded_order_lines")
REPORT = "customer_history"


@pytest.fixture(scope="module")
def migrating(module_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Migrating:
    """One migration for the tests here, orders cut by year."""
    place = tmp_path_factory.mktemp("recovery")
    folder = declarations_by_year(place / "defs")
    return Migrating(module_shop.source_url, module_shop.target_url, folder, place / "stage")


@pytest.fixture(scope="module")
def served(migrating: Migrating, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The UI over it."""
    with serving(migrating, tmp_path_factory.mktemp("served") / "dagster") as running:
        yield running


def scans(migrating: Migrating) -> dict[str, int]:
    """How often each table of the old shop was read, by the server's own statistics."""
    with migrating.source() as source:
        return dict(
            source.execute(
                "select relname, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_user_tables"
            ).fetchall()
        )


def test_what_succeeded_is_not_run_again_and_is_loaded_by_its_io_managers(
    served: Served, migrating: Migrating
) -> None:
    """Parents load, orders fail, lines and a report wait for them; re-executed over GraphQL from failure, customers
    are not read again, and the report gets their map and the orders through the IO managers."""
    broken = migrating.break_stage("orders", "1994")
    run_id = served.launch_partition(
        "1994", *EMPLOYEES, *CUSTOMERS, *ORDERS, *LINES, REPORT, location=served.location
    )
    assert served.finished(run_id)["status"] == "FAILURE"
    # Steps after the failed one did not begin, so they have no statistics.
    assert served.steps(run_id) == {"employees": "SUCCESS", "customers": "SUCCESS", "orders": "FAILURE"}
    assert any("orders, 1994: the staging area cannot be written" in each for each in served.messages(run_id))
    before = scans(migrating)

    broken.unlink()
    again = served.execute_again(run_id)
    served.succeeded(again)
    assert served.steps(again) == {"orders": "SUCCESS", "order_lines": "SUCCESS", REPORT: "SUCCESS"}
    after = scans(migrating)
    assert after["customers"] == before["customers"]
    assert after["orders"] > before["orders"]
    with migrating.target() as target:
        reported = target.execute("select count(*), sum(orders) from reports.customer_history").fetchone()
        counted = target.execute(
            "select count(distinct new_customer_id), count(order_id) from ferry.id_map_customers"
            " left join orders on customer_id = new_customer_id"
        ).fetchone()
    assert reported is not None
    assert reported == counted
    assert reported[1] > 300


def test_of_a_batch_only_the_partition_that_failed_is_read_again(
    served: Served, migrating: Migrating
) -> None:
    """Seven years in one run, one of them broken: gone on from failure, six keep the run that loaded them."""
    served.succeeded(served.launch(*EMPLOYEES, *CUSTOMERS, location=served.location))
    broken = migrating.break_stage("orders", "1996")
    years = {"dagster/asset_partition_range_start": "1992", "dagster/asset_partition_range_end": "1998"}
    run_id = served.launch(*ORDERS, location=served.location, tags=years)
    assert served.finished(run_id)["status"] == "FAILURE"

    broken.unlink()
    again = served.execute_again(run_id)
    served.succeeded(again)
    assert any("6 of 7 partitions were made before the failure" in each for each in served.messages(again))
    assert migrating.loaded_by("orders") == {
        str(year): again if year == 1996 else run_id for year in range(1992, 1999)
    }

    from_scratch = served.execute_again(again, "ALL_STEPS")
    served.succeeded(from_scratch)
    assert not any("made before the failure" in each for each in served.messages(from_scratch))
