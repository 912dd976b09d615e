"""What the shop runs by itself: the open month each night, and the months in which orders of the old shop changed."""

from contextlib import closing
from pathlib import Path

import dagster as dg

from ferry.changes import look
from ferry.components.resources import FerryResource
from ferry.declaration import migration_in
from ferry.errors import FerryError
from ferry.extract import open_source
from ferry.partition import scheme_of

ORDERS = ("orders", "order_lines")
FIRST = {"dagster/priority": "10"}
"""What is small and recent does not queue behind the years of a backfill."""


def automation(folder: Path) -> dg.Definitions:
    """The schedule `nightly_orders` and the sensor `legacy_orders_changed`, over the entities in `folder`."""
    selection = dg.AssetSelection.assets(
        *(f"{stage}_{name}" for name in ORDERS for stage in ("raw", "validated", "loaded"))
    )
    job = dg.define_asset_job("open_month_of_orders", selection)

    @dg.schedule(job=job, cron_schedule="15 2 * * *", name="nightly_orders")
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Load the month that is still open (the last one, once the range has ended)."""
        now = context.scheduled_execution_time
        month = scheme_of(migration_in(folder), "orders", now).keys[-1]
        return dg.RunRequest(run_key=f"{now:%Y-%m-%d}", partition_key=month, tags=FIRST)

    @dg.sensor(job=job, name="legacy_orders_changed", minimum_interval_seconds=60)
    def changed(context: dg.SensorEvaluationContext, ferry: FerryResource) -> dg.SensorResult | dg.SkipReason:
        """Run the months in which an order has changed since the last tick; the first tick asks for the open one."""
        migration = migration_in(folder)
        try:
            with closing(open_source(migration, "orders", ferry.settings())) as legacy:
                found = look(legacy, "orders", context.cursor)
        except FerryError as error:
            # The cursor stays where it is: the next tick sees whatever this one missed.
            return dg.SkipReason(str(error))
        months = found.changed
        if found.cursor and not context.cursor:
            months = {scheme_of(migration, "orders").keys[-1]: "the first tick"}
        if not months:
            return dg.SensorResult(skip_reason=dg.SkipReason("No order has changed"), cursor=found.cursor)
        # The same change asks once, also if the daemon dies before it has kept the cursor.
        requests = [
            dg.RunRequest(run_key=f"{month} {what}", partition_key=month, tags=FIRST)
            for month, what in sorted(months.items())
        ]
        return dg.SensorResult(requests, cursor=found.cursor)

    return dg.Definitions(jobs=[job], schedules=[nightly], sensors=[changed])
