"""The shop in Dagster: what a run leaves behind, what goes stale when something changes, what ticks by itself."""

import datetime
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import psycopg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.loader import LoadingContextForTest

from ferry import ledger
from ferry.components import FerryResource, migration_jobs
from ferry.components.checks import evaluating_checks
from ferry.components.entity import asset_keys, entity_assets
from ferry.declaration import migration_in
from ferry.io_managers import DatabaseIOManager, IdMap, IdMapIOManager, ParquetIOManager
from ferry.pipeline import LOADED, RAW, VALIDATED
from migrating import Migrating
from shop.automation import automation
from shop.reports import customer_history, order_history, sales_by_month

REPORTS = (customer_history, order_history, sales_by_month)
STAGES = (RAW, VALIDATED, LOADED)
CHECKS = {"accounted_for", "reconciled", "settled", "no_orphans", "contract_pass_rate"}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A real instance of this test's own."""
    with dg.DagsterInstance.ephemeral() as own:
        yield own


@pytest.fixture
def running(by_year: Migrating, monkeypatch: pytest.MonkeyPatch) -> Migrating:
    """The migration that this process' environment points to."""
    for name, value in by_year.environment.items():
        monkeypatch.setenv(name, value)
    return by_year


def definitions(folder: Path) -> dg.Definitions:
    """The entities below a folder with the resources that the shop gives them."""
    migration, ferry = migration_in(folder), FerryResource()
    return dg.Definitions(
        assets=[entity_assets(migration, entity) for entity in migration.entities.values()],
        resources={"ferry": ferry, "id_map": IdMapIOManager(folder=str(folder), ferry=ferry)},
        executor=dg.in_process_executor,
    )


