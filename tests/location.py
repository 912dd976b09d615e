"""The shop's code location over the declarations that `FERRY_DEFS` names, for webservers and daemons of tests."""

import os
from pathlib import Path

import dagster as dg

from ferry.components import FerryResource, alert_sensors, migration_jobs, partition_sensor
from ferry.components.automation import source_automation
from ferry.components.entity import entity_assets, source_key
from ferry.components.sources import observe
from ferry.declaration import migration_in
from ferry.io_managers import DatabaseIOManager, IdMapIOManager, ParquetIOManager
from shop.automation import automation
from shop.reports import customer_history, order_history, sales_by_month


def location(folder: Path) -> dg.Definitions:
    """All that the shop's own `definitions.py` serves."""
    migration, ferry = migration_in(folder), FerryResource()
    entities = migration.entities.values()
    observed = [observe(migration, entity, source_key(entity)) for entity in entities]
    return dg.Definitions.merge(
        migration_jobs(folder),
        automation(folder),
        partition_sensor(folder),
        alert_sensors(folder),
        source_automation(observed),
        dg.Definitions(
            assets=[
                *(entity_assets(migration, entity) for entity in entities),
                *observed,
                customer_history,
                order_history,
                sales_by_month,
            ],
            resources={
                "ferry": ferry,
                "id_map": IdMapIOManager(folder=str(folder), ferry=ferry),
                "new_shop": DatabaseIOManager(connection="crm", ferry=ferry),
                "exports": ParquetIOManager(),
            },
            executor=dg.in_process_executor,
        ),
    )


if "FERRY_DEFS" in os.environ:
    defs = location(Path(os.environ["FERRY_DEFS"]))
