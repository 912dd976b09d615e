"""A Fivetran account with one connection, over a real socket; its syncs copy tables between two PostgreSQLs.

    python tests/emulators/fivetran.py --source postgresql://… --destination postgresql://… --schema shop

The REST API: connections in pages, their schemas, sync, sync-history, pausing. Paths, parameters, fields and states
were held against Fivetran's OpenAPI definition (v1, in fivetran/fivetran-mcp 30c9153, 2026-08-19). That one has no
`sync-history`: its parameters are those of its page in Fivetran's reference, its items have the fields that are known
of them. A sync has no number when it is asked for; `succeeded_at` and `failed_at` move when it ends; a pause stops it;
one that is put off waits for the next call, as it does with a schedule by hand. `POST /_control` changes how it behaves
(see `syncing.Faults`; beside those `pause`, `break_setup`, `delete`, `disable_table`, `put_off`, `warn`, `cancel`),
`GET /_control` tells what was asked.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from syncing import Handler, Mover, Tool, arguments, serve

KEY, SECRET = "key-1", "secret-of-key-1"
CONNECTION, GROUP = "warn_enormously", "decent_dropsy"
NAME = "old shop"
OWN = {
    "_fivetran_deleted": "boolean not null default false",
    "_fivetran_synced": "timestamptz not null default now()",
}


def fivetran_type(type_: str) -> str:
    """What becomes of a PostgreSQL type: scales are kept, lengths are not."""
    if type_.startswith("numeric("):
        return type_
    plain = re.sub(r"\(.*?\)", "", type_)
    known = ("smallint", "integer", "bigint", "numeric", "boolean", "date", "double precision")
    return plain if plain in known or plain.startswith("timestamp") else "text"


class Fivetran(Tool):
    """One account with one connection."""

    def __init__(self, args: Any) -> None:
        super().__init__(args, Mover(args.source, args.destination, args.schema, fivetran_type, OWN))
        self.paused, self.broken, self.deleted, self.put_off, self.warning = False, False, False, False, ""
        self.disabled: set[str] = set()

    def control(self, wanted: dict[str, Any]) -> str:
        """Orders about the connection, then the faults."""
        self.paused = wanted.pop("pause", self.paused)
        self.broken = wanted.pop("break_setup", self.broken)
        self.deleted = wanted.pop("delete", self.deleted)
        self.put_off = wanted.pop("put_off", self.put_off)
        self.warning = wanted.pop("warn", self.warning)
        if wanted.pop("cancel", False) and (running := self.running(CONNECTION)):
            running.cancelled.set()
        if "disable_table" in wanted:
            self.disabled = {name for name in [wanted.pop("disable_table")] if name}
        return super().control(wanted)

    def details(self) -> dict[str, Any]:
        """The connection as the API shows it."""
        ended = [sync for sync in self.syncs.values() if sync.ended]
        good = max((s.ended for s in ended if s.status == "succeeded"), default=0.0)
        bad = max((s.ended for s in ended if s.status == "failed"), default=0.0)
        tasks = (
            [{"code": "reconnect", "message": "Reconnect: the password was refused"}] if self.broken else []
        )
        if bad > good:
            tasks.append({"code": "sync_failure", "message": "The last sync failed"})
        running = self.running(CONNECTION)
        idle = "paused" if self.paused else "rescheduled" if self.put_off else "scheduled"
        warnings = [{"code": "resync_table_warning", "message": self.warning}] if self.warning else []
        return {
            "id": CONNECTION, "service": "postgres", "schema": NAME, "group_id": GROUP, "paused": self.paused,
            "sync_frequency": 360, "schedule_type": "manual", "config": {}, "connected_by": "somebody",
            "created_at": _iso(1.7e9), "service_version": 1, "pause_after_trial": False,
            "data_delay_sensitivity": "NORMAL", "data_delay_threshold": 0,
            "succeeded_at": _iso(good), "failed_at": _iso(bad),
            "status": {
                "setup_state": "broken" if self.broken else "connected", "schema_status": "ready",
                "sync_state": "syncing" if running else idle, "update_state": "on_schedule",
                "rescheduled_for": "2030-01-01T00:00:00Z" if self.put_off else None,
                "is_historical_sync": False, "tasks": tasks, "warnings": warnings,
            },
        }  # fmt: skip


class FivetranHandler(Handler):
    """The endpoints."""

    tool: Fivetran

    def refused(self, status: int, message: str) -> Any:
        """A refusal, as the API words it."""
        return {
            "code": {401: "Unauthorized", 404: "NotFound_Connector"}.get(status, "Error"),
            "message": message,
        }

    def route(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: dict[str, Any],
    ) -> tuple[int, Any]:
        """Status and answer of one call."""
        tool = self.tool
        if not self.basic(KEY, SECRET):
            return 401, self.refused(401, "API key and secret do not match")
        one = f"/v1/connections/{CONNECTION}"
        if method == "GET" and path == "/v1/connections":
            begin = int(query.get("cursor", 0))
            other = {**tool.details(), "id": "other_one", "schema": "other", "paused": True}
            items = [other] if tool.deleted else [other, tool.details()]
            page = items[begin : begin + min(1, int(query.get("limit", 100)))]
            more = {"next_cursor": str(begin + len(page))} if items[begin + len(page) :] else {}
            return self._good({"items": page, **more})
        if tool.deleted or not path.startswith(one):
            return 404, self.refused(404, f"Connection with id '{path.rpartition('/')[2]}' does not exist.")
        match method, path.removeprefix(one):
            case "GET", "":
                return self._good(tool.details())
            case "GET", "/schemas":
                tables = {
                    s.name: {"enabled": s.name not in tool.disabled, "name_in_destination": s.name}
                    for s in tool.mover.discover()
                }
                schema = {"enabled": True, "name_in_destination": tool.args.schema, "tables": tables}
                return self._good({"schema_change_handling": "ALLOW_ALL", "schemas": {"public": schema}})
            case "GET", "/sync-history":
                end = _moment(query["end_time"]) if "end_time" in query else time.time()
                start = _moment(query["start_time"]) if "start_time" in query else end - 3600
                if not 0 < end - start <= 7 * 86_400:
                    return 400, {"code": "InvalidInput", "message": "The maximum time window is 7 days."}
                return self._good({"items": [
                    {"sync_id": f"sync-{s.id}", "started_at": _iso(s.began), "status": s.status.upper(),
                     "reason": s.error or None}
                    for s in tool.syncs.values() if start <= s.began < end
                ][: int(query.get("limit", 100))]})  # fmt: skip
            case "POST", "/sync":
                running = tool.running(CONNECTION)
                if running and body.get("force"):
                    running.cancelled.set()
                if not tool.paused and not tool.put_off and (not running or body.get("force")):
                    tool.start(
                        CONNECTION, [s.name for s in tool.mover.discover() if s.name not in tool.disabled]
                    )
                said = f"Sync has been successfully triggered for connection with id '{CONNECTION}'"
                return 200, {"code": "Success", "message": said}
            case "PATCH", "":
                tool.paused = body.get("paused", tool.paused)
                running = tool.running(CONNECTION)
                if tool.paused and running:
                    running.cancelled.set()
                return self._good(tool.details())
            case _:
                return 404, self.refused(404, f"no such resource: {method} {path}")

    def _good(self, data: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"code": "Success", "data": data}


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _iso(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z") if moment else None


if __name__ == "__main__":
    given = arguments("An emulated Fivetran.", 8912, "shop").parse_args()
    serve(given, Fivetran(given), FivetranHandler)
