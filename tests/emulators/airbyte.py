"""A self-managed Airbyte with one connection, over a real socket; its syncs copy tables between two PostgreSQLs.

    python tests/emulators/airbyte.py --source postgresql://… --destination postgresql://… --schema airbyte

The public API (`/api/public/v1`: applications, workspaces, connections, jobs) and what is needed of the configuration
API (`/api/v1`: connections/get, jobs/get, jobs/get_without_logs, stream_statuses/list). Paths, parameters, fields,
statuses and refusals were held against airbytehq/airbyte-platform 310e6cb (2026-08-21): the OpenAPI documents
`server-api/…/config.yaml` and `problems-api/…/api-problems.yaml`, and where these say nothing (which refusal comes
when, which counts a job has while it runs) the server that implements them. `POST /_control` changes how it behaves
(see `syncing.Faults`; beside those `pause`, `rename`, `delete`, `break_schema`, `drop_stream`, `clearing`, `reject`,
`cancel`), `GET /_control` tells what was asked.
"""

from __future__ import annotations

import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from syncing import Handler, Mover, Stream, Sync, Tool, arguments, serve

CLIENT, SECRET = "client-1", "secret-of-client-1"
WORKSPACE = "9924bcd0-99be-453d-ba47-c2c9766f7da5"
CONNECTION = "744cc0ed-7f05-4949-9e60-2a814f90c035"
SOURCE, DESTINATION = "0c31738c-0b2d-4887-b506-e2cd1c39cc35", "18dccc91-0ab1-4f72-9ed7-0b8fc27c5826"
TOKEN_LIFE = 180
PROBLEMS = {
    400: ("resource-not-found", "The requested resource could not be found."),
    401: ("invalid-api-key", "The API key in the Authorization header is invalid."),
    403: ("forbidden", "The request is forbidden."),
    409: ("try-again-later", "Please try again later."),
}
OWN = {
    "_airbyte_raw_id": "varchar not null default gen_random_uuid()::varchar",
    "_airbyte_extracted_at": "timestamptz not null default now()",
    "_airbyte_meta": "jsonb not null default '{\"changes\": []}'",
    "_airbyte_generation_id": "bigint not null default 1",
}


def airbyte_type(type_: str) -> str:
    """What becomes of a PostgreSQL type on the way through Airbyte's types: widths and scales are lost."""
    plain = re.sub(r"\(.*?\)", "", type_)
    if plain in ("smallint", "integer", "bigint"):
        return "bigint"
    known = {
        "numeric": "numeric",
        "real": "numeric",
        "double precision": "numeric",
        "boolean": "boolean",
        "date": "date",
        "timestamp without time zone": "timestamp",
        "timestamp with time zone": "timestamptz",
    }
    return known.get(plain, "varchar")


def json_type(type_: str) -> dict[str, Any]:
    """The JSON schema of a column, as a source's discovery gives it."""
    made = airbyte_type(type_)
    if made == "bigint":
        return {"type": "number", "airbyte_type": "integer"}
    if made in ("numeric", "boolean"):
        return {"type": "number" if made == "numeric" else "boolean"}
    formats = {
        "date": {"format": "date"},
        "timestamp": {"format": "date-time", "airbyte_type": "timestamp_without_timezone"},
        "timestamptz": {"format": "date-time", "airbyte_type": "timestamp_with_timezone"},
    }
    return {"type": "string", **formats.get(made, {})}


class Airbyte(Tool):
    """One workspace with one connection."""

    def __init__(self, args: Any) -> None:
        super().__init__(args, Mover(args.source, args.destination, args.schema, airbyte_type, OWN))
        self.name, self.status, self.breaking, self.deleted = "old shop", "active", False, False
        self.left_out: set[str] = set()
        self.clearing, self.rejected = False, 0

    def control(self, wanted: dict[str, Any]) -> str:
        """Orders about the connection, then the faults."""
        self.status = "inactive" if wanted.pop("pause", self.status == "inactive") else "active"
        self.name = wanted.pop("rename", self.name)
        self.deleted = wanted.pop("delete", self.deleted)
        self.breaking = wanted.pop("break_schema", self.breaking)
        self.clearing = wanted.pop("clearing", self.clearing)
        self.rejected = wanted.pop("reject", self.rejected)
        if "drop_stream" in wanted:
            self.left_out = {name for name in [wanted.pop("drop_stream")] if name}
        for sync in self.syncs.values():
            if wanted.get("cancel") and not sync.ended:
                sync.cancelled.set()
        wanted.pop("cancel", None)
        return super().control(wanted)

    def streams(self) -> list[str]:
        """The streams that are selected."""
        return [stream.name for stream in self.mover.discover() if stream.name not in self.left_out]


