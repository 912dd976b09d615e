"""Discovered and two-dimensional partitions in Dagster: events, versions, and what is never forgotten."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ferry.components import FerryResource
from ferry.components.entity import entity_assets
from ferry.declaration import migration_in
from ferry.io_managers import DatabaseIOManager, Relation
from ferry.partition import OTHERS
from regions import EVERY_KEY, orders_by_region
from small import Small
from small_location import small_location


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that schedules and sensors can open again."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as own:
        yield own


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Orders, lines and tags, in the environment of this process."""
    made = orders_by_region(new_database, tmp_path)
    for name, value in made.migrating.environment.items():
        monkeypatch.setenv(name, value)
    return made


def tick(small: Small, instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """What the sensor finds, made known to Dagster as the daemon does."""
    repository = small_location(small.migrating.folder).get_repository_def()
    sensor = repository.get_sensor_def("new_partitions")
    with dg.build_sensor_context(
        instance, repository_def=repository, resources={"ferry": FerryResource()}
    ) as context:
        data = sensor.evaluate_tick(context)
    found = {
        request.partitions_def_name: list(request.partition_keys)
        for request in data.dynamic_partitions_requests
    }
    for name, keys in found.items():
        instance.add_dynamic_partitions(name, keys)
    return found


def run(
    small: Small, instance: dg.DagsterInstance, name: str, first: str, last: str
) -> dg.ExecuteInProcessResult:
    """One run over a rectangle of partitions, as a backfill launches it."""
    return dg.materialize(
        [entity_assets(migration_in(small.migrating.folder), migration_in(small.migrating.folder)[name])],
        instance=instance,
        resources={"ferry": FerryResource(), "id_map": dg.mem_io_manager},
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        raise_on_error=False,
    )


def read(small: Small, instance: dg.DagsterInstance, cut: dg.PartitionsDefinition, key: str) -> list[int]:
    """The keys that an asset of somebody's own gets of one partition of the loaded table."""
    seen = []

    @dg.asset(partitions_def=cut, ins={"orders": dg.AssetIn("loaded_orders", input_manager_key="crm")})
    def report(orders: Relation) -> None:
        seen.extend(sorted(orders.to_pandas()["new_id"]))

    migration, ferry = migration_in(small.migrating.folder), FerryResource()
    resources = {
        "ferry": ferry,
        "id_map": dg.mem_io_manager,
        "crm": DatabaseIOManager(connection="crm", ferry=ferry),
    }
    assets = [entity_assets(migration, migration["orders"]), report]
    assert dg.materialize(
        assets, instance=instance, resources=resources, selection=[report], partition_key=key
    ).success
    return seen


def stale(small: Small, instance: dg.DagsterInstance, keys: list[str]) -> set[tuple[str, str]]:
    """Which partitions of what orders are made of Dagster calls stale."""
    graph = small_location(small.migrating.folder).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    names = ("raw_orders", "validated_orders", "loaded_orders")
    return {
        (name, key)
        for name in names
        for key in keys
        if resolver.get_status(dg.AssetKey(name), key) == StaleStatus.STALE
    }


def observe(small: Small, instance: dg.DagsterInstance) -> None:
    """Look at every partition of orders, as its schedule asks."""
    definitions = small_location(small.migrating.folder)
    repository = definitions.get_repository_def()
    schedule = repository.get_schedule_def("watch_legacy_lines")
    with dg.build_schedule_context(instance, repository_def=repository) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    job = definitions.resolve_job_def(schedule.job_name)
    assert job.execute_in_process(instance=instance, tags=request.tags).success


def test_what_the_sensor_finds_is_run_in_rectangles_and_each_partition_has_its_own_end(
    small: Small, instance: dg.DagsterInstance
) -> None:
    """The sensor makes the regions known, once. One run over all months and regions gives each partition its
    materializations and checks, found by month and by region; a changed row makes one partition stale, seen again
    nothing is; a region that comes later is rows of `(others)` until it is found, and then moves."""
    assert tick(small, instance) == {"orders.region": [OTHERS, "north", "south"]}
    assert tick(small, instance) == {}
    keys = (
        small_location(small.migrating.folder)
        .resolve_asset_graph()
        .get(dg.AssetKey("loaded_orders"))
        .partitions_def
    )
    assert keys is not None
    assert keys.get_partition_keys(dynamic_partitions_store=instance) == EVERY_KEY
    observe(small, instance)

    result = run(small, instance, "orders", EVERY_KEY[0], EVERY_KEY[-1])
    assert result.success
    for stage in ("raw", "validated", "loaded"):
        assert instance.get_materialized_partitions(dg.AssetKey(f"{stage}_orders")) == set(EVERY_KEY)
    events = [
        record.event_log_entry.asset_materialization
        for record in instance.get_records_for_run(
            result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
    ]
    assert {
        (e.tags["dagster/partition/placed_at"], e.tags["dagster/partition/region"]) for e in events if e
    } == {tuple(key.split("|")) for key in EVERY_KEY}
    checks = instance.get_records_for_run(
        result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    assert len(checks) == 5 * len(EVERY_KEY)
    for key in (f"2024-01|{OTHERS}", "2024-02|north"):
        there = small.rows("select new_new_id from ferry.id_map_orders where partition = %s order by 1", key)
        assert (read(small, instance, keys, key), len(there) > 2) == ([one for (one,) in there], True)
    assert stale(small, instance, EVERY_KEY) == set()
    small.source("update orders set total = 99 where id = 3")
    observe(small, instance)
    assert stale(small, instance, EVERY_KEY) == {("raw_orders", "2024-01|north")}

    moved = "select new_new_id, partition from ferry.id_map_orders where old_id = 50"
    small.source("insert into orders values (50, '2024-02-01', 'west', 50)")
    assert run(small, instance, "orders", *[f"2024-02|{OTHERS}"] * 2).success
    before = small.rows(moved)
    assert tick(small, instance) == {"orders.region": ["west"]}
    assert run(small, instance, "orders", *["2024-02|west"] * 2).success
    after = small.rows(moved)
    assert (before[0][0], "2024-02|west") == after[0]
    # What somebody adds in the UI alone is known to Ferry once a run was asked for it.
    instance.add_dynamic_partitions("orders.region", ["east"])
    assert run(small, instance, "orders", *["2024-02|east"] * 2).success
    assert small.rows("select key from ferry.partition_keys order by id desc limit 1") == [("east",)]


def test_what_is_cut_alike_depends_on_the_same_partition_and_anything_else_on_all(small: Small) -> None:
    """Lines are cut through orders: one partition each. Tags are cut by region, where Dagster by itself would take
    the orders of that region: but a tag may belong to any order."""
    graph = small_location(small.migrating.folder).resolve_asset_graph()
    orders = dg.AssetKey("loaded_orders")
    for child, mapping in (("loaded_lines", None), ("loaded_tags", dg.AllPartitionMapping())):
        node = graph.get(dg.AssetKey(child))
        assert node.partition_mappings.get(orders) == mapping
    kept = graph.get(dg.AssetKey("loaded_lines"))
    assert kept.partitions_def == graph.get(orders).partitions_def


def test_the_command_finds_runs_and_shows_partitions(small: Small) -> None:
    """`ferry run` finds the regions and loads all; `partitions` says how far each is, and makes a new one known; then
    `run --partition` takes one rectangle of months and regions, and `status --partition` counts it: of the entities
    that are named, or of all that have such a partition."""
    made = small.migrating
    assert made.ferry("run", "--json").returncode == 0
    shown = json.loads(made.ferry("partitions", "orders", "--add", "west", "--json").stdout)
    complete = {row["partition"]: row["complete"] for row in shown}
    assert complete["2024-02|west"] is False
    assert sum(complete.values()) == 6
    west = "2024-01|west:2024-02|west"
    assert made.ferry("run", "orders", "--partition", west, "--json").returncode == 0

    def counted(*words: str) -> dict[str, tuple[int, int, int]]:
        rows = json.loads(made.ferry("status", *words, "--json").stdout)
        return {row["entity"]: (row["extracted"], row["complete"], row["partitions"]) for row in rows}

    assert counted("orders", "--partition", "2024-01|south:2024-02|west") == {"orders": (14, 4, 4)}
    assert counted("--partition", "north") == {"tags": (26, 1, 1)}
    for words in (("orders", "--partition", "north"), ("--partition", "nroth")):
        assert "there is no partition" in made.ferry("status", *words).stderr
