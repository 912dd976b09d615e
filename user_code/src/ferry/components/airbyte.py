"""Airbyte, self-managed or cloud, through the client of dagster-airbyte, with calls that say what went wrong.

What the library's own `sync_and_poll` would do differently, and why it is not used, stands in
docs/adr/sync-tools-are-followed.md.
"""

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import dagster as dg
from dagster_airbyte.resources import AirbyteClient
from dagster_airbyte.translator import AirbyteConnection
from pydantic import PrivateAttr

from ferry.components.following import CANCELLED, FAILED, RUNNING, SUCCEEDED, Connection, Counts, Sync
from ferry.declaration import nearest
from ferry.errors import DeclarationError, PermanentError, TransientError
from ferry.sources.auth import basic, client_credentials
from ferry.sources.calls import Auth, Caller, Patience, Refused

CLOUD = "api.airbyte.com"
STATES = {"succeeded": SUCCEEDED, "failed": FAILED, "error": FAILED, "cancelled": CANCELLED}
# Where its problems, and the configuration API's exceptions, say what is wrong.
WORDS = ("data.message", "detail", "message")
# How long ago a sync may have begun that is still looked for.
LONGEST = timedelta(days=14)


class _Client(AirbyteClient):
    """The library's client; its requests are sent by ours, which keeps what the server said."""

    _callers: list[Caller] = PrivateAttr(default_factory=list)

    def _single_request(
        self,
        method: str,
        url: str,
        data: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        include_additional_request_headers: bool = True,  # noqa: ARG002 - the caller signs each request
    ) -> Mapping[str, Any]:
        caller = next(one for one in self._callers if url.startswith(one.base))
        return caller.call(method, url, json=data, params=dict(params) if params else None).json()


