"""The sensor that makes a partition of each new value in a column that is cut by what it holds."""

from pathlib import Path

import dagster as dg

from ferry.components.partitions import missing_keys
from ferry.components.resources import FerryResource
from ferry.declaration import migration_in
from ferry.errors import FerryError
from ferry.known_keys import discover
from ferry.partition import scheme_of


def partition_sensor(folder: Path, seconds: int = 300) -> dg.Definitions:
    """The sensor `new_partitions`, which is on, for the entities below `folder` that are cut by discovered values.

    Args:
        folder: of the declarations; a folder without such entities has no such sensor.
        seconds: how long it rests between two looks at the sources.
    """
    migration = migration_in(folder)
    if not any(scheme_of(migration, name).discovers for name in migration.entities):
        return dg.Definitions()

    @dg.sensor(
        name="new_partitions",
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes a partition of each new value in the columns that are declared `values: discovered`.",
        asset_selection=dg.AssetSelection.all(),
    )
    def new_partitions(
        context: dg.SensorEvaluationContext, ferry: FerryResource
    ) -> dg.SensorResult | dg.SkipReason:
        """Ask the sources which values they hold."""
        try:
            known = discover(migration_in(folder), ferry.settings())
        except FerryError as error:
            return dg.SkipReason(str(error))
        new = missing_keys(known, context.instance)
        if not new:
            return dg.SkipReason("No value is new")
        return dg.SensorResult(
            dynamic_partitions_requests=[
                dg.DynamicPartitionsDefinition(name=name).build_add_request(keys)
                for name, keys in new.items()
            ]
        )

    return dg.Definitions(sensors=[new_partitions])