class AirbyteHandler(Handler):
    """The endpoints."""

    tool: Airbyte

    def refused(self, status: int, message: str) -> Any:
        """A problem, as the public API words it; the configuration API has a message alone."""
        if not self.path.startswith("/api/public/"):
            return {"message": message, "exceptionClassName": "io.airbyte.commons.server.errors.KnownException",
                    "exceptionStack": [], "rootCauseExceptionStack": []}  # fmt: skip
        title, detail = PROBLEMS.get(status, ("unexpected-problem", "An unexpected problem has occurred."))
        return {"status": status, "type": f"https://reference.airbyte.com/reference/errors#{title}", "title": title,
                "detail": detail, "documentationUrl": None, "data": {"message": message}}  # fmt: skip

    def route(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer of one call."""
        tool = self.tool
        public = path.removeprefix("/api/public/v1") if path.startswith("/api/public/v1") else None
        config = path.removeprefix("/api/v1") if path.startswith("/api/v1") else None
        if public == "/applications/token":
            if (body.get("client_id"), body.get("client_secret")) != (CLIENT, SECRET):
                return 401, {"errorId": str(uuid.uuid4())}
            token = f"token-{len(tool.tokens) + 1}-{time.monotonic_ns()}"
            tool.tokens[token] = time.monotonic() + TOKEN_LIFE
            return 200, {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFE}
        if tool.faults.forget_tokens:
            tool.tokens, tool.faults.forget_tokens = {}, False
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if tool.tokens.get(given, 0.0) < time.monotonic():
            return self._no(401, "Unauthorized")
        match method, public or config:
            case "GET", str(one) if one.startswith("/workspaces/"):
                known = one == f"/workspaces/{WORKSPACE}"
                named = {
                    "workspaceId": WORKSPACE,
                    "name": "shop",
                    "dataResidency": "auto",
                    "notifications": {},
                }
                return (200, named) if known else self._no(403, "Forbidden: no such workspace for this user")
            case "GET", "/connections":
                data = [] if tool.deleted or query.get("workspaceIds") != WORKSPACE else [self._connection()]
                return 200, {"data": data[int(query.get("offset", 0)) :], "next": "", "previous": ""}
            case "POST", "/connections/get":
                if tool.deleted or body.get("connectionId") != CONNECTION:
                    return self._no(
                        404, f"Could not find configuration for STANDARD_SYNC: {body.get('connectionId')}."
                    )
                return 200, self._connection_read()
            case "POST", "/jobs":
                return self._start(body)
            case "GET", "/jobs":
                since = query.get("createdAtStart", "")
                jobs = [
                    self._job(s) for s in tool.syncs.values() if s.connection == query.get("connectionId")
                ]
                jobs = [job for job in jobs if job["startTime"] >= since]
                begin, size = int(query.get("offset", 0)), int(query.get("limit", 20))
                asked = f"jobType=&connectionId={CONNECTION}&limit={size}"
                more = (
                    f"https://api.airbyte.com/v1/jobs?{asked}&offset={begin + size}"
                    if jobs[begin + size :]
                    else ""
                )
                return 200, {"data": jobs[begin : begin + size], "next": more, "previous": ""}
            case _, str(one) if re.fullmatch(r"/jobs/\d+", one):
                return self._one_job(method, int(one.rpartition("/")[2]))
            case "POST", "/jobs/get" | "/jobs/get_without_logs":
                sync = tool.syncs.get(int(body["id"]))
                if sync is None:
                    return self._no(500, f"Could not find job with id: {body['id']}")
                return 200, self._job_info(sync, logs=path.endswith("/get"))
            case "POST", "/stream_statuses/list":
                sync = tool.syncs[int(body["jobId"])]
                return 200, {"streamStatuses": [
                    {"id": str(uuid.UUID(int=sync.id * 1000 + n)), "connectionId": CONNECTION, "jobId": sync.id,
                     "attemptNumber": 0, "jobType": "SYNC", "runState": s.state, "streamName": s.name,
                     "transitionedAt": 0, "workspaceId": WORKSPACE}
                    for n, s in enumerate(sync.streams)
                ]}  # fmt: skip
            case _:
                return self._no(404, f"no such resource: {method} {path}")

    def _no(self, status: int, message: str) -> tuple[int, Any]:
        return status, self.refused(status, message)

    def _connection(self) -> dict[str, Any]:
        return {"connectionId": CONNECTION, "name": self.tool.name, "sourceId": SOURCE, "destinationId": DESTINATION,
                "workspaceId": WORKSPACE, "status": self.tool.status, "schedule": {"scheduleType": "manual"},
                "configurations": {"streams": [{"name": n} for n in self.tool.streams()]}, "createdAt": 0, "tags": [],
                "prefix": ""}  # fmt: skip

    def _connection_read(self) -> dict[str, Any]:
        chosen = self.tool.streams()
        return {
            "connectionId": CONNECTION, "name": self.tool.name, "sourceId": SOURCE, "destinationId": DESTINATION,
            "status": self.tool.status, "breakingChange": self.tool.breaking, "prefix": "",
            "workspaceId": WORKSPACE, "scheduleType": "manual",
            "syncCatalog": {"streams": [
                {"stream": {"name": s.name, "jsonSchema": {"type": "object", "properties": {
                    column: json_type(type_) for column, type_ in s.columns}}},
                 "config": {"syncMode": "full_refresh", "destinationSyncMode": "overwrite",
                            "selected": s.name in chosen}}
                for s in self.tool.mover.discover()
            ]},
        }  # fmt: skip

    def _start(self, body: dict[str, Any]) -> tuple[int, Any]:
        tool = self.tool
        if tool.deleted or body.get("connectionId") != CONNECTION:
            return self._no(400, "STANDARD_SYNC")
        if tool.running(CONNECTION) or tool.clearing:
            return self._no(409, f"A sync is already running for: {CONNECTION}")
        if tool.status != "active":
            return self._no(409, "State conflict")
        return 200, self._job(tool.start(CONNECTION, tool.streams()))

    def _one_job(self, method: str, number: int) -> tuple[int, Any]:
        sync = self.tool.syncs.get(number)
        if sync is None:
            return self._no(409, "Job is not currently running")
        if method == "DELETE":
            now = self.tool.running(CONNECTION)  # whichever that is: only the connection matters to Airbyte
            if now is None:
                return self._no(409, "Job is not currently running")
            now.cancelled.set()
            now.status = "cancelled"
        return 200, self._job(sync)

    def _job(self, sync: Sync) -> dict[str, Any]:
        return {
            "jobId": sync.id, "status": sync.status, "jobType": "sync", "connectionId": CONNECTION,
            "startTime": _iso(sync.began), **({"lastUpdatedAt": _iso(sync.ended)} if sync.ended else {}),
            "duration": f"PT{int((sync.ended or time.time()) - sync.began)}S",
            "bytesSynced": sum(s.bytes for s in sync.streams), "rowsSynced": sum(s.rows for s in sync.streams),
        }  # fmt: skip

    def _job_info(self, sync: Sync, *, logs: bool) -> dict[str, Any]:
        attempt: dict[str, Any] = {
            "id": 0, "status": {"succeeded": "succeeded", "running": "running"}.get(sync.status, "failed"),
            "createdAt": int(sync.began), "updatedAt": int(time.time()),
        }  # fmt: skip
        if sync.ended:  # before that, an attempt has no counts
            attempt |= {
                "endedAt": int(sync.ended),
                "recordsSynced": sum(s.rows for s in sync.streams), "bytesSynced": sum(s.bytes for s in sync.streams),
                "streamStats": [
                    {"streamName": s.name, "stats": {"recordsEmitted": s.rows, "bytesEmitted": s.bytes,
                                                     "recordsCommitted": s.rows if s.state == "COMPLETE" else 0}}
                    for s in sync.streams
                ],
            }  # fmt: skip
        if sync.error:
            attempt["failureSummary"] = {
                "partialSuccess": any(s.state == "COMPLETE" for s in sync.streams),
                "failures": [{
                    "failureOrigin": "source", "failureType": "config_error", "externalMessage": sync.error,
                    "internalMessage": f"org.postgresql.util.PSQLException: ERROR: {sync.error}",
                    "retryable": False, "timestamp": int(sync.ended * 1000)}],
            }  # fmt: skip
        one: dict[str, Any] = {"attempt": attempt}
        if logs:
            one |= {"logType": "formatted", "logs": {"logLines": sync.log}}
        job: dict[str, Any] = {
            "id": sync.id, "configType": "sync", "configId": CONNECTION, "status": sync.status,
            "createdAt": int(sync.began), "updatedAt": int(time.time()), "startedAt": int(sync.began),
        }  # fmt: skip
        if not logs:
            streams = [{"streamName": s.name, **self._counts(s)} for s in sync.streams if s.rows]
            total = {name: sum(one[name] for one in streams) for name in self._counts(Stream("", []))}
            job |= {"aggregatedStats": total, "streamAggregatedStats": streams}
        return {"job": job, "attempts": [one]}

    def _counts(self, stream: Stream) -> dict[str, int]:
        whole = stream.state == "COMPLETE"
        rejected = min(self.tool.rejected, stream.rows)
        return {"recordsEmitted": stream.rows, "bytesEmitted": stream.bytes,
                "recordsCommitted": stream.rows - rejected if whole else 0, "recordsRejected": rejected,
                "bytesCommitted": stream.bytes if whole else 0}  # fmt: skip


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    given = arguments("An emulated Airbyte.", 8911, "airbyte").parse_args()
    serve(given, Airbyte(given), AirbyteHandler)
