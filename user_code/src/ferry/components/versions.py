"""Version stamps for materializations that an op logs itself, one a partition.

Dagster stamps versions only on the events that it makes from an op's outputs, and those carry one version for all
partitions of a run. What is stamped here is what it compares to find out what is stale.
"""

from collections.abc import Iterable

import dagster as dg
from dagster import DagsterEventType
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

    def of(self, key: dg.AssetKey, partitions: list[str] | None) -> dict[str | None, tuple[str, str]]:
        """Data version and event number of an asset's newest materialization or observation.

        Args:
            key: the asset.
            partitions: the partitions that are asked for, or None for an asset that has none.

        Returns:
            Partition → (version, event); under None the answer for an asset that has none.
        """
        if partitions is None:
            if key not in self._whole:
                record = self._instance.get_latest_data_version_record(key)
                version = extract_data_version_from_entry(record.event_log_entry) if record else None
                self._whole[key] = (
                    (version or DEFAULT_DATA_VERSION).value,
                    str(record.storage_id) if record else NULL_EVENT_POINTER,
                )
            return {None: self._whole[key]}
        found: dict[str | None, tuple[str, str]] = {}
        storage = self._instance.event_log_storage
        # Two queries for all partitions; asked one by one, the look-ups would cost more than the load.
        for kind in (DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION):
            events = storage.get_latest_storage_id_by_partition(key, kind, set(partitions))
            if not events:
                continue
            tags = storage.get_latest_tags_by_partition(key, kind, [DATA_VERSION_TAG], list(events))
            for partition, event in events.items():
                version = tags.get(partition, {}).get(DATA_VERSION_TAG, DEFAULT_DATA_VERSION.value)
                if partition not in found or int(found[partition][1]) < event:
                    found[partition] = (version, str(event))
        missing = (DEFAULT_DATA_VERSION.value, NULL_EVENT_POINTER)
        if not found:
            # An upstream that has no partitions, such as a sync tool's table, is at one version for all of them.
            record = self._instance.get_latest_data_version_record(key)
            missing = self.of(key, None)[None] if record and record.partition_key is None else missing
        return {partition: found.get(partition, missing) for partition in partitions}


def stamp(
    code_version: str, data_version: str, inputs: Iterable[tuple[dg.AssetKey, tuple[str, str]]]
) -> dict[str, str]:
    """The tags of one materialization.

    Args:
        code_version: of the asset.
        data_version: of what was made.
        inputs: each upstream asset with its data version and event, as `Versions.of` gives them.
    """
    tags = {
        CODE_VERSION_TAG: code_version,
        DATA_VERSION_TAG: data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for key, (version, event) in inputs:
        tags[get_input_data_version_tag(key)] = version
        tags[get_input_event_pointer_tag(key)] = event
    return tags
