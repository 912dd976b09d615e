"""Version stamps for materializations that an op logs itself, one a partition.

Dagster stamps versions only on the events that it makes from an op's outputs, and those carry one version for all
partitions of a run. What is stamped here is what it compares to find out what is stale.
"""

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)


class Versions:
    """Looks up what upstream assets were at; an asset that is not partitioned is looked up once a run."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """Args: the instance whose events count."""
        self._instance = instance
        self._whole: dict[dg.AssetKey, tuple[str, str]] = {}

    def of(self, key: dg.AssetKey, partition: str | None) -> tuple[str, str]:
        """The data version and the event of an asset's (or its partition's) newest materialization or observation."""
        if partition is None and key in self._whole:
            return self._whole[key]
        record = self._instance.get_latest_data_version_record(key, partition_key=partition)
        version = extract_data_version_from_entry(record.event_log_entry) if record else None
        found = (
            (version or DEFAULT_DATA_VERSION).value,
            str(record.storage_id) if record else NULL_EVENT_POINTER,
        )
        if partition is None:
            self._whole[key] = found
        return found


def stamp(
    versions: Versions,
    *,
    code_version: str,
    data_version: str,
    inputs: Iterable[tuple[dg.AssetKey, str | None]],
) -> dict[str, str]:
    """The tags of one materialization.

    Args:
        versions: where the inputs' latest events are looked up.
        code_version: of the asset.
        data_version: of what was made.
        inputs: upstream asset and its partition (None: not partitioned, or all of them).
    """
    tags = {
        CODE_VERSION_TAG: code_version,
        DATA_VERSION_TAG: data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for key, partition in inputs:
        version, event = versions.of(key, partition)
        tags[get_input_data_version_tag(key)] = version
        tags[get_input_event_pointer_tag(key)] = event
    return tags
