"""The shop's whole migration through the stack: launched over GraphQL, run in containers, judged by plain SQL."""

import time
from collections import Counter
from dataclasses import dataclass

import psycopg
import pytest

from oracle import Oracle
from stack import Stack, command, wait_for

# The first test waits for the whole migration.
pytestmark = pytest.mark.timeout(900)

GIB = 1024**3
LOADED = {
    "customers": "loaded_customers_and_id_mapping",
    "products": "loaded_products_and_id_mapping",
    "employees": "loaded_employees_and_id_mapping",
    "orders": "loaded_orders",
    "order_lines": "loaded_order_lines",
}
PARTITIONED = ("orders", "order_lines")
MONTHS = 84


def assets_of(entity: str) -> list[str]:
    """The three assets of an entity."""
    return [f"raw_{entity}", f"validated_{entity}", LOADED[entity]]


@dataclass(frozen=True)
class Migrated:
    """What became of one migration of the demo: its runs by entity, the one that was killed, and the databases."""

    runs: dict[str, str]
    killed: str
    oracle: Oracle
    source_url: str
    target_url: str

    def target(self) -> psycopg.Connection:
        """A connection to the new shop, in autocommit."""
        return psycopg.connect(self.target_url, autocommit=True)


@pytest.fixture(scope="module")
def migrated(stack: Stack) -> Migrated:
    """The demo, migrated once: entities in no order, one run killed in the middle, then settled."""
    address = stack.service("demo-db")["NetworkSettings"]["Networks"][f"{stack.project}_runs"]["IPAddress"]
    url = f"postgresql://postgres:demo@{address}:5432"
    with psycopg.connect(f"{url}/postgres", autocommit=True) as admin:
        if stack.psql("demo-db", "new_shop", "SELECT 1 FROM pg_namespace WHERE nspname = 'ferry'"):
            # A stack that was kept: its demo starts anew.
            for name in ("legacy", "new_shop"):
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
            stack.compose("run", "--rm", "--no-deps", "demo-fill")
        admin.execute("DROP DATABASE IF EXISTS oracle")
        admin.execute("CREATE DATABASE oracle")
    oracle = Oracle(f"{url}/legacy", f"{url}/new_shop", f"{url}/oracle")

    backfills = {entity: stack.backfill(*assets_of(entity)) for entity in reversed(PARTITIONED)}
    runs = {
        entity: stack.launch(*assets_of(entity), location="ferry")
        for entity in LOADED
        if entity not in PARTITIONED
    }
    for entity, backfill in backfills.items():
        runs[entity] = wait_for(
            f"a run of {entity}", lambda of=backfill: stack.runs_with_tag("dagster/backfill", of), 90
        )[0]

    killed = runs["order_lines"]
    stack.reaches(killed, "STARTED", 120)
    with psycopg.connect(f"{url}/new_shop", autocommit=True) as target:

        def in_the_middle() -> bool:
            there = target.execute("SELECT to_regclass('ferry.ledger') IS NOT NULL").fetchone()
            if not there or not there[0]:
                return False
            done = target.execute(
                "SELECT count(*) FROM ferry.partitions WHERE entity = 'order_lines'"
            ).fetchone()
            return bool(done and 3 <= done[0] < MONTHS)

        wait_for("some months of order lines are loaded", in_the_middle, 120, pause=0.05)
        command("docker", "kill", "--signal", "KILL", stack.container_of_run(killed)["Id"])
        left = target.execute("SELECT count(*) FROM ferry.partitions WHERE entity = 'order_lines'").fetchone()
        assert left
        assert left[0] < MONTHS, "the run had ended before it was killed"
    assert stack.finished(killed)["status"] == "FAILURE"
    runs["order_lines"] = stack.retry_of(killed)
    for run_id in runs.values():
        stack.succeeded(run_id, 300)
    stack.succeeded(stack.launch_job("settle", location="ferry"))
    return Migrated(runs, killed, oracle, f"{url}/legacy", f"{url}/new_shop")


def test_every_entity_ran_in_a_container_of_its_own(stack: Stack, migrated: Migrated) -> None:
    """Five entities, five containers from the image of the code server, each with its limit and without a socket."""
    containers = {entity: stack.container_of_run(run_id) for entity, run_id in migrated.runs.items()}
    assert len({each["Id"] for each in containers.values()}) == 5
    for entity, each in containers.items():
        assert each["Config"]["Image"] == f"ferry-user-code:{stack.tag}", entity
        assert each["HostConfig"]["Memory"] == GIB, entity
        assert each["HostConfig"]["CapDrop"] == ["ALL"], entity
        assert {mount["Type"] for mount in each["Mounts"]} == {"volume"}, entity


