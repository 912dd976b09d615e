"""The code location of a small migration: its entities, what they are made of, and what looks after them."""

import os
from pathlib import Path

import dagster as dg

from ferry.components import FerryResource, partition_sensor
from ferry.components.automation import source_automation
from ferry.components.entity import entity_assets, observed_source
from ferry.declaration import migration_in


def small_location(folder: Path) -> dg.Definitions:
    """The entities declared in `folder`, as a code location serves them."""
    migration = migration_in(folder)
    observed = [each for entity in migration.entities.values() for each in observed_source(migration, entity)]
    return dg.Definitions.merge(
        source_automation(observed, seconds=1),
        partition_sensor(folder),
        dg.Definitions(
            assets=[*observed, *(entity_assets(migration, entity) for entity in migration.entities.values())],
            resources={"ferry": FerryResource(), "id_map": dg.mem_io_manager},
            executor=dg.in_process_executor,
        ),
    )


if "FERRY_DEFS" in os.environ:
    defs = small_location(Path(os.environ["FERRY_DEFS"]))
