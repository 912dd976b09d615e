"""The sensors that tell people: a run failed, rows wait too long for their parents, a source is no longer observed.

What could not be delivered is kept in the sensor's cursor and tried again at the next ticks, channel by channel.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.storage.tags import WILL_RETRY_TAG

from ferry.alerts import Alert, channels, deliver, waiting_too_long
from ferry.components.entity import source_key
from ferry.components.resources import FerryResource
from ferry.declaration import migration_in
from ferry.errors import FerryError
from ferry.plan import plan_migration
from ferry.settings import Settings

TICKS = 60
"""Ticks at which a message is tried again before it is given up: half an hour."""
AT_ONCE = 20
"""Failures that one tick tells of: a sensor has a minute."""


def alert_sensors(folder: Path) -> dg.Definitions:
    """The sensors `alert_on_failure`, `alert_on_waiting` and `alert_on_stale_observation`, all on."""

    @dg.sensor(
        name="alert_on_failure",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people of each run that failed and is not retried by itself.",
    )
    def on_failure(
        context: dg.SensorEvaluationContext, ferry: FerryResource
    ) -> dg.SensorResult | dg.SkipReason:
        settings = ferry.settings()
        known = json.loads(context.cursor) if context.cursor else None
        records = context.instance.fetch_run_status_changes(
            DagsterEventType.RUN_FAILURE,
            limit=AT_ONCE if known else 1,
            cursor=known["seen"] if known else None,
            ascending=known is not None,
        )
        if known is None:
            # Failures from before the sensor was on are no news.
            return _ended(records.cursor, [], ["Waits for the first failure from now on"])
        pending, told = _again(known["pending"], settings)
        for record in records.records:
            run = context.instance.get_run_by_id(record.event_log_entry.run_id)
            if run is None or run.tags.get(WILL_RETRY_TAG) == "true":
                continue
            left, said = _tell(failure_alert(context.instance, run, settings), settings)
            pending += left
            told += said
        return _ended(records.cursor or known["seen"], pending, told)

    @dg.sensor(
        name="alert_on_waiting",
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people of rows that wait too long for their parents, once a day for each entity.",
    )
    def on_waiting(
        context: dg.SensorEvaluationContext, ferry: FerryResource
    ) -> dg.SensorResult | dg.SkipReason:
        settings = ferry.settings()
        known = json.loads(context.cursor) if context.cursor else {"seen": {}, "pending": []}
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        pending, told = _again(known["pending"], settings)
        try:
            if not channels(settings):
                return dg.SkipReason(NOBODY)
            plans = plan_migration(migration_in(folder), settings)
            alerts = waiting_too_long(plans, settings, settings.alert_waiting_hours)
        except FerryError as error:
            return dg.SkipReason(str(error))
        for alert in alerts:
            if known["seen"].get(alert.entity) != today:
                left, said = _tell(alert, settings)
                pending += left
                told += said
        seen = {alert.entity: today for alert in alerts}
        return _ended(seen, pending, told)

    @dg.sensor(
        name="alert_on_stale_observation",
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people of sources that nobody has observed for too long, once a day for each.",
    )
    def on_stale(
        context: dg.SensorEvaluationContext, ferry: FerryResource
    ) -> dg.SensorResult | dg.SkipReason:
        settings = ferry.settings()
        known = json.loads(context.cursor) if context.cursor else {"seen": {}, "pending": []}
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        pending, told = _again(known["pending"], settings)
        keys = {source_key(entity): name for name, entity in migration_in(folder).entities.items()}
        alerts = stale_observations(context.instance, keys, settings)
        for alert in alerts:
            if known["seen"].get(alert.what) != today:
                left, said = _tell(alert, settings)
                pending += left
                told += said
        return _ended({alert.what: today for alert in alerts}, pending, told)

    return dg.Definitions(sensors=[on_failure, on_waiting, on_stale])


NOBODY = "Nobody is told: set FERRY_ALERT_SLACK_URL, FERRY_ALERT_WEBHOOK_URL or FERRY_ALERT_EMAIL_TO"


def stale_observations(
    instance: DagsterInstance, keys: dict[dg.AssetKey, str], settings: Settings
) -> list[Alert]:
    """One alert for each source that was observed once and has not been for too long: what it holds now is unknown.

    Args:
        instance: where observations are known.
        keys: observed assets → the entity that reads them.
        settings: for how long is too long.
    """
    alerts, now = [], datetime.datetime.now(datetime.UTC)
    for key, entity in sorted(keys.items(), key=lambda pair: pair[0].to_user_string()):
        latest = instance.fetch_observations(key, limit=1).records
        if not latest:
            continue
        at = datetime.datetime.fromtimestamp(latest[0].timestamp, datetime.UTC)
        if now - at > datetime.timedelta(hours=settings.alert_stale_hours):
            name = key.to_user_string()
            reason = (
                f"It was observed last on {at:%Y-%m-%d %H:%M} UTC, more than {settings.alert_stale_hours:g} hours ago."
                " Look whether its schedule watch_… is on and its runs succeed"
            )
            link = f"{settings.alert_link.rstrip('/')}/assets/{'/'.join(key.path)}"
            alerts.append(Alert(f"{name} is not observed", reason, entity, (), link))
    return alerts


def failure_alert(instance: DagsterInstance, run: DagsterRun, settings: Settings) -> Alert:
    """What a failed run says of itself: its first failed step's message, entity and partitions."""
    tags = run.tags
    first, last = (
        tags.get("dagster/asset_partition_range_start"),
        tags.get("dagster/asset_partition_range_end"),
    )
    cut = tags.get("dagster/partition") or (f"{first} … {last}" if first else "")
    partitions = (cut,) if cut else ()
    step, reason = "", ""
    for record in instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE).records[:1]:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        step, data = event.step_key or "", event.step_failure_data
        if data.user_failure_data:
            reason = data.user_failure_data.description or ""
            named = data.user_failure_data.metadata.get("partitions")
            if isinstance(named, dg.JsonMetadataValue) and isinstance(named.data, list) and cut:
                partitions = tuple(str(one) for one in named.data)
        elif data.error:
            reason = (data.error.cause or data.error).message
    if not reason:
        ends = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.RUN_FAILURE).records
        reason = ends[-1].event_log_entry.message if ends else "The run ended without a word"
    name = step or run.job_name
    return Alert(
        f"{name} failed",
        reason.strip()[:2000],
        step,
        partitions,
        f"{settings.alert_link.rstrip('/')}/runs/{run.run_id}",
    )


