"""What Dagster would start by itself: exactly what changed, once."""

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ferry.components import FerryResource
from ferry.components.entity import entity_assets, migration_in
from location import location
from migrating import Migrating

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


def observe(running: Migrating, instance: dg.DagsterInstance) -> None:
    """Look at all sources, with the runs that the schedule asks for."""
    definitions = location(running.folder)
    repository = definitions.get_repository_def()
    schedules = [one for one in repository.schedule_defs if one.name.startswith("watch_")]
    assert len(schedules) == 2
    for schedule in schedules:
        with dg.build_schedule_context(instance, repository_def=repository) as context:
            (request,) = schedule.evaluate_tick(context).run_requests or ()
        job = definitions.resolve_job_def(schedule.job_name)
        assert job.execute_in_process(instance=instance, tags=request.tags).success


def test_exactly_the_partitions_whose_source_changed_are_asked_for(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """Two orders of 1993 and 1996 change: all three stages of these years, once; what is not declared: never."""
    observe(running, instance)
    first = dg.evaluate_automation_conditions(location(running.folder), instance)
    observe(running, instance)
    unchanged = dg.evaluate_automation_conditions(location(running.folder), instance, cursor=first.cursor)
    assert unchanged.total_requested == 0
    with running.source() as source:
        source.execute(
            "update orders set comment = 'seen' where id in (select max(id) from orders"
            " where extract(year from placed_at) in (1993, 1996) group by extract(year from placed_at))"
        )
        source.execute("update products set name = name || '!' where id = 1")
    observe(running, instance)
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

    observe(running, instance)
    load("1993", "1994")
    observe(running, instance)
    assert stale(running, instance) == {}
    with running.source() as source:
        source.execute(
            "update orders set comment = 'later' where id ="
            " (select max(id) from orders where extract(year from placed_at) = 1993)"
        )
    observe(running, instance)
    # What is made of it becomes stale when it is made anew: Dagster looks one step up.
    ((place, why),) = stale(running, instance).items()
    assert place == ("raw_orders", "1993")
    assert why == ["has a new dependency data version"]
    load("1993")
    assert stale(running, instance) == {}
