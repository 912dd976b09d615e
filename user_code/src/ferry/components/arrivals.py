"""Files that arrive: a sensor for each entity that reads files asks for exactly the partitions whose files are new."""

import json
from contextlib import closing
from pathlib import Path

import dagster as dg

from ferry.components.entity import asset_keys
from ferry.components.resources import FerryResource
from ferry.declaration import Entity, fingerprint, migration_in
from ferry.errors import FerryError
from ferry.extract import open_source
from ferry.known_keys import with_known_keys
from ferry.partition import WHOLE

NOTHING = fingerprint([])
"""What a partition without any file looks like."""


def arrival_sensors(folder: Path) -> dg.Definitions:
    """The sensors `files_of_<entity>`, off at first, and the jobs `load_files_of_<entity>` that they run."""
    made = [
        _sensor(folder, entity)
        for entity in migration_in(folder).entities.values()
        if entity.declaration.source.kind == "files"
    ]
    return dg.Definitions(sensors=made, jobs=[sensor.job for sensor in made])


def _sensor(folder: Path, entity: Entity) -> dg.SensorDefinition:
    name = entity.name
    job = dg.define_asset_job(f"load_files_of_{name}", dg.AssetSelection.assets(*asset_keys(entity).values()))

    @dg.sensor(
        job=job,
        name=f"files_of_{name}",
        minimum_interval_seconds=30,
        description=f"Loads the partitions of {name} whose files are new or have changed, once they have stood still.",
    )
    def arrived(context: dg.SensorEvaluationContext, ferry: FerryResource) -> dg.SensorResult | dg.SkipReason:
        """A file that still grows at the next tick is asked for after that: half of it is of no use.

        The cursor has of each partition what was seen by the last tick, what was asked for last, and how often. That
        number is in the run's key: a file that becomes again what it was is loaded again.
        """
        known = json.loads(context.cursor) if context.cursor else {}
        settings = ferry.settings()
        try:
            migration = with_known_keys(migration_in(folder), settings, [name])
            with closing(open_source(migration, name, settings)) as source:
                found = {key: version for key, (_, version) in source.fingerprints(name).items()}
        except FerryError as error:
            # The cursor stays where it is: the next tick sees whatever this one missed.
            return dg.SkipReason(str(error))
        requests, kept = [], {}
        for key, version in found.items():
            seen, asked, times = known.get(key, ("", NOTHING, 0))
            if version == seen and version not in (asked, NOTHING):
                asked, times = version, times + 1
                partition = None if key == WHOLE else key
                requests.append(dg.RunRequest(run_key=f"{key} {times} {version}", partition_key=partition))
            kept[key] = (version, asked if version != NOTHING else NOTHING, times)
        if not requests:
            still = sum(version not in (kept[key][1], NOTHING) for key, version in found.items())
            return dg.SensorResult(
                skip_reason=dg.SkipReason(
                    f"{still} partitions have files that may still grow" if still else "No new file"
                ),
                cursor=json.dumps(kept),
            )
        return dg.SensorResult(requests, cursor=json.dumps(kept))

    return arrived