def _tell(alert: Alert, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """Deliver an alert; what is left to be tried again, and a line for the tick."""
    return _deliver(
        {"alert": {**alert.__dict__, "partitions": list(alert.partitions)}, "to": None, "ticks": 0}, settings
    )


def _again(pending: list[dict[str, Any]], settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    left: list[dict[str, Any]] = []
    told: list[str] = []
    for one in pending:
        more, said = _deliver(one, settings)
        left += more
        told += said
    return left, told


def _deliver(one: dict[str, Any], settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    alert = Alert(**{**one["alert"], "partitions": tuple(one["alert"]["partitions"])})
    try:
        if not channels(settings):
            return [], [f"{alert.what}. {NOBODY}"]
        refused = deliver(alert, settings, tuple(one["to"]) if one["to"] is not None else None)
    except FerryError as error:
        return [], [f"{alert.what}. {error}"]
    if not refused:
        return [], [f"{alert.what}: told"]
    said = "; ".join(f"{name}: {why}" for name, why in refused.items())
    if one["ticks"] >= TICKS:
        return [], [f"{alert.what}: given up. {said}"]
    return [{"alert": one["alert"], "to": list(refused), "ticks": one["ticks"] + 1}], [
        f"{alert.what}: not told yet. {said}"
    ]


def _ended(seen: object, pending: list[dict[str, Any]], told: list[str]) -> dg.SensorResult:
    return dg.SensorResult(
        skip_reason=dg.SkipReason("\n".join(told) or "Nothing to tell"),
        cursor=json.dumps({"seen": seen, "pending": pending}),
    )
