"""The code location of `test_secrets.py`: entities that `FERRY_DEFS` names, and a table whose connection fails."""

import os
from pathlib import Path

import dagster as dg
import pandas as pd

from ferry.components import FerryResource, alert_sensors, migration_jobs
from ferry.components.entity import entity_assets, observed_source
from ferry.declaration import migration_in
from ferry.io_managers import DatabaseIOManager


@dg.asset(io_manager_key="wrong")
def report() -> pd.DataFrame:
    """Rows for a database that refuses the password."""
    print("report was made")
    return pd.DataFrame({"id": [1]})


folder, ferry = Path(os.environ["FERRY_DEFS"]), FerryResource()
migration = migration_in(folder)
entities = migration.entities.values()
defs = dg.Definitions.merge(
    migration_jobs(folder),
    alert_sensors(folder),
    dg.Definitions(
        assets=[
            *(entity_assets(migration, entity) for entity in entities),
            *(one for entity in entities for one in observed_source(migration, entity)),
            report,
        ],
        resources={"ferry": ferry, "wrong": DatabaseIOManager(connection="wrong", ferry=ferry)},
        executor=dg.in_process_executor,
    ),
)
