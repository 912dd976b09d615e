"""Fivetran: the documented REST API, with the records of dagster-fivetran to read its answers.

Why the library's own client does not send the requests stands in docs/adr/sync-tools-are-followed.md.
"""

import time
from typing import Any
from urllib.parse import unquote, urlsplit

from dagster_fivetran.translator import FivetranConnector, FivetranSchemaConfig

from ferry.components.following import CANCELLED, FAILED, RUNNING, SUCCEEDED, Connection, Counts, Sync
from ferry.declaration import nearest
from ferry.errors import DeclarationError, PermanentError
from ferry.sources.auth import basic
from ferry.sources.calls import Caller, Patience, Refused, moment

# As much of a connection's history as one call gives.
HISTORY_SECONDS = 7 * 86_400.0
# How long a pause may take to stop a sync; Fivetran's own limit is 60 seconds.
PAUSE_SECONDS = 60.0


class Fivetran:
    """One account, named by `fivetran://key:secret@api.fivetran.com` (`fivetran+http://` without TLS).

    Fivetran gives a sync no number when it is asked for one. A sync's handle here is the moment at which the sync
    before it ended: it is done when that moment has moved.
    """

    label = "Fivetran"

    def __init__(self, url: str, patience: float) -> None:
        """Args: the account's URL, and how many seconds an outage is waited out; no call is made."""
        parts = urlsplit(url)
        if parts.scheme not in ("fivetran", "fivetran+http") or not parts.hostname:
            raise DeclarationError(
                "this is no URL of a Fivetran account",
                where="settings",
                next="Write fivetran://key:secret@api.fivetran.com",
            )
        scheme, port = (
            "http" if parts.scheme.endswith("+http") else "https",
            f":{parts.port}" if parts.port else "",
        )
        self.caller = Caller(
            f"{scheme}://{parts.hostname}{port}/v1",
            auth=basic(unquote(parts.username or ""), unquote(parts.password or "")),
            patience=Patience(attempts=1000, seconds=patience, first_wait=0.2, longest_wait=20),
            headers={"accept": "application/json;version=2"},
            who=self.label,
            words=("message",),
        )
        self.asked = ""  # when this process asked for a sync, ISO 8601 by Fivetran's clock

    def connection(self, named: str, remembered: str | None) -> Connection:
        """The connection of that name (its schema) or id, with the tables that are enabled."""
        found: dict[str, str] = {}
        cursor: str | None = None
        while True:
            asked = {"limit": 1000, **({"cursor": cursor} if cursor else {})}
            page = self._data("GET", "connections", params=asked)
            found |= {one["id"]: one["schema"] for one in page["items"]}
            cursor = page.get("next_cursor")
            if not cursor:
                break
        ids = [key for key, name in found.items() if named in (key, name)]
        if len(ids) > 1:
            raise DeclarationError(
                f"Fivetran has {len(ids)} connections with the name {named!r}",
                where=self.caller.base,
                next=f"Declare the id of one: {', '.join(ids)}",
            )
        chosen = ids[0] if ids else remembered if remembered in found else None
        if chosen is None:
            raise DeclarationError(
                f"Fivetran has no connection {named!r}",
                where=self.caller.base,
                why="it was there before, and was deleted" if remembered else "",
                next=nearest(named, found.values(), "Its connections are"),
            )
        one, raw = self._look(chosen)
        return Connection(
            one.id, one.name, one.url, self._tables(chosen), _obstacle(one, raw), one.schedule_type or ""
        )

    def running(self, connection: str) -> Sync | None:
        """The sync that is under way."""
        one, _ = self._look(connection)
        return Sync(_handle(one), RUNNING, url=one.url) if one.sync_state == "syncing" else None

    def start(self, connection: str) -> Sync:
        """Start a sync; without `force`, Fivetran leaves one that runs alone."""
        one, _ = self._look(connection)
        self.asked = moment(self.caller.now() - 2)
        self._data("POST", f"connections/{connection}/sync", json={"force": False})
        return Sync(_handle(one), RUNNING, url=one.url)

    def look(self, connection: str, handle: str) -> Sync | None:
        """Whether a sync has ended since the one before it, and how."""
        one, raw = self._look(connection)
        if _handle(one) == handle:
            obstacle, _ = _obstacle(one, raw)
            if obstacle and one.sync_state != "syncing":
                return Sync(handle, FAILED, error=obstacle, url=one.url)
            if one.sync_state == "rescheduled" and one.schedule_type == "manual":
                # Nobody will start it at that time: with a schedule by hand, only a call does.
                when = (raw.get("status") or {}).get("rescheduled_for") or "later"
                said = f"Fivetran has put the sync off until {when}"
                return Sync(handle, FAILED, error=said, passing=True, url=one.url)
            if one.sync_state != "syncing" and self._was_cancelled(connection):
                return Sync(handle, CANCELLED, url=one.url)
            return Sync(handle, RUNNING, url=one.url)
        if one.is_last_sync_successful:
            tables = self._tables(connection)
            streams = dict.fromkeys(tables, Counts(whole=True))
            warnings = tuple(_said(told) for told in raw["status"].get("warnings") or [])
            version = f"fivetran-{one.succeeded_at}"
            # What this sync wrote bears a time after the end of the one before it.
            return Sync(
                handle, SUCCEEDED, version, streams=streams, warnings=warnings, url=one.url, since=handle
            )
        last = str(self._newest(connection).get("reason") or "")
        said = [_said(told) for told in raw["status"].get("tasks") or []]
        return Sync(
            handle,
            FAILED,
            error=last or "; ".join(said) or f"failed at {one.failed_at}",
            log=tuple(said),
            url=one.url,
        )

    def cancel(self, connection: str, handle: str) -> None:
        """Stop the sync: Fivetran stops it by pausing the connection, which is then set going again."""
        now = self.look(connection, handle)
        if now is None or now.state != RUNNING:
            return  # it has ended; what the connection does now is not ours to stop
        self._data("PATCH", f"connections/{connection}", json={"paused": True})
        until = time.monotonic() + PAUSE_SECONDS
        while self._look(connection)[0].sync_state != "paused" and time.monotonic() < until:
            time.sleep(0.5)
        self._data("PATCH", f"connections/{connection}", json={"paused": False})

    def _look(self, connection: str) -> tuple[FivetranConnector, dict[str, Any]]:
        raw = self._data("GET", f"connections/{connection}")
        return FivetranConnector.from_connector_details(raw), raw

    def _tables(self, connection: str) -> dict[str, tuple[str, dict[str, str]]]:
        try:
            told = self._data("GET", f"connections/{connection}/schemas")
        except Refused as error:
            if error.status != 404:
                raise
            raise PermanentError(
                "Fivetran has not read the source's schema yet",
                where=f"connection {connection}",
                why=error.why,
                next="Let the connection sync once in Fivetran, or reload its schema there",
            ) from None
        config = FivetranSchemaConfig.from_schema_config_details(told)
        return {
            table.name_in_destination: (table.name_in_destination, dict.fromkeys(table.columns or {}, ""))
            for schema in config.schemas.values()
            if schema.enabled
            for table in schema.tables.values()
            if table.enabled
        }

    def _was_cancelled(self, connection: str) -> bool:
        """Whether somebody stopped the sync that we started, which moves no time of the connection."""
        newest = self._newest(connection) if self.asked else {}
        stopped = str(newest.get("status", "")).upper().startswith("CANCEL")
        return stopped and _newest_moment(newest) >= self.asked

    def _newest(self, connection: str) -> dict[str, Any]:
        """The newest sync in the history; empty where there is none."""
        end = self.caller.now() + 60
        asked = {"start_time": moment(end - HISTORY_SECONDS), "end_time": moment(end), "limit": 1000}
        try:
            items = self._data("GET", f"connections/{connection}/sync-history", params=asked)["items"]
        except (Refused, KeyError):
            return {}
        return max(items, key=_newest_moment, default={})

    def _data(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        told = self.caller.call(method, path, **more).json()
        return told.get("data", told)


def _said(told: dict[str, Any]) -> str:
    """A task or a warning in one line."""
    parts = (told.get("code"), told.get("message"), told.get("details"))
    return ": ".join(str(part) for part in parts if part)


def _newest_moment(item: dict[str, Any]) -> str:
    """The latest of an item's moments, whatever they are called: they are ISO 8601 in UTC and sort as text."""
    return max((v for v in item.values() if isinstance(v, str) and v[:2] == "20"), default="")


def _handle(one: FivetranConnector) -> str:
    return one.last_sync_completed_at.isoformat()


def _obstacle(one: FivetranConnector, raw: dict[str, Any]) -> tuple[str, str]:
    if one.paused:
        return "the connection is paused in Fivetran", "Enable it there, then re-execute"
    if not one.is_connected:
        said = "; ".join(str(t.get("message") or t.get("code")) for t in raw["status"].get("tasks", []))
        return (
            f"Fivetran calls the connection {one.setup_state}{f': {said}' if said else ''}",
            "Repair its setup there, then re-execute",
        )
    return "", ""
