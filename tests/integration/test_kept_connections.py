"""Dagster's storage keeps its connections, and a server that restarts is no reason to fail."""

from collections.abc import Callable, Iterator
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


@pytest.fixture
def history(tmp_path: Path, new_database: Callable[..., str]) -> Iterator[tuple[dg.DagsterInstance, str]]:
    """An instance of Dagster over this storage, made in an empty database, and the database's URL."""
    url = new_database()
    storage = {"module": "ferry_storage", "class": "PooledPostgresStorage", "config": {"postgres_url": url}}
    settings = {"storage": {"custom": storage}, "telemetry": {"enabled": False}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
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
