"""Ferry in Dagster: the components, and what a code location needs beside it.

Only this package, `ferry.io_managers`, `ferry.dagster_types` and the code location import Dagster.
"""

from ferry.start import importing

with importing():  # 0.2 s of CPU less in a code location, whose run imports Dagster by another program
    from ferry.components.alerts import alert_sensors
    from ferry.components.arrivals import arrival_sensors
    from ferry.components.connector import AirbyteConnection, FivetranConnection
    from ferry.components.connector_jobs import connector_jobs
    from ferry.components.discovery import partition_sensor
    from ferry.components.entity import Entity
    from ferry.components.folder import declared_in
    from ferry.components.jobs import migration_jobs
    from ferry.components.resources import FerryResource

__all__ = [
    "AirbyteConnection",
    "Entity",
    "FerryResource",
    "FivetranConnection",
    "alert_sensors",
    "arrival_sensors",
    "connector_jobs",
    "declared_in",
    "migration_jobs",
    "partition_sensor",
]
