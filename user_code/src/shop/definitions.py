"""The shop's code location: every entity below `defs/`, the jobs beside them, one schedule and one sensor."""

from pathlib import Path

import dagster as dg

from ferry.components import FerryResource, migration_jobs
from ferry.io_managers import IdMapIOManager
from shop.automation import automation

DEFS = Path(__file__).parent / "defs"


@dg.definitions
def defs() -> dg.Definitions:
    """Everything the UI shows."""
    ferry = FerryResource()
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=DEFS),
        migration_jobs(DEFS),
        automation(DEFS),
        dg.Definitions(
            resources={"ferry": ferry, "id_map": IdMapIOManager(folder=str(DEFS), ferry=ferry)},
            executor=dg.in_process_executor,
        ),
    )