def test_the_new_shop_is_what_plain_sql_says_it_must_be(migrated: Migrated) -> None:
    """Row for row, references by identity, rows from before untouched; although one run was killed in the middle."""
    assert migrated.oracle.differences(migrated.target_url) == []


@pytest.mark.parametrize("entity", LOADED)
def test_every_row_is_accounted_for(migrated: Migrated, entity: str) -> None:
    """The ledger's sums are the counts that the oracle expects; nothing waits."""
    with migrated.target() as target:
        row = target.execute(
            "SELECT sum(extracted), sum(inserted + updated + unchanged), sum(preserved), sum(rejected), sum(waiting)"
            " FROM ferry.ledger WHERE entity = %s",
            [entity],
        ).fetchone()
    expected = migrated.oracle.outcomes()[entity]
    assert row is not None
    assert [int(count) for count in row] == [
        expected.extracted,
        expected.inserted,
        expected.preserved,
        expected.rejected,
        0,
    ]


@pytest.mark.parametrize("entity", LOADED)
def test_rejected_rows_are_kept_with_their_reason(migrated: Migrated, entity: str) -> None:
    """Exactly the rows that must be rejected, each for the reason that applies first."""
    with migrated.target() as target:
        rows = target.execute(
            "SELECT key, reason FROM ferry.rejected_rows WHERE entity = %s", [entity]
        ).fetchall()
    expected = migrated.oracle.rejected(entity)
    assert Counter((tuple(key), reason) for key, reason in rows).keys() == set(expected.items())
    assert len(rows) == migrated.oracle.outcomes()[entity].rejected


@pytest.mark.parametrize("entity", ["customers", "products", "employees", "orders"])
def test_the_id_map_has_one_new_key_for_each_row_that_came(migrated: Migrated, entity: str) -> None:
    """Inserted and preserved rows are in the map, each old key once."""
    with migrated.target() as target:
        row = target.execute(
            f"SELECT count(*), count(DISTINCT old_id) FROM ferry.id_map_{entity} WHERE status <> 'tombstone'"  # type: ignore[arg-type]
        ).fetchone()
    expected = migrated.oracle.outcomes()[entity]
    assert row == (expected.inserted + expected.preserved,) * 2


def test_the_killed_run_says_so_and_its_retry_went_on(stack: Stack, migrated: Migrated) -> None:
    """A crash is retried by itself, as a run from failure."""
    assert any("killed from outside (SIGKILL)" in each for each in stack.messages(migrated.killed))
    retry = stack.run(migrated.runs["order_lines"])
    assert retry["parentRunId"] == migrated.killed
    assert retry["tags"]["dagster/retry_number"] == "1"


def test_all_months_are_materialized(stack: Stack, migrated: Migrated) -> None:
    """The UI shows every partition of every stage as loaded, although one run did them all."""
    assert migrated.runs
    for entity in PARTITIONED:
        for asset in assets_of(entity):
            said = stack.graphql(
                "query($path: [String!]!) { assetNodes(assetKeys: [{path: $path}]) { partitionStats"
                " { numMaterialized numFailed numPartitions } } }",
                path=[asset],
            )["assetNodes"][0]["partitionStats"]
            assert said == {"numMaterialized": MONTHS, "numFailed": 0, "numPartitions": MONTHS}, asset


def test_the_sensor_fires_when_orders_change(stack: Stack, migrated: Migrated) -> None:
    """The daemon evaluates the sensor, sees the newest order, and launches the open month in a container."""
    stack.start_sensor("legacy_orders_changed")
    try:
        run_id = wait_for(
            "the sensor launches a run",
            lambda: stack.runs_with_tag("dagster/sensor_name", "legacy_orders_changed"),
            120,
        )[0]
    finally:
        stack.stop_sensor("legacy_orders_changed")
    stack.succeeded(run_id)
    assert stack.run(run_id)["tags"]["dagster/partition"] == "1998-12"
    assert migrated.oracle.differences(migrated.target_url) == []


def test_the_schedule_fires_at_its_hour(stack: Stack, migrated: Migrated) -> None:
    """The daemon launches the nightly run.

    The schedule's start is put back by two days in Dagster's storage, as if it had been on over night.
    """
    stack.start_schedule("nightly_orders", since=time.time() - 2 * 86400)
    try:
        run_id = wait_for(
            "the schedule launches a run",
            lambda: stack.runs_with_tag("dagster/schedule_name", "nightly_orders"),
            120,
        )[0]
    finally:
        stack.stop_schedule("nightly_orders")
    stack.succeeded(run_id)
    assert migrated.oracle.differences(migrated.target_url) == []
