"""Ferry's partition schemes as Dagster's partitions definitions; the keys are the same."""

import datetime

import dagster as dg

from ferry.partition import FORMATS, Scheme

CRON = {
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "week": "0 0 * * 0",
    "month": "0 0 1 * *",
    "year": "0 0 1 1 *",
}


def partitions_of(scheme: Scheme) -> dg.PartitionsDefinition | None:
    """The definition whose keys are the scheme's, or None for an entity that is not partitioned.

    A scheme without `end` includes the window that is still open, as Ferry's own keys do.
    """
    if scheme.by is None:
        return None
    if isinstance(scheme.every, str) and scheme.start is not None:
        return dg.TimeWindowPartitionsDefinition(
            start=scheme.start.replace(tzinfo=datetime.UTC),
            cron_schedule=CRON[scheme.every],
            fmt=FORMATS[scheme.every],
            end=_after(scheme) if scheme.end else None,
            end_offset=0 if scheme.end else 1,
            timezone="UTC",
        )
    return dg.StaticPartitionsDefinition(list(scheme.keys))


def _after(scheme: Scheme) -> datetime.datetime:
    """The end of the last window: Dagster leaves out a window that its `end` cuts."""
    definition = dg.TimeWindowPartitionsDefinition(
        start=scheme.start.replace(tzinfo=datetime.UTC)
        if scheme.start
        else datetime.datetime.now(datetime.UTC),
        cron_schedule=CRON[str(scheme.every)],
        fmt=FORMATS[str(scheme.every)],
        timezone="UTC",
    )
    return definition.time_window_for_partition_key(scheme.keys[-1]).end
