"""Dagster's storage in PostgreSQL over connections that are kept: deploy/dagster.yaml names it, and so do the demos.

`DagsterPostgresStorage` opens a connection for each query and shuts it again. A run makes a hundred queries and more,
and opening takes longer than asking: PostgreSQL starts a process, the password is hashed thousands of times.
"""

from typing import Any

from dagster_postgres import DagsterPostgresStorage
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


TABLES = {"runs", "instance_info", "event_logs", "jobs"}
"""Those by which Dagster's three storages tell whether theirs have been made."""


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
        for part in (storage.run_storage, storage.event_log_storage, storage.schedule_storage):
            # What their own `optimize_for_webserver` does, with an engine that does not try connections.
            part._engine = engine  # type: ignore[attr-defined]
        return storage
