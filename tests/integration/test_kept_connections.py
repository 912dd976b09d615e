"""Dagster's storage keeps its connections, bears a server that restarts, and keeps what Dagster's own would."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml

from ferry_storage import KEPT

EVENTS = 40


@dg.op
def talkative(context: dg.OpExecutionContext) -> None:
    """Make as many events as a run of an entity with some partitions does."""
    for number in range(EVENTS):
        context.log_event(dg.AssetMaterialization("talk", metadata={"number": number}))


@dg.job(executor_def=dg.in_process_executor)
def talk() -> None:
    """A run of one step."""
    talkative()


@dg.multi_asset(
    specs=[dg.AssetSpec("left", skippable=True), dg.AssetSpec("right", skippable=True)],
    check_specs=[dg.AssetCheckSpec("good", asset="left")],
    can_subset=True,
    partitions_def=dg.StaticPartitionsDefinition(["p", "q", "r"]),
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def halves(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Two assets, one of which is planned in vain, and a check, over a range of partitions."""
    for partition in context.partition_keys:
        passed = partition != "q"
        found = dg.AssetCheckEvaluation(dg.AssetKey("left"), "good", passed=passed, partition=partition)
        context.log_event(found)
    yield dg.MaterializeResult(asset_key="left")


@contextmanager
def history_in(url: str, module: str, storage: str, home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance of Dagster over a storage."""
    custom = {"module": module, "class": storage, "config": {"postgres_url": url}}
    home.mkdir(exist_ok=True)
    settings = {"storage": {"custom": custom}, "telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def history(tmp_path: Path, new_database: Callable[..., str]) -> Iterator[tuple[dg.DagsterInstance, str]]:
    """An instance of Dagster over this storage, made in an empty database, and the database's URL."""
    url = new_database()
    with history_in(url, "ferry_storage", "PooledPostgresStorage", tmp_path) as instance:
        yield instance, url


def test_a_run_takes_its_events_over_a_connection_or_two(history: tuple[dg.DagsterInstance, str]) -> None:
    """Dozens of events and look-ups open no more connections than the pool keeps."""
    instance, url = history
    with psycopg.connect(url, autocommit=True) as asking:

        def mine() -> set[int]:
            return {
                pid
                for (pid,) in asking.execute(
                    "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                )
            }

        before = mine()
        ended = talk.execute_in_process(instance=instance)
        assert ended.success
        assert before, "nothing was kept open"
        assert len(before | mine()) <= KEPT
    assert len(ended.get_asset_materialization_events()) == EVENTS


def test_a_server_that_restarts_is_not_noticed(history: tuple[dg.DagsterInstance, str]) -> None:
    """Connections that died while nobody used them are made anew: the next run goes as if nothing had been."""
    instance, url = history
    assert talk.execute_in_process(instance=instance).success
    with psycopg.connect(url, autocommit=True) as asking:
        died = asking.execute(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchone()
    assert died
    assert died[0] >= 1, "nothing was kept open"
    assert talk.execute_in_process(instance=instance).success


def test_what_a_run_leaves_behind_is_what_dagsters_own_storage_keeps(
    history: tuple[dg.DagsterInstance, str], tmp_path: Path, new_database: Callable[..., str]
) -> None:
    """Events planned and made, assets and evaluations of checks, of a run over a range: the same rows, or as many."""
    instance, url = history

    def kept(instance: dg.DagsterInstance, url: str) -> list[list[tuple]]:
        tags = {"dagster/asset_partition_range_start": "p", "dagster/asset_partition_range_end": "r"}
        ended = dg.materialize([halves], instance=instance, tags=tags)
        assert ended.success
        with psycopg.connect(url) as asking:
            return [
                asking.execute(query, {"run": ended.run_id}).fetchall()
                for query in (
                    "select dagster_event_type, asset_key, partition, step_key, count(*) from event_logs"
                    " where run_id = %(run)s group by 1, 2, 3, 4 order by 1, 2, 3, 4",
                    "select asset_key, last_run_id = %(run)s, last_materialization_timestamp is not null"
                    " from asset_keys order by 1",
                    "select asset_key, check_name, partition, execution_status, count(*)"
                    " from asset_check_executions where run_id = %(run)s group by 1, 2, 3, 4 order by 1, 2, 3, 4",
                )
            ]

    other = new_database()
    with history_in(other, "dagster_postgres", "DagsterPostgresStorage", tmp_path / "own") as own:
        wanted = kept(own, other)
    assert kept(instance, url) == wanted
    planned = [row for row in wanted[0] if row[0] == "ASSET_MATERIALIZATION_PLANNED"]
    assert len(planned) == 6
