"""What is done with declared connections beside materializing them: asking the tools anew, and a sync by hand."""

import os
from pathlib import Path

import dagster as dg

from ferry.components.connections import connection_named, declared_connections, recall, refresh
from ferry.components.connector import sync_assets
from ferry.components.resources import FerryResource
from ferry.errors import FerryError, PermanentError
from ferry.settings import read_settings


def connector_jobs(folder: Path) -> dg.Definitions:
    """The job `refresh_connectors` and its schedule, for a folder that declares connections; nothing for others."""
    if not declared_connections(folder):
        return dg.Definitions()

    @dg.op(name="ask_the_tools", out=dg.Out(dg.Nothing))
    def ask(context: dg.OpExecutionContext, ferry: FerryResource) -> None:
        """Ask each tool about its connection; the definitions show the answers when they are loaded next."""
        failed = []
        for name, told in refresh(folder, ferry.settings()).items():
            if isinstance(told, FerryError):
                failed.append(f"{name}: {told}")
            else:
                context.log.info(f"{name}: {len(told.connection.tables)} streams, read at {told.read_at}")
        if failed:
            raise dg.Failure("\n".join(failed), allow_retries=False)

    job = dg.JobDefinition(
        name="refresh_connectors",
        description="Ask the sync tools what their connections hold now; reload the definitions afterwards.",
        graph_def=dg.GraphDefinition(name="refresh_connectors", node_defs=[ask]),  # type: ignore[arg-type]
        executor_def=dg.in_process_executor,
    )
    hourly = dg.ScheduleDefinition(name="hourly_refresh_of_connectors", job=job, cron_schedule="7 * * * *")
    return dg.Definitions(jobs=[job], schedules=[hourly])


def sync_now(folder: Path, name: str) -> dict[str, int | None]:
    """Sync a declared connection through Dagster and wait; gives the rows that entities find in its tables now.

    None for a table that they cannot read yet: a view over it may still have to be made.

    Raises:
        PermanentError: the sync failed, in the words of its failure.
    """
    declared, settings = connection_named(folder, name), read_settings()
    keys = declared.keys(settings)
    if not keys:
        told = refresh(folder, settings)[name]
        if isinstance(told, FerryError):
            raise told
        keys = declared.keys(settings)
    with (
        dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else dg.DagsterInstance.ephemeral() as own
    ):
        result = dg.materialize(
            [sync_assets(declared, keys, recall(settings, name))],
            instance=own,
            resources={"ferry": FerryResource()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    if not result.success:
        data = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        said = data[0].user_failure_data.description if data and data[0].user_failure_data else None
        raise PermanentError(said or (str(data[0].error) if data else "the run failed"))
    rows = {
        event.asset_key.path[-1]: event.materialization.metadata.get("dagster/row_count")
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    return {table: int(str(count.value)) if count else None for table, count in rows.items()}
