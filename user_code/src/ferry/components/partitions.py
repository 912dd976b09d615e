"""Ferry's partition schemes as Dagster's partitions definitions; the keys are the same."""

import datetime

import dagster as dg

from ferry.partition import FORMATS, Scheme, floor, following

CRON = {
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "week": "0 0 * * 0",
    "month": "0 0 1 * *",
    "year": "0 0 1 1 *",
}


def partitions_of(scheme: Scheme) -> dg.PartitionsDefinition | None:
    """The definition whose keys are the scheme's, or None for an entity that is not partitioned.

    The window that is still open is included, as Ferry's own keys do; Dagster by itself begins with the one before.
    """
    if scheme.by is None:
        return None
    if isinstance(scheme.every, str) and scheme.start is not None:
        last = following(floor(scheme.end, scheme.every), scheme.every) if scheme.end else None
        return dg.TimeWindowPartitionsDefinition(
            start=scheme.start.replace(tzinfo=datetime.UTC),
            cron_schedule=CRON[scheme.every],
            fmt=FORMATS[scheme.every],
            end=last.replace(tzinfo=datetime.UTC) if last else None,
            end_offset=1,
            timezone="UTC",
        )
    return dg.StaticPartitionsDefinition(list(scheme.keys))
