"""Dagster's storage in PostgreSQL over connections that are kept: deploy/dagster.yaml names it, and so do the demos.

`DagsterPostgresStorage` opens a connection for each query and shuts it again. A run makes a hundred queries and more,
and opening takes longer than asking: PostgreSQL starts a process, the password is hashed thousands of times.

What a run over many partitions plans to make, an event for each asset and partition, is written at once as well.
"""

import os
from collections.abc import Sequence
from typing import Any

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import (
    create_pg_connection,
    create_pg_engine,
    get_token_provider_from_config,
    pg_url_from_config,
)
from sqlalchemy import inspect

KEPT = 2
"""Connections that a process keeps open; when it needs more at once, it opens more and shuts them again."""

OLDEST = 300
"""Seconds after which a connection is made anew, so that firewalls do not find it idle for ever."""

# Until this is set, Dagster stores one event after the other.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")

TABLES = {"runs", "instance_info", "event_logs", "jobs"}
"""Those by which Dagster's three storages tell whether theirs have been made."""


class EventLog(PostgresEventLogStorage):
    """`PostgresEventLogStorage`, which says the same with fewer statements."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._there: set[str] = set()
        super().__init__(*arguments, **named)

    def has_table(self, table_name: str) -> bool:
        """Whether there is such a table; Dagster asks before each check that it stores, and a table stays."""
        if table_name not in self._there and super().has_table(table_name):
            self._there.add(table_name)
        return table_name in self._there

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of several kinds; those that plan materializations in one statement and one transaction."""
        kind = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        planned = [event for event in events if event.dagster_event_type == kind]
        others = [event for event in events if event.dagster_event_type != kind]
        if planned:
            # Of each asset the last one counts, as it does when they come one by one.
            last = {str(event.get_dagster_event().asset_key): place for place, event in enumerate(planned)}
            with self.index_transaction() as connection:
                insert = self.prepare_insert_event_batch(planned).returning(SqlEventLogStorageTable.c.id)
                ids = [number for (number,) in connection.execute(insert)]
                for place in last.values():
                    self._store_asset_event(connection, planned[place], ids[place])
        if others:
            super().store_event_batch(others)


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage`, with one small pool for runs, events and schedules together."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "PooledPostgresStorage":
        """Called by Dagster with the storage's part of dagster.yaml, which is what its own `postgres` takes."""
        url, token = pg_url_from_config(config_value), get_token_provider_from_config(config_value)
        # The server may have restarted since the last query: a connection is tried before it is used again.
        pool: dict[str, Any] = {
            "pool_size": KEPT,
            "max_overflow": -1,
            "pool_recycle": OLDEST,
            "pool_pre_ping": True,
        }
        engine = create_pg_engine(url, token, isolation_level="AUTOCOMMIT", **pool)
        with create_pg_connection(engine) as connection:
            there = set(inspect(connection).get_table_names()) >= TABLES
        storage = cls(url, not there, inst_data, token)
        storage._event_log_storage = EventLog(url, False, token_provider=token)
        for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
            # What their own `optimize_for_webserver` does, with an engine that does not try connections.
            part._engine = engine  # type: ignore[attr-defined]
        return storage
