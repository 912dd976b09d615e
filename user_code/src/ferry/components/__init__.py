"""Ferry in Dagster: the `Entity` component, and what a code location needs beside it.

Only this package, `ferry.io_managers`, `ferry.dagster_types` and the code location import Dagster.
"""

from ferry.components.alerts import alert_sensors
from ferry.components.entity import Entity
from ferry.components.jobs import migration_jobs
from ferry.components.resources import FerryResource

__all__ = ["Entity", "FerryResource", "alert_sensors", "migration_jobs"]
