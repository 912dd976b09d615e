"""What Dagster starts by itself: the conditions that an entity declares, and the sensor and schedule they need."""

from collections.abc import Iterable

import dagster as dg

from ferry.components.partitions import is_discovered, range_tags


def condition_of(declared: str, upstream: dg.AssetKey, *, own_stage: bool) -> dg.AutomationCondition | None:
    """The condition of one asset of an entity.

    Args:
        declared: the declaration's `automation`.
        upstream: the asset that its rows come from: the observed source, or the entity's own stage before it.
        own_stage: whether it is the latter.
    """
    if declared == "none":
        return None
    automation, before = dg.AutomationCondition, dg.AssetSelection.assets(upstream)
    # An earlier stage of its own that is new says nothing: a run that fails at a later one leaves it behind, and would
    # be repeated for that. Stages go together.
    together = automation.any_deps_match(automation.will_be_requested()).allow(before)
    if declared == "eager":
        # A sync may have changed rows of any month, so not only the newest partition follows it.
        eager = automation.eager().without(automation.in_latest_time_window())
        others = automation.any_deps_updated().ignore(before)
        return eager.replace("any_deps_updated", others | together) if own_stage else eager
    changed = automation.data_version_changed() | automation.will_be_requested()
    asked = together if own_stage else automation.any_deps_match(changed).allow(before)
    return (asked.since_last_handled() & ~automation.in_progress()).with_label("the source changed")


def source_automation(
    observed: Iterable[dg.AssetsDefinition], cron: str = "5 * * * *", seconds: int = 30
) -> dg.Definitions:
    """The sensor `automation`, which is on, and the schedules `watch_…`, which are not.

    Args:
        observed: the observed sources; those that are cut alike are looked at in one run.
        cron: when.
        seconds: how long the sensor rests between two looks.
    """
    alike: list[list[dg.AssetsDefinition]] = []
    for one in observed:
        group = next((group for group in alike if group[0].partitions_def == one.partitions_def), None)
        if group is None:
            alike.append([one])
        else:
            group.append(one)
    schedules = [_schedule(group, cron) for group in alike]
    sensor = dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=seconds,
        description="Starts what the entities' `automation` says.",
    )
    return dg.Definitions(sensors=[sensor], schedules=schedules)


def _schedule(group: list[dg.AssetsDefinition], cron: str) -> dg.ScheduleDefinition:
    name = f"watch_{'_'.join(min(one.key for one in group).path)}"
    job = dg.define_asset_job(
        name,
        dg.AssetSelection.assets(*(one.key for one in group)),
        description="Rows and a fingerprint of each partition, as the source computes them.",
    )

    @dg.schedule(job=job, cron_schedule=cron, name=name)
    def look(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Look at every partition of these sources."""
        cut = group[0].partitions_def
        store = context.instance if is_discovered(cut) else None
        keys = cut.get_partition_keys(dynamic_partitions_store=store) if cut else [""]
        if not keys:
            return dg.SkipReason("No partition is known yet; the sensor new_partitions finds them")
        return dg.RunRequest(tags=range_tags(cut, keys[0], keys[-1]))

    return look