def materialize(
    folder: Path, instance: dg.DagsterInstance, name: str, first: str = "", last: str = "", **options: object
) -> dg.ExecuteInProcessResult:
    """Run an entity over a range of its partitions, as a backfill in one run does."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    migration, ferry = migration_in(folder), FerryResource()
    return dg.materialize(
        [entity_assets(migration, migration[name])],
        instance=instance,
        resources={"ferry": ferry, "id_map": IdMapIOManager(folder=str(folder), ferry=ferry)},
        tags=tags if first else {},
        raise_on_error=False,
        **options,  # type: ignore[arg-type]
    )


def materialized(instance: dg.DagsterInstance, key: str) -> set[str]:
    """The partitions of an asset that count as materialized."""
    return instance.get_materialized_partitions(dg.AssetKey(key))


def test_each_partition_has_its_materializations_checks_and_versions(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """A run over two years of orders: three events and five checks a partition, stamped with what made them, with keys
    of what was not loaded. Once the rows that wait for a parent have met their end, the checks say which."""
    for parent in ("customers", "employees"):
        materialize(running.folder, instance, parent)
    result = materialize(running.folder, instance, "orders", "1993", "1994")
    assert result.success
    for stage in STAGES:
        assert materialized(instance, f"{stage}_orders") == {"1993", "1994"}
    records = instance.get_records_for_run(
        result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    ).records
    assert len(records) == 6
    for record in records:
        event = record.event_log_entry.asset_materialization
        assert event.tags["dagster/code_version"]
        assert event.tags["dagster/data_version"]
        rows = event.metadata["dagster/partition_row_count"].value
        assert rows > 300
    loaded = next(
        record.event_log_entry.asset_materialization
        for record in records
        if record.asset_key == dg.AssetKey("loaded_orders")
    )
    assert loaded.tags["dagster/input_data_version/validated_orders"]
    assert loaded.tags["dagster/input_event_pointer/loaded_customers_and_id_mapping"] != "NULL"
    counts = {name: loaded.metadata[name].value for name in ("extracted", "inserted", "rejected", "waiting")}
    assert counts["extracted"] == counts["inserted"] + counts["rejected"] + counts["waiting"]
    checks = instance.get_records_for_run(
        result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    found = {
        (check.check_name, check.partition)
        for check in (record.event_log_entry.asset_check_evaluation for record in checks)
    }
    assert found == {(check, partition) for check in CHECKS for partition in ("1993", "1994")}

    def latest(check: str) -> dg.AssetCheckEvaluation:
        """What the UI shows of a check for 1993."""
        key = dg.AssetCheckKey(dg.AssetKey("loaded_orders"), check)
        (record,) = instance.event_log_storage.get_asset_check_execution_history(
            key, 1, partition_filter=year
        )
        assert record.event is not None
        event = record.event.dagster_event
        assert event is not None
        return event.asset_check_evaluation_data

    year = PartitionKeyFilter(key="1993")

    def examples(check: str) -> set[str]:
        """The columns of the table of keys."""
        shown = latest(check).metadata["examples"]
        assert isinstance(shown, dg.TableMetadataValue)
        return {key for record in shown.records for key in record.data}

    assert examples("accounted_for") == {"key", "reason"}
    assert examples("settled") == {"key", "waits for"}
    assert (latest("settled").passed, latest("no_orphans").passed) == (False, True)
    jobs = dg.Definitions.merge(
        migration_jobs(running.folder), dg.Definitions(resources={"ferry": FerryResource()})
    )
    assert jobs.resolve_job_def("settle").execute_in_process(instance=instance).success
    assert (latest("settled").passed, latest("no_orphans").passed) == (True, False)
    assert latest("settled").metadata["waiting"].value == 0
    with running.target() as target:
        orphans = target.execute(
            "select count(*) from ferry.rejected_rows where entity = 'orders' and partition = '1993'"
            " and reason in ('missing_parent', 'parent_rejected')"
        ).fetchone()
    assert (latest("no_orphans").metadata["orphans"].value,) == orphans
    assert examples("no_orphans") == {"key", "why"}


def test_a_materialization_tells_what_an_operator_asks_and_nothing_personal(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """Counts, schema, lineage, place, size, speed, memory, reasons, a preview; a name and a salary are masked."""
    told: dict[str, dict[str, dg.MetadataValue]] = {}
    for entity in ("customers", "employees"):
        result = materialize(running.folder, instance, entity)
        assert result.success
        records = instance.get_records_for_run(
            result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        events = (record.event_log_entry.asset_materialization for record in records)
        told |= {event.asset_key.to_user_string(): dict(event.metadata) for event in events if event}
    speed = {"bytes", "seconds", "rows per second"}
    raw, loaded = told["raw_customers"], told["loaded_customers_and_id_mapping"]
    kept = {"dagster/row_count", "dagster/column_schema", "dagster/storage_kind"} | speed
    assert kept | {"dagster/uri", "preview"} <= set(raw)
    assert kept | {"dagster/table_name", "dagster/column_lineage", "peak MiB", "rejections"} <= set(loaded)
    ends = ("extracted", "inserted", "updated", "unchanged", "preserved", "rejected", "waiting")
    assert set(ends) <= set(loaded)
    bar = loaded["outcomes"].value
    assert isinstance(bar, str)
    named = [f"{end} {loaded[end].value:,}" for end in ends[1:] if loaded[end].value]
    assert bar.startswith(f"![{', '.join(named)}](data:image/svg+xml;base64,")
    assert len(bar) < 1500
    assert {"dagster/row_count", "accepted", "rejected", "reasons", "examples"} <= set(
        told["validated_customers"]
    )
    assert str(raw["dagster/uri"].value).startswith(str(running.stage / "customers"))
    lineage = loaded["dagster/column_lineage"].value
    assert isinstance(lineage, dg.TableColumnLineage)
    (origin,) = lineage.deps_by_column["full_name"]
    assert (origin.asset_key.to_user_string(), origin.column_name) == ("legacy/customers", "name")
    rows = {}
    for name in ("raw_customers", "raw_employees"):
        preview = told[name]["preview"]
        assert isinstance(preview, dg.TableMetadataValue)
        rows[name] = [record.data for record in preview.records]
    # What is not there is shown as empty.
    assert {row["name"] for row in rows["raw_customers"]} - {""} == {"***"}
    assert all(row["segment"] != "***" for row in rows["raw_customers"])
    assert {row["salary"] for row in rows["raw_employees"]} == {"***"}


def test_a_failed_partition_leaves_the_good_ones_and_is_repeated_alone(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """One broken staging folder among three years: two are materialized, the failure names the third, and
    running what is missing repeats only that."""
    broken = running.break_stage("orders", "1994")
    result = materialize(running.folder, instance, "orders", "1993", "1995")
    assert not result.success
    for stage in STAGES:
        assert materialized(instance, f"{stage}_orders") == {"1993", "1995"}
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data.metadata["partitions"].value == ["1994"]
    assert "orders, 1994" in failure.user_failure_data.description
    assert "Traceback" not in failure.user_failure_data.description
    with running.target() as target:
        before = target.execute("select partition, run_id from ferry.partitions order by 1").fetchall()
    broken.unlink()
    again = materialize(running.folder, instance, "orders", "1994")
    assert again.success
    assert materialized(instance, "loaded_orders") == {"1993", "1994", "1995"}
    with running.target() as target:
        after = dict(target.execute("select partition, run_id from ferry.partitions").fetchall())
    assert {year: after[year] for year, _ in before} == dict(before)
    assert after["1994"] == again.run_id


def test_a_permanent_error_is_not_retried_and_a_passing_one_is(
    running: Migrating, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a missing table Dagster may not start the run again, after a refused connection it may."""
    path = running.folder / "orders" / "defs.yaml"
    text = path.read_text()
    path.write_text(text.replace("table: public.orders", "table: public.nothing"))
    permanent = materialize(running.folder, instance, "orders", "1993")
    path.write_text(text)
    monkeypatch.setenv("FERRY_CONNECTIONS__LEGACY", "postgresql://nobody@127.0.0.1:1/shop")
    passing = materialize(running.folder, instance, "orders", "1993")
    assert not permanent.success
    assert not passing.success
    tags = [
        instance.get_run_by_id(result.run_id).tags.get("dagster/max_retries")
        for result in (permanent, passing)
    ]
    assert tags == ["0", None]


