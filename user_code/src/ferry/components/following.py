"""One sync of a tool such as Airbyte or Fivetran, followed to its end: found if it runs already, started if not."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import dagster as dg

from ferry.declaration import nearest
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.settings import Settings

RUNNING, SUCCEEDED, FAILED, CANCELLED = "running", "succeeded", "failed", "cancelled"
LOG_LINES = 20


@dataclass(frozen=True)
class Counts:
    """What a sync did for one stream; `rows` and `bytes` are None if the tool does not tell, `whole` if it ended."""

    rows: int | None = None
    bytes: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Sync:
    """A sync as it stands.

    Attributes:
        handle: what the tool's interface finds it by, also in another process.
        state: `running`, `succeeded`, `failed` or `cancelled`.
        version: data version of what it brought; set when it has succeeded.
        error: the connector's own words, when it failed; `passing` if the tool calls the fault one that passes.
        log: the last lines of its log, when it failed.
        warnings: what the tool holds against it although it succeeded.
        url: its page in the tool's own interface.
        since: for a tool that counts nothing but stamps the rows it writes (`_fivetran_synced`): rows that are stamped
            later than this moment (ISO 8601) were written by it.
    """

    handle: str
    state: str
    version: str = ""
    rows: int | None = None
    bytes: int | None = None
    streams: dict[str, Counts] = field(default_factory=dict)
    error: str = ""
    passing: bool = False
    log: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    url: str = ""
    since: str = ""


@dataclass(frozen=True)
class Connection:
    """A connection as the tool describes it: `tables` are stream → (table, its columns with their types).

    `obstacle` says in the tool's words why it cannot be synced now, and what to do: empty if it can.
    """

    id: str
    name: str
    url: str
    tables: dict[str, tuple[str, dict[str, str]]]
    obstacle: tuple[str, str] = ("", "")
    schedule: str = ""


class Service(Protocol):
    """What following needs of a tool."""

    label: str

    def connection(self, named: str, remembered: str | None) -> Connection:
        """The connection of that name or id; `remembered` is the id that it had when it was last seen."""
        ...

    def running(self, connection: str) -> Sync | None:
        """The sync of a connection that is under way, whoever started it."""
        ...

    def start(self, connection: str) -> Sync:
        """Start a sync; one that runs already is given back instead."""
        ...

    def look(self, connection: str, handle: str) -> Sync | None:
        """How a sync stands; None if the tool has forgotten it."""
        ...

    def cancel(self, connection: str, handle: str) -> None:
        """Ask a sync to stop."""
        ...


def open_service(kind: str, settings: Settings, account: str, patience: float) -> Service:
    """The tool behind an account, by the kind that the declaration names; no call is made yet.

    Args:
        kind: `airbyte` or `fivetran`.
        settings: have the account's URL.
        account: as the declaration names it.
        patience: seconds for which throttling and outages of one call are waited out.
    """
    from ferry.components.airbyte import Airbyte
    from ferry.components.fivetran import Fivetran

    return {"airbyte": Airbyte, "fivetran": Fivetran}[kind](settings.url(account), patience)


def follow(
    service: Service,
    connection: Connection,
    *,
    known: str | None,
    started: Callable[[str], None],
    progress: Callable[[Sync], None],
    poll_seconds: float,
) -> Sync:
    """Bring a connection up to date once and wait for it.

    Args:
        service: the tool.
        connection: as the tool describes it.
        known: the handle of the sync that an earlier try of this run started, if there was one: it is waited for,
            or taken as done, and no second one is started.
        started: called with the handle of a sync that this call starts, at once.
        progress: called after each look.
        poll_seconds: between two looks.

    Returns:
        The sync, at its end, whatever that is.

    Raises:
        PermanentError: the tool cannot sync the connection.
        TransientError: the tool could not be reached; the sync goes on without us, and the next try finds it.
    """
    if connection.obstacle[0]:
        what, then = connection.obstacle
        raise PermanentError(what, where=f"{service.label}, {connection.name}", next=then)
    now = service.look(connection.id, known) if known else None
    if now is not None and now.state == RUNNING and service.running(connection.id) is None:
        now = None  # it was asked for and is neither under way nor done: the tool has dropped it
    mine = now is not None and now.state == RUNNING
    if now is None or now.state not in (RUNNING, SUCCEEDED):
        now = service.running(connection.id)
        if now is None:
            now, mine = service.start(connection.id), True
            started(now.handle)
    try:
        while now.state == RUNNING:
            progress(now)
            time.sleep(poll_seconds)
            now = service.look(connection.id, now.handle) or now
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
        # A sync that the tool's own schedule or somebody else started is not ours to stop.
        if mine:
            service.cancel(connection.id, now.handle)
        raise
    progress(now)
    return now


def fault(service: Service, connection: Connection, sync: Sync) -> FerryError | None:
    """What to raise for a sync that did not succeed, with the connector's words and its log's last lines."""
    where = f"{service.label}, {connection.name}, sync {sync.handle}"
    if sync.state == SUCCEEDED:
        return None
    if sync.state == CANCELLED:
        return PermanentError(
            "the sync was cancelled",
            where=where,
            why="somebody stopped it in the tool, or its schedule did",
            next="Materialize again to start another one",
        )
    done = [name for name, counts in sync.streams.items() if counts.whole]
    log = "\n".join([". The log ends with:", *sync.log[-LOG_LINES:]]) if sync.log else ""
    kind = TransientError if sync.passing else PermanentError
    return kind(
        f"the sync failed: {sync.error or 'no reason was given'}",
        where=where,
        why=f"These streams had arrived before: {', '.join(done)}" if done else "",
        next=f"Repair it there{f' ({sync.url})' if sync.url else ''}, then re-execute{log}",
    )


def chosen(connection: Connection, wanted: tuple[str, ...], label: str, where: str) -> tuple[str, ...]:
    """The streams that a declaration names, or all; refuses one that the tool does not sync."""
    for name in wanted:
        if name not in connection.tables:
            raise DeclarationError(
                f"{label} syncs no stream {name!r} in the connection {connection.name!r}",
                where=where,
                next=nearest(name, connection.tables, "Its streams are"),
            )
    return wanted or tuple(connection.tables)