class Airbyte:
    """One workspace, named by `airbyte://client:secret@host/workspace` (`airbyte+http://` without TLS).

    With `?auth=basic` client and secret are user and password. On the host `api.airbyte.com` it is Airbyte Cloud.
    """

    label = "Airbyte"

    def __init__(self, url: str, patience: float) -> None:
        """Args: the account's URL, and how many seconds an outage is waited out; no call is made."""
        parts = urlsplit(url)
        self.workspace = parts.path.strip("/")
        if parts.scheme not in ("airbyte", "airbyte+http") or not (parts.hostname and self.workspace):
            raise DeclarationError(
                "this is no URL of an Airbyte workspace",
                where="settings",
                next="Write airbyte://client-id:client-secret@host/workspace-id",
            )
        port = f":{parts.port}" if parts.port else ""
        origin = f"{'http' if parts.scheme.endswith('+http') else 'https'}://{parts.hostname}{port}"
        cloud = parts.hostname == CLOUD
        rest = f"{origin}/v1" if cloud else f"{origin}/api/public/v1"
        config = "https://cloud.airbyte.com/api/v1" if cloud else f"{origin}/api/v1"
        self.pages = f"{'https://cloud.airbyte.com' if cloud else origin}/workspaces/{self.workspace}"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        auth: Auth | None = None
        if user:
            by_password = parse_qs(parts.query).get("auth") == ["basic"]
            auth = (
                basic(user, password)
                if by_password
                else client_credentials(
                    f"{rest}/applications/token", user, password, who="Airbyte's token server"
                )
            )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", dg.BetaWarning
            )  # the lock pins the version that the tests have seen
            self.client = _Client(
                rest_api_base_url=rest,
                configuration_api_base_url=config,
                workspace_id=self.workspace,
                request_max_retries=0,
                request_retry_delay=0,
                request_timeout=60,
            )
        waiting = Patience(attempts=1000, seconds=patience, first_wait=0.2, longest_wait=20)
        self.client._callers = [
            Caller(base, auth=auth, patience=waiting, who=self.label, words=WORDS) for base in (rest, config)
        ]

    def connection(self, named: str, remembered: str | None) -> Connection:
        """The connection of that name or id, with its selected streams."""
        try:
            self.client.validate_workspace_id()
        except Refused as error:
            raise PermanentError(
                f"Airbyte does not know the workspace {self.workspace!r}, or not for this client",
                where=error.where,
                why=error.why,
                next="Compare the workspace's id with the address of its page in Airbyte",
            ) from None
        found = {one["connectionId"]: one["name"] for one in self.client.get_connections()}
        ids = [key for key, name in found.items() if named in (key, name)]
        if len(ids) > 1:
            raise DeclarationError(
                f"Airbyte has {len(ids)} connections with the name {named!r}",
                where=f"workspace {self.workspace}",
                next=f"Declare the id of one: {', '.join(ids)}",
            )
        chosen = ids[0] if ids else remembered if remembered in found else None
        if chosen is None:
            raise DeclarationError(
                f"Airbyte has no connection {named!r}",
                where=f"workspace {self.workspace}",
                why="it was there before, and was deleted" if remembered else "",
                next=nearest(named, found.values(), "Its connections are"),
            )
        details = self.client.get_connection_details(chosen)
        one = AirbyteConnection.from_connection_details(details)
        prefix = one.stream_prefix or ""
        tables = {
            stream.name: (prefix + stream.name, _columns(stream.json_schema))
            for stream in one.streams.values()
            if stream.selected
        }
        return Connection(
            one.id,
            one.name,
            f"{self.pages}/connections/{one.id}",
            tables,
            _obstacle(details),
            str(details.get("scheduleType", "")),
        )

    def running(self, connection: str) -> Sync | None:
        """The newest sync that has not ended."""
        jobs = self.client.get_jobs_for_connection(connection, created_after=datetime.now(UTC) - LONGEST)
        active = [job.id for job in jobs if job.status not in STATES and job.type in ("sync", "refresh")]
        return self.look(connection, str(max(active))) if active else None

    def start(self, connection: str) -> Sync:
        """Start a sync, or take the one that Airbyte says is running."""
        try:
            job = self.client.start_sync_job(connection)["jobId"]
        except Refused as error:
            if error.status != 409:
                raise
            if (found := self.running(connection)) is not None:
                return found
            # Its streams are being cleared, or its workers were too busy to begin: both pass.
            raise TransientError(
                "Airbyte starts no sync of this connection now",
                where=error.where,
                why=error.why,
                next="Wait until the job on the connection's page has ended, then re-execute",
            ) from None
        return Sync(str(job), RUNNING, url=self._page(connection))

    def look(self, connection: str, handle: str) -> Sync | None:
        """How a job stands, over all its attempts; its log only if it failed.

        Airbyte adds up what its attempts did beside them: an attempt itself has no counts before it has ended.
        """
        told = self._config("/jobs/get_without_logs", {"id": int(handle)})
        if told is None:
            return None
        state = STATES.get(told["job"]["status"], RUNNING)
        attempts = [one["attempt"] for one in told["attempts"]]
        whole = self._whole(int(handle)) if state == FAILED else None
        streams: dict[str, Counts] = {}
        rejected: dict[str, int] = {}
        for stats in told["job"].get("streamAggregatedStats") or []:
            name = stats["streamName"]
            before = streams.get(name, Counts(0, 0))
            streams[name] = Counts(
                (before.rows or 0) + int(stats.get("recordsCommitted") or stats.get("recordsEmitted") or 0),
                (before.bytes or 0) + int(stats.get("bytesCommitted") or stats.get("bytesEmitted") or 0),
                state == SUCCEEDED if whole is None else name in whole,
            )
            rejected[name] = rejected.get(name, 0) + int(stats.get("recordsRejected") or 0)
        failures = [f for a in attempts[-1:] for f in (a.get("failureSummary") or {}).get("failures", [])]
        words = [f.get("externalMessage") or f.get("internalMessage") or "" for f in failures]
        return Sync(
            handle,
            state,
            version=f"airbyte-{handle}" if state == SUCCEEDED else "",
            rows=sum(one.rows or 0 for one in streams.values()),
            bytes=sum(one.bytes or 0 for one in streams.values()),
            streams=streams,
            warnings=tuple(
                f"{count:,} rows of {name} were refused by the destination"
                for name, count in rejected.items()
                if count
            ),
            error="; ".join(filter(None, words)),
            passing=bool(failures) and all(f.get("failureType") == "transient_error" for f in failures),
            log=self._log(int(handle)) if state == FAILED else (),
            url=self._page(connection),
        )

    def cancel(self, connection: str, handle: str) -> None:
        """Cancel a job; one that has ended meanwhile is left alone."""
        # Airbyte cancels what the connection is doing now, and asks for the job's number only to find the connection.
        now = self.look(connection, handle)
        if now is None or now.state != RUNNING:
            return
        try:
            self.client.cancel_job(int(handle))
        except Refused as error:
            if error.status not in (404, 409):
                raise

    def _page(self, connection: str) -> str:
        return f"{self.pages}/connections/{connection}/timeline"

    def _config(self, path: str, body: dict[str, Any]) -> Mapping[str, Any] | None:
        try:
            return self.client._single_request(
                "POST", f"{self.client.configuration_api_base_url}{path}", data=body
            )
        except Refused as error:
            if error.status == 404:
                return None
            raise
        except TransientError as error:
            if "Could not find job with id" in error.why:  # which Airbyte calls a fault of its own
                return None
            raise

    def _whole(self, job: int) -> set[str]:
        """The streams of a job that came to their end."""
        asked = {
            "workspaceId": self.workspace,
            "jobId": job,
            "pagination": {"pageSize": 1000, "rowOffset": 0},
        }
        told = self._config("/stream_statuses/list", asked) or {}
        return {one["streamName"] for one in told.get("streamStatuses", []) if one["runState"] == "COMPLETE"}

    def _log(self, job: int) -> tuple[str, ...]:
        """The log of a job's last attempt; none if Airbyte cannot give it (it may be too large)."""
        try:
            told = self._config("/jobs/get", {"id": job}) or {}
        except (PermanentError, TransientError):
            return ()
        logs = [one.get("logs") or {} for one in told.get("attempts", [])][-1:]
        lines = [line for log in logs for line in log.get("logLines") or []]
        return tuple(lines + [event["message"] for log in logs for event in log.get("events") or []])


def _columns(schema: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: str(told.get("airbyte_type") or told.get("format") or told.get("type", "unknown"))
        for name, told in (schema.get("properties") or {}).items()
    }


def _obstacle(details: Mapping[str, Any]) -> tuple[str, str]:
    if details.get("breakingChange"):
        return (
            "Airbyte holds the connection back: its source's schema has changed in a way that breaks it",
            "Review the change on the connection's page, accept it there, and compare the entity's contract with it",
        )
    status, why = details.get("status"), details.get("statusReason")
    if status != "active":
        return (
            f"the connection is {'paused' if status == 'inactive' else status} in Airbyte (status {status}"
            f"{f': {why}' if why else ''})",
            "Enable it there, then re-execute",
        )
    return ("", "")
