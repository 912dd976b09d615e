"""The shop's code location: every entity below `defs/`, jobs, one schedule, one sensor, and reports in pandas."""

from pathlib import Path

import dagster as dg

from ferry.components import (
    FerryResource,
    alert_sensors,
    arrival_sensors,
    declared_in,
    migration_jobs,
    partition_sensor,
)
from ferry.components.automation import source_automation
from ferry.components.entity import observed_source
from ferry.declaration import migration_in
from ferry.io_managers import DatabaseIOManager, IdMapIOManager, ParquetIOManager
from shop.automation import automation
from shop.reports import customer_history, order_history, sales_by_month

DEFS = Path(__file__).parent / "defs"


@dg.definitions
def defs() -> dg.Definitions:
    """Everything the UI shows."""
    ferry = FerryResource()
    migration = migration_in(DEFS)
    observed = [each for entity in migration.entities.values() for each in observed_source(migration, entity)]
    return dg.Definitions.merge(
        declared_in(DEFS),
        migration_jobs(DEFS),
        automation(DEFS),
        alert_sensors(DEFS),
        partition_sensor(DEFS),
        arrival_sensors(DEFS),
        source_automation(observed),
        dg.Definitions(
            assets=[customer_history, order_history, sales_by_month],
            resources={
                "ferry": ferry,
                "id_map": IdMapIOManager(folder=str(DEFS), ferry=ferry),
                "new_shop": DatabaseIOManager(connection="crm", ferry=ferry),
                "exports": ParquetIOManager(),
            },
            executor=dg.in_process_executor,
        ),
    )