def stale(folder: Path, instance: dg.DagsterInstance) -> set[str]:
    """The assets that Dagster shows as stale; partitioned ones by any of the years that were loaded."""
    graph = definitions(folder).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    found = set()
    for key in graph.materializable_asset_keys:
        years = [None] if graph.get(key).partitions_def is None else ["1993"]
        if any(resolver.get_status(key, year) == StaleStatus.STALE for year in years):
            found.add(key.to_user_string())
    return found


def test_a_changed_rule_makes_exactly_the_right_assets_stale(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """A contract's rule: the verdict and the load of that entity. White space and comments: nothing.

    A column mapping: the load alone. Children do not go stale: they read a parent's pairs, and pairs never change.
    """
    for name in ("customers", "employees", "products"):
        assert materialize(running.folder, instance, name).success
    for name in ("orders", "order_lines"):
        assert materialize(running.folder, instance, name, "1993").success
    assert stale(running.folder, instance) == set()

    contract, declared = running.folder / "orders" / "contract.py", running.folder / "orders" / "defs.yaml"
    rules, mapping = contract.read_text(), declared.read_text()
    contract.write_text(rules.replace("    total:", "    # a remark\n\n    total:"))
    declared.write_text(mapping.replace("columns:\n", "# a remark\n  columns:\n\n"))
    assert stale(running.folder, instance) == set()

    contract.write_text(rules.replace("Field(ge=0)]", "Field(ge=1)]"))
    assert stale(running.folder, instance) == {"validated_orders", "loaded_orders"}

    contract.write_text(rules)
    declared.write_text(mapping.replace("on_missing: set_null", "on_missing: reject"))
    assert stale(running.folder, instance) == {"loaded_orders"}


def test_a_downstream_asset_gets_the_map_as_a_dataframe(
    running: Migrating, instance: dg.DagsterInstance
) -> None:
    """A pandas asset that names the loaded asset as its input is handed `(old_id, new_id)`, whole or in batches."""
    assert materialize(running.folder, instance, "customers").success
    loaded = asset_keys(migration_in(running.folder)["customers"])[LOADED]
    seen: dict[str, pd.DataFrame] = {}

    @dg.asset(ins={"pairs": dg.AssetIn(key=loaded)})
    def whole(pairs: pd.DataFrame) -> None:
        seen["whole"] = pairs

    @dg.asset(ins={"pairs": dg.AssetIn(key=loaded)})
    def batches(pairs: IdMap) -> None:
        seen["batches"] = pd.concat([batch.to_pandas() for batch in pairs])

    ferry = FerryResource()
    upstream = entity_assets(migration_in(running.folder), migration_in(running.folder)["customers"])
    result = dg.materialize(
        [upstream, whole, batches],
        selection=[whole, batches],
        instance=instance,
        resources={"ferry": ferry, "id_map": IdMapIOManager(folder=str(running.folder), ferry=ferry)},
    )
    assert result.success
    with running.target() as target:
        pairs = target.execute(
            "select old_id, new_customer_id from ferry.id_map_customers where status <> 'tombstone' order by 1"
        ).fetchall()
    assert list(seen["whole"].columns) == ["old_id", "new_id"]
    assert list(seen["whole"].itertuples(index=False, name=None)) == pairs
    assert len(pairs) == 270
    pd.testing.assert_frame_equal(seen["batches"], seen["whole"])


def test_the_shops_reports_are_what_plain_sql_says(running: Migrating, instance: dg.DagsterInstance) -> None:
    """Pandas assets over loaded orders and the published map: two tables in the new shop and a Parquet file."""
    for name in ("customers", "employees"):
        assert materialize(running.folder, instance, name).success
    assert materialize(running.folder, instance, "orders", "1992", "1998").success
    running.settle()
    ferry, migration = FerryResource(), migration_in(running.folder)
    exports = ParquetIOManager()
    result = dg.materialize(
        [*(entity_assets(migration, migration[name]) for name in ("customers", "orders")), *REPORTS],
        selection=REPORTS,
        instance=instance,
        resources={
            "ferry": ferry, "id_map": IdMapIOManager(folder=str(running.folder), ferry=ferry),
            "new_shop": DatabaseIOManager(connection="crm", ferry=ferry), "exports": exports,
        },
    )  # fmt: skip
    assert result.success
    with running.target() as target:
        wanted = target.execute(
            "select m.old_id, m.new_customer_id, count(order_id), sum(total_amount), min(ordered_on), max(ordered_on)"
            " from ferry.id_map_customers m left join orders o on o.customer_id = m.new_customer_id"
            " where m.status <> 'tombstone' group by 1, 2 order by 1"
        ).fetchall()
        made = target.execute("select * from reports.customer_history order by old_number").fetchall()
        invoices = target.execute("select * from reports.order_history order by order_id").fetchall()
        numbered = target.execute(
            "select o.*, m.old_id from orders o join ferry.id_map_customers m on o.customer_id = m.new_customer_id"
            " where m.status <> 'tombstone' order by order_id"
        ).fetchall()
        months = target.execute(
            "select coalesce(to_char(ordered_on, 'YYYY-MM'), 'by telephone'), count(*), sum(total_amount)"
            " from orders group by 1 order by 1"
        ).fetchall()
    assert len(wanted) == 270
    assert made == wanted
    assert len(invoices) > 300
    assert invoices == numbered
    with exports.path(dg.AssetKey("sales_by_month"), None).open("rb") as body:
        export = pd.read_parquet(body).sort_values("month")
    assert list(export.itertuples(index=False, name=None)) == months


@pytest.fixture
def ticking(running: Migrating) -> dg.RepositoryDefinition:
    """The shop's schedule and sensor over the entities, as a code location serves them."""
    merged = dg.Definitions.merge(definitions(running.folder), automation(running.folder))
    return merged.get_repository_def()


def test_the_nightly_schedule_asks_for_the_open_partition(ticking: dg.RepositoryDefinition, running: Migrating,
                                                          instance: dg.DagsterInstance) -> None:  # fmt: skip
    """A tick during the range asks for that moment's partition, one after its end for the last, once a night."""
    schedule = ticking.get_schedule_def("nightly_orders")
    asked = []
    for moment in (datetime.datetime(1995, 6, 7, 2, 15, tzinfo=datetime.UTC),
                   datetime.datetime(2026, 1, 1, 2, 15, tzinfo=datetime.UTC)):  # fmt: skip
        with dg.build_schedule_context(
            instance, scheduled_execution_time=moment, repository_def=ticking
        ) as context:
            requests = schedule.evaluate_tick(context).run_requests
        asked += [(request.run_key, request.partition_key) for request in requests]
        job = ticking.get_job(requests[0].job_name or schedule.job_name)
        assert requests[0].partition_key in job.partitions_def.get_partition_keys()
    assert asked == [("1995-06-07", "1995"), ("2026-01-01", "1998")]


def test_the_sensor_fires_once_for_each_change_of_the_source(
    ticking: dg.RepositoryDefinition, running: Migrating, instance: dg.DagsterInstance
) -> None:
    """The first tick asks for the open year and leaves a mark; the next asks for the years that hold changed rows, also
    of a transaction that ended late, and each change once."""
    sensor = ticking.get_sensor_def("legacy_orders_changed")

    def tick(cursor: str | None) -> tuple[list[str | None], str | None]:
        with dg.build_sensor_context(
            instance, cursor=cursor, repository_def=ticking, resources={"ferry": FerryResource()}
        ) as context:
            data = sensor.evaluate_tick(context)
        return [request.partition_key for request in data.run_requests or ()], data.cursor

    asked, cursor = tick(None)
    assert asked == ["1998"]
    assert cursor
    assert tick(cursor) == ([], cursor)
    with running.source() as source:
        changed = source.execute(
            "update orders set comment = 'seen by the sensor' where id in (select max(id) from orders"
            " where extract(year from placed_at) in (1993, 1996) group by extract(year from placed_at)"
            " union all select max(id) from orders where placed_at is null)"
        ).rowcount
    assert changed == 3
    again, moved = tick(cursor)
    assert again == ["1992", "1993", "1996"]
    assert moved != cursor
    assert tick(moved) == ([], moved)

    # A transaction that began before a tick and ends after it: its row bears a time that is already behind the mark.
    late = (
        "update orders set comment = 'late' where id ="
        " (select max(id) from orders where extract(year from placed_at) = %s)"
    )
    with psycopg.connect(running.source_url) as slow, running.source() as source:
        slow.execute(late.encode(), (1994,))
        source.execute(late.encode(), (1995,))
        asked, cursor = tick(moved)
        assert asked == ["1995"]
        slow.commit()
        asked, cursor = tick(cursor)
        assert asked == ["1994"]
    assert tick(cursor) == ([], cursor)


def test_a_sensor_that_cannot_look_keeps_its_place(
    ticking: dg.RepositoryDefinition, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the source cannot be reached a tick says why, asks for nothing and leaves the cursor where it was."""
    monkeypatch.setenv("FERRY_CONNECTIONS__LEGACY", "postgresql://nobody@127.0.0.1:1/shop")
    sensor = ticking.get_sensor_def("legacy_orders_changed")
    with dg.build_sensor_context(
        instance, cursor="before", repository_def=ticking, resources={"ferry": FerryResource()}
    ) as context:
        data = sensor.evaluate_tick(context)
    assert not data.run_requests
    assert data.cursor == "before"
    assert "connection 'legacy' does not open" in data.skip_message


def test_all_definitions_load_without_a_deprecated_call() -> None:
    """The shop's code location, loaded with warnings of deprecation and supersession as errors, is whole."""
    loaded = subprocess.run(
        [
            sys.executable, "-W", "error::DeprecationWarning", "-c",
            "import warnings, dagster as dg\n"
            "warnings.filterwarnings('error', category=dg.SupersessionWarning)\n"
            "from shop.definitions import defs\n"
            "loaded = defs()\n"
            "loaded = loaded if isinstance(loaded, dg.Definitions) else loaded.load()\n"
            "graph = loaded.resolve_asset_graph()\n"
            "print(*sorted(key.to_user_string() for key in graph.get_all_asset_keys()))",
        ],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == sorted(
        [f"legacy/{name}" for name in ("customers", "employees", "order_lines", "orders", "products")]
        + [f"{stage}_{name}" for stage in ("raw", "validated")
           for name in ("customers", "employees", "order_lines", "orders", "products")]
        + [f"loaded_{name}_and_id_mapping" for name in ("customers", "employees", "products")]
        + ["loaded_orders", "loaded_order_lines", "customer_history", "order_history", "sales_by_month"]
    )  # fmt: skip


def test_a_check_of_a_partition_is_told_each_time_that_it_changes(by_year: Migrating) -> None:
    """By commands that are no runs as well: the third time as the first, and the UI shows the last.

    Each leads to a run of its own that is over; a command that changes nothing leaves none.
    """
    key = dg.AssetCheckKey(dg.AssetKey("loaded_orders"), "reconciled")
    with dg.DagsterInstance.ephemeral() as instance, by_year.target() as target:
        target.autocommit = True
        ledger.prepare(target)
        for rows in (3, 3, 0, 2):
            with evaluating_checks(by_year.plans(), by_year.settings, instance):
                ledger.reconciled(target, "orders", "1993", rows, "")
            told = instance.event_log_storage.get_asset_check_execution_history(
                key, 9, partition_filter=PartitionKeyFilter(key="1993")
            )
            assert told[0].event is not None
            event = told[0].event.dagster_event
            assert event is not None
            assert event.asset_check_evaluation_data.metadata["different"].value == rows
            run = instance.get_run_by_id(told[0].run_id)
            assert run is not None
            assert (run.status, instance.get_run_stats(run.run_id).end_time is None) == (
                dg.DagsterRunStatus.SUCCESS,
                False,
            )
        assert len(told) == len(instance.get_runs()) == 3
