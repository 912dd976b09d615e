"""What Dagster would start by itself: exactly what changed, once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ferry.components import FerryResource
from ferry.components.entity import entity_assets
from ferry.declaration import migration_in
from location import location
from migrating import Migrating
from small import Small
from small_location import small_location

STAGES = ("raw_orders", "validated_orders", "loaded_orders")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A real instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as own:
        yield own


@pytest.fixture
def running(by_year: Migrating, monkeypatch: pytest.MonkeyPatch) -> Migrating:
    """The migration that this process' environment points to, orders being loaded when the source changes."""
    for name, value in by_year.environment.items():
        monkeypatch.setenv(name, value)
    path = by_year.folder / "orders" / "defs.yaml"
    path.write_text(path.read_text() + "  automation: on_source_change\n")
    return by_year


def observe(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Look at all sources, with the runs that the schedules ask for."""
    repository = definitions.get_repository_def()
    schedules = [one for one in repository.schedule_defs if one.name.startswith("watch_")]
    assert schedules
    for schedule in schedules:
        with dg.build_schedule_context(instance, repository_def=repository) as context:
            (request,) = schedule.evaluate_tick(context).run_requests or ()
        job = definitions.resolve_job_def(schedule.job_name)
        assert job.execute_in_process(instance=instance, tags=request.tags).success


def test_exactly_the_partitions_whose_source_changed_are_asked_for(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """Two orders of 1993 and 1996 change: all three stages of these years, once; what is not declared: never."""
    observe(location(running.folder), instance)
    first = dg.evaluate_automation_conditions(location(running.folder), instance)
    observe(location(running.folder), instance)
    unchanged = dg.evaluate_automation_conditions(location(running.folder), instance, cursor=first.cursor)
    assert unchanged.total_requested == 0
    with running.source() as source:
        source.execute(
            "update orders set comment = 'seen' where id in (select max(id) from orders"
            " where extract(year from placed_at) in (1993, 1996) group by extract(year from placed_at))"
        )
        source.execute("update products set name = name || '!' where id = 1")
    observe(location(running.folder), instance)
    changed = dg.evaluate_automation_conditions(location(running.folder), instance, cursor=unchanged.cursor)
    for stage in STAGES:
        assert changed.get_requested_partitions(dg.AssetKey(stage)) == {"1993", "1996"}
    assert changed.get_num_requested(dg.AssetKey("raw_products")) == 1
    assert changed.total_requested == 3 * 2 + 3
    again = dg.evaluate_automation_conditions(location(running.folder), instance, cursor=changed.cursor)
    assert again.total_requested == 0


def stale(running: Migrating, instance: dg.DagsterInstance) -> dict[tuple[str, str], list[str]]:
    """Asset and year → why Dagster calls it stale, for 1993 and 1994 of what orders are made of."""
    graph = location(running.folder).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {
        (asset, year): [cause.reason for cause in resolver.get_stale_causes(dg.AssetKey(asset), year)]
        for asset in STAGES
        for year in ("1993", "1994")
        if resolver.get_status(dg.AssetKey(asset), year) == StaleStatus.STALE
    }


def test_a_change_of_the_source_makes_exactly_its_partition_stale(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """Seen again unchanged, nothing is stale; one changed order of 1993 and that year is, the other is not, until
    that year alone is loaded."""

    def load(*years: str) -> None:
        tags = {
            "dagster/asset_partition_range_start": years[0],
            "dagster/asset_partition_range_end": years[-1],
        }
        assets = [entity_assets(migration_in(running.folder), migration_in(running.folder)["orders"])]
        assert dg.materialize(
            assets, instance=instance, tags=tags, resources={"ferry": FerryResource()}
        ).success

    observe(location(running.folder), instance)
    load("1993", "1994")
    observe(location(running.folder), instance)
    assert stale(running, instance) == {}
    with running.source() as source:
        source.execute(
            "update orders set comment = 'later' where id ="
            " (select max(id) from orders where extract(year from placed_at) = 1993)"
        )
    observe(location(running.folder), instance)
    # What is made of it becomes stale when it is made anew: Dagster looks one step up.
    ((place, why),) = stale(running, instance).items()
    assert place == ("raw_orders", "1993")
    assert why == ["has a new dependency data version"]
    load("1993")
    assert stale(running, instance) == {}


@pytest.mark.parametrize("automation", ["on_source_change", "eager"])
def test_what_failed_for_good_is_not_asked_for_again(
    new_database: Callable[..., str],
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    automation: str,
) -> None:
    """Of two changed halves one cannot be loaded, though it was staged and judged anew: no stage of it is asked for
    again for that. The next change of the source asks for it, and for nothing else."""
    small = Small(new_database, tmp_path)
    for name, value in small.migrating.environment.items():
        monkeypatch.setenv(name, value)
    small.source(
        "create table orders (id int primary key, half text)",
        "insert into orders values (1, 'a'), (2, 'b')",
    )
    small.target(
        "create table orders (new_id bigint generated always as identity primary key, half text)",
        "create table notes (order_id bigint references orders)",
    )
    small.declare(
        "orders", "id: int; half: str", automation=automation, mode="replace_partition",
        partition={"by": "half", "values": ["a", "b"]},
    )  # fmt: skip
    definitions = small_location(small.migrating.folder)
    cursor = None

    def asked() -> dict[str, set[str] | None]:
        """What one look of the sensor asks for."""
        nonlocal cursor
        found = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
        cursor = found.cursor
        return {stage: found.get_requested_partitions(dg.AssetKey(stage)) for stage in STAGES}

    def run() -> bool:
        migration = migration_in(small.migrating.folder)
        return dg.materialize(
            [entity_assets(migration, migration["orders"])],
            instance=instance,
            resources={"ferry": FerryResource()},
            tags={"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"},
            raise_on_error=False,
        ).success

    nothing, both, one = ({stage: set(some) for stage in STAGES} for some in ("", "ab", "b"))
    observe(definitions, instance)
    assert run()
    asked()
    # The row will be gone from the source, and this one depends on it.
    small.target("insert into notes select new_id from orders where half = 'b'")
    small.source("update orders set id = id + 10")
    observe(definitions, instance)
    assert [asked(), asked()] == [both, nothing]
    assert not run()
    judged, loaded = (
        len(instance.fetch_materializations(dg.AssetKey(stage), limit=9).records) for stage in STAGES[1:]
    )
    assert (judged, loaded) == (4, 3)
    assert [asked(), asked()] == [nothing, nothing]
    small.source("update orders set id = id + 10 where half = 'b'")
    observe(definitions, instance)
    assert asked() == one
