"""The components `ferry.components.AirbyteConnection` and `FivetranConnection`: a connection's tables as assets."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import psycopg
from pydantic import BaseModel

from ferry.catalogue import connect, quoted
from ferry.components.connections import (
    ConnectionDeclaration,
    Declared,
    Remembered,
    recall,
    remember,
)
from ferry.components.following import Connection, Counts, Sync, chosen, fault, follow, open_service
from ferry.components.resources import FerryResource
from ferry.components.versions import stamp
from ferry.declaration import fingerprint
from ferry.errors import FerryError
from ferry.settings import Settings, read_settings

PROGRESS_SECONDS = 15.0
# The column in which Fivetran says when it wrote a row.
STAMP = "_fivetran_synced"


class _Connector(dg.Component, dg.Resolvable):
    kind: ClassVar[str]

    def __init__(self, attributes: ConnectionDeclaration) -> None:
        self.attributes = attributes

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The attributes are the declaration's own model."""
        return ConnectionDeclaration

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "_Connector":  # noqa: ARG003
        """Make the component of its checked attributes."""
        assert isinstance(attributes, ConnectionDeclaration)
        return cls(attributes)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The connection's tables, and the schedule that syncs them if one is declared. No socket is opened here."""
        path = Path(context.path) / "defs.yaml"
        attributes = self.attributes.model_copy(update={"name": self.attributes.name or path.parent.name})
        return connection_definitions(Declared(self.kind, attributes, path))


class AirbyteConnection(_Connector):
    """One connection of an Airbyte workspace: its streams are assets, and materializing them syncs it."""

    kind = "airbyte"


class FivetranConnection(_Connector):
    """One connection of a Fivetran account: its tables are assets, and materializing them syncs it."""

    kind = "fivetran"


def connection_definitions(declared: Declared) -> dg.Definitions:
    """The assets of one connection; empty as long as neither the declaration nor the tool has named a stream."""
    settings = read_settings()
    keys = declared.keys(settings)
    if not keys:
        return dg.Definitions()
    assets = sync_assets(declared, keys, recall(settings, declared.attributes.name))
    if declared.attributes.follow is None:
        return dg.Definitions(assets=[assets])
    job = dg.define_asset_job(
        f"sync_{declared.attributes.name}_now", dg.AssetSelection.assets(*keys.values())
    )
    schedule = dg.ScheduleDefinition(
        name=f"sync_{declared.attributes.name}",
        job=job,
        cron_schedule=declared.attributes.follow,
        default_status=dg.DefaultScheduleStatus.RUNNING,  # whoever declares a time wants it kept
    )
    return dg.Definitions(assets=[assets], jobs=[job], schedules=[schedule])


def sync_assets(
    declared: Declared, keys: dict[str, dg.AssetKey], kept: Remembered | None
) -> dg.AssetsDefinition:
    """The multi-asset of one connection. A tool syncs all streams of a connection or none, and so does this."""
    attributes = declared.attributes
    specs = [_spec(declared, stream, key, kept) for stream, key in keys.items()]

    @dg.multi_asset(name=f"sync_{attributes.name}", specs=specs)
    def run(context: dg.AssetExecutionContext, ferry: FerryResource) -> Iterator[dg.MaterializeResult]:
        settings = ferry.settings()
        try:
            sync, connection, done = _synced(context, declared, settings)
        except FerryError as error:
            if not error.retryable:
                # `allow_retries=False` binds the op's retries only; the run's own would try again all the same.
                context.instance.add_run_tags(context.run.run_id, {"dagster/max_retries": "0"})
            raise dg.Failure(str(error), allow_retries=error.retryable) from None
        for stream, key in keys.items():
            yield dg.MaterializeResult(
                asset_key=key,
                metadata=_metadata(declared, settings, stream, sync, connection, done),
                data_version=dg.DataVersion(sync.version),
            )

    return run


def _synced(
    context: dg.AssetExecutionContext, declared: Declared, settings: Settings
) -> tuple[Sync, Connection, float]:
    """Sync once, or take over the sync of the run that this one goes on from; tells Dagster how it comes along."""
    attributes = declared.attributes
    tag = f"ferry/sync.{attributes.name}"
    service = open_service(declared.kind, settings, attributes.account, attributes.patience)
    before = recall(settings, attributes.name)
    connection = service.connection(attributes.connection, declared.known_id(before))
    if attributes.connection not in (connection.id, connection.name):
        context.log.warning(
            f"{service.label}: the connection {attributes.connection!r} is called {connection.name!r} now;"
            f" write that in {declared.path}"
        )
    streams = chosen(connection, attributes.streams, service.label, f"{declared.path}: streams")
    for line in _changes(before, connection, streams):
        context.log.warning(f"{service.label}, {connection.name}: {line}")
    remember(settings, attributes.name, connection, attributes.connection)
    began, told = datetime.now(UTC), [0.0]

    def progress(sync: Sync) -> None:
        seconds = (datetime.now(UTC) - began).total_seconds()
        if sync.state != "running" or seconds - told[0] >= PROGRESS_SECONDS or not told[0]:
            told[0] = seconds or 0.001
            size = (
                f"{sync.rows:,} rows, {sync.bytes or 0:,} bytes" if sync.rows is not None else "no counts yet"
            )
            context.log.info(f"{service.label} sync {sync.handle} of {connection.name}: {sync.state}, {size}")

    def started(handle: str) -> None:
        context.instance.add_run_tags(context.run.run_id, {tag: handle})

    sync = follow(
        service,
        connection,
        known=_earlier(context, tag, declared.keys(settings)),
        started=started,
        progress=progress,
        poll_seconds=attributes.poll_seconds,
    )
    for line in sync.warnings:
        context.log.warning(f"{service.label}, {connection.name}: {line}")
    error = fault(service, connection, sync)
    done = (datetime.now(UTC) - began).total_seconds()
    if error is not None:
        for stream, key in declared.keys(settings).items():
            if sync.streams.get(stream, Counts()).whole:
                metadata = _metadata(declared, settings, stream, sync, connection, done)
                version = f"{declared.kind}-{sync.handle}-partial"
                tags = stamp(_code_version(declared), version, [])
                context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))
        raise error
    return sync, connection, done


