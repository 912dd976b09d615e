"""The connections of sync tools that are declared below a folder, and what their tools said when last asked.

What a tool said lies in a file beside the stage, so that definitions load when the tool is down, and quickly: reading
a declaration opens no socket.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ferry.components.following import Connection, chosen, open_service
from ferry.declaration import nearest
from ferry.errors import DeclarationError, FerryError
from ferry.settings import Settings, read_settings

KINDS = {"ferry.components.AirbyteConnection": "airbyte", "ferry.components.FivetranConnection": "fivetran"}
# Nobody waits for a tool that is down just to know how old what it said is.
REFRESH_PATIENCE = 15.0


class ConnectionDeclaration(BaseModel):
    """The attributes of a connection's `defs.yaml`.

    `account` names the variable `FERRY_CONNECTIONS__…` with the tool's URL; `into` the connection under which entities
    read the tables; `tables_in` the schema that they find them in, or views over them; `patience` the seconds for which
    an outage of the tool is waited out; `follow` a cron expression by which the connection is synced; `above` keys of
    assets (`erp/orders`) that the tool reads, another team's perhaps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", pattern=r"^[a-z][a-z0-9_]{0,40}$|^$")
    description: str = ""
    account: str
    connection: str
    into: str
    tables_in: str = "public"
    streams: tuple[str, ...] = ()
    poll_seconds: float = Field(default=5.0, gt=0)
    patience: float = Field(default=300.0, gt=0)
    follow: str | None = None
    above: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    group: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)

    @field_validator("follow")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise ValueError("`follow` is a cron expression of five parts: `0 2 * * *`")
        return value


@dataclass(frozen=True)
class Remembered:
    """What a tool said of a connection, when (ISO 8601, UTC), and by which name it had been asked."""

    read_at: str
    connection: Connection
    declared: str = ""


def memory(settings: Settings, name: str) -> Path:
    """The file in which a connection is remembered."""
    return Path(settings.connector_root) / f"{name}.json"


def remember(settings: Settings, name: str, connection: Connection, declared: str) -> Remembered:
    """Keep what the tool said; readers see the old file or the new one."""
    file = memory(settings, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = Remembered(datetime.now(UTC).isoformat(timespec="seconds"), connection, declared)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(asdict(kept)))
    new.replace(file)
    return kept


def recall(settings: Settings, name: str) -> Remembered | None:
    """What is remembered; None if nothing is, or if it cannot be read."""
    try:
        told = json.loads(memory(settings, name).read_text())
        one = told["connection"]
        tables = {stream: (table, columns) for stream, (table, columns) in one["tables"].items()}
        connection = Connection(**{**one, "tables": tables, "obstacle": tuple(one["obstacle"])})
        return Remembered(told["read_at"], connection, told["declared"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Declared:
    """One declared connection: its kind, its attributes and its file."""

    kind: str
    attributes: ConnectionDeclaration
    path: Path

    @property
    def label(self) -> str:
        """The tool's name."""
        return self.kind.capitalize()

    def keys(self, settings: Settings) -> dict[str, dg.AssetKey]:
        """Stream → asset key, of the declared streams, or of those that the tool named when it was last asked."""
        kept = recall(settings, self.attributes.name)
        tables = kept.connection.tables if kept else {}
        streams = self.attributes.streams or tuple(tables)
        return {stream: self.key(tables[stream][0] if stream in tables else stream) for stream in streams}

    def known_id(self, kept: Remembered | None) -> str | None:
        """The id that the declared connection had when the tool was last asked: it stays when the name changes."""
        declared = self.attributes.connection
        return kept.connection.id if kept and declared in (kept.connection.name, kept.declared) else None

    def key(self, table: str) -> dg.AssetKey:
        """`legacy/orders`: as an entity names its source."""
        where = () if self.attributes.tables_in == "public" else (self.attributes.tables_in,)
        return dg.AssetKey([self.attributes.into, *where, table])


def declared_connections(folder: Path) -> list[Declared]:
    """The connections that are declared below a folder."""
    found = []
    for path in sorted(folder.glob("**/defs.yaml")):
        text = path.read_text("utf-8")
        if not any(kind in text for kind in KINDS):
            continue  # an entity, which need not be parsed here once more
        # A file that is no YAML is an entity's to complain of.
        with suppress(yaml.YAMLError):
            for document in yaml.safe_load_all(text):
                if isinstance(document, dict) and document.get("type") in KINDS:
                    given = {"name": path.parent.name, **(document.get("attributes") or {})}
                    kind = KINDS[document["type"]]
                    found.append(Declared(kind, ConnectionDeclaration.model_validate(given), path))
    return found


def owned_keys(folder: Path) -> set[dg.AssetKey]:
    """The source tables that a sync writes: nobody else observes them."""
    connections = declared_connections(folder)
    if not connections:
        return set()
    settings = read_settings()
    return {key for one in connections for key in one.keys(settings).values()}


def refresh(folder: Path, settings: Settings) -> dict[str, Remembered | FerryError]:
    """Ask every tool about its declared connection and remember the answers; one that fails keeps what it had."""
    told: dict[str, Remembered | FerryError] = {}
    for one in declared_connections(folder):
        name, before = one.attributes.name, recall(settings, one.attributes.name)
        try:
            service = open_service(
                one.kind, settings, one.attributes.account, min(one.attributes.patience, REFRESH_PATIENCE)
            )
            connection = service.connection(one.attributes.connection, one.known_id(before))
            chosen(connection, one.attributes.streams, service.label, f"{one.path}: streams")
            told[name] = remember(settings, name, connection, one.attributes.connection)
        except FerryError as error:
            told[name] = error
    return told


def connection_named(folder: Path, name: str) -> Declared:
    """A declared connection, or a `DeclarationError` with the nearest name."""
    found = {one.attributes.name: one for one in declared_connections(folder)}
    if name not in found:
        raise DeclarationError(
            f"there is no connection {name!r}", next=nearest(name, found, "Declared connections are")
        )
    return found[name]