def _earlier(context: dg.AssetExecutionContext, tag: str, keys: dict[str, dg.AssetKey]) -> str | None:
    """The sync that the run which this one goes on from had started, unless its rows are recorded already."""
    run: Any = context.run
    while run is not None:
        if tag in run.tags:
            handle = run.tags[tag]
            last = context.instance.get_latest_materialization_event(next(iter(keys.values())))
            seen = (
                last.asset_materialization.metadata.get("sync")
                if last and last.asset_materialization
                else None
            )
            return None if seen is not None and seen.value == handle else handle
        parent = run.parent_run_id or run.tags.get("dagster/parent_run_id")
        run = context.instance.get_run_by_id(parent) if parent else None
    return None


def _changes(before: Remembered | None, now: Connection, streams: tuple[str, ...]) -> Iterator[str]:
    """How the tool's tables differ from those that were remembered."""
    for stream in streams if before else ():
        assert before is not None
        old = before.connection.tables.get(stream, ("", {}))[1]
        new = now.tables[stream][1]
        gone, come = [c for c in old if c not in new], [c for c in new if c not in old]
        retyped = [c for c in old if c in new and old[c] != new[c]]
        parts = {"columns gone": gone, "new columns": come, "columns of another type": retyped}
        said = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
        if old and said:
            yield f"the schema of {stream} has changed ({'; '.join(said)}); compare the entity's declaration with it"


def _metadata(
    declared: Declared, settings: Settings, stream: str, sync: Sync, connection: Connection, seconds: float
) -> dict[str, Any]:
    counts = sync.streams.get(stream, Counts())
    table, columns = connection.tables[stream]
    rows, stamped, size = _landed(declared, settings, table, sync.since)
    known = {
        "dagster/row_count": rows,
        "rows synced": counts.rows if counts.rows is not None else stamped,
        "bytes synced": counts.bytes,
        "bytes in the table": size,
    }
    metadata: dict[str, Any] = {
        "sync": sync.handle,
        "dagster/table_name": f"{declared.attributes.tables_in}.{table}",
        "seconds": round(seconds, 3),
        **{name: value for name, value in known.items() if value is not None},
    }
    if columns:
        metadata["dagster/column_schema"] = _schema(columns)
    if sync.url:
        metadata["page"] = dg.MetadataValue.url(sync.url)
    return metadata


def _landed(
    declared: Declared, settings: Settings, table: str, since: str
) -> tuple[int | None, int | None, int | None]:
    """The rows that entities find in a table now, how many of them the sync has stamped, and the table's bytes.

    None each where it cannot be told, which fails no sync: a view has no bytes, and a tool that counts needs no stamps.
    """
    name = f"{declared.attributes.tables_in}.{table}"
    try:
        into = declared.attributes.into
        with connect(settings.url(into), into) as connection:
            row = connection.execute(
                "select nullif(pg_total_relation_size(to_regclass(%(name)s)), 0), exists (select from pg_attribute"
                " where attrelid = to_regclass(%(name)s) and attname = %(stamp)s and %(since)s <> '')",
                {"name": quoted(name), "stamp": STAMP, "since": since},
            ).fetchone()
            size, stamps = row or (None, False)
            fresh = f"count(*) filter (where {quoted(STAMP)} > %(since)s)" if stamps else "null"
            query = f"select count(*), {fresh} from {quoted(name)}"  # noqa: S608
            row = connection.execute(query.encode(), {"since": since}).fetchone()
            return (*row, size) if row else (None, None, None)
    except (FerryError, psycopg.Error):
        return None, None, None


def _schema(columns: dict[str, str]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, type_ or "string") for name, type_ in columns.items()])


def _code_version(declared: Declared) -> str:
    told = declared.attributes
    return fingerprint([declared.kind, told.account, told.connection, told.into, told.tables_in])


def _spec(declared: Declared, stream: str, key: dg.AssetKey, kept: Remembered | None) -> dg.AssetSpec:
    attributes = declared.attributes
    age = (
        f"What {declared.label} says of it was read on {kept.read_at.replace('T', ' ').replace('+00:00', ' UTC')}."
        if kept
        else f"{declared.label} has not been asked about it yet: `ferry connectors refresh` does."
    )
    metadata: dict[str, Any] = {"connection": attributes.connection, "account": attributes.account}
    if kept:
        metadata["read from the tool"] = dg.MetadataValue.timestamp(datetime.fromisoformat(kept.read_at))
        metadata["page"] = dg.MetadataValue.url(kept.connection.url)
        if stream in kept.connection.tables and kept.connection.tables[stream][1]:
            metadata["dagster/column_schema"] = _schema(kept.connection.tables[stream][1])
    return dg.AssetSpec(
        key,
        deps=[dg.AssetKey.from_user_string(one) for one in attributes.above],
        description="\n\n".join(
            filter(
                None,
                [
                    attributes.description,
                    f"The table {key.path[-1]}, written by {declared.label} (connection {attributes.connection}).",
                    age,
                ],
            )
        ),
        group_name=attributes.group,
        owners=list(attributes.owners),
        tags=dict(attributes.tags),
        kinds={declared.kind, "table"},
        code_version=_code_version(declared),
        metadata=metadata,
    )
