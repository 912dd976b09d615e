"""The real stack, started for the tests under a project name and a port of its own, and what tests ask of it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "stack"
"""Logs of a failed session and screenshots of the browser."""

FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}
Answer = TypeVar("Answer")


def command(*words: str, check: bool = True, timeout: float = 900, stdin: str | None = None) -> str:
    """Standard output of a command; with `check`, a failure raises with all that it said."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT, input=stdin
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def wait_for(what: str, probe: Callable[[], Answer | None], seconds: float, pause: float = 0.5) -> Answer:
    """The first true answer of `probe`, which is asked again until then; past `seconds` the test fails."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; last answer: {answer!r}")
        time.sleep(pause)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stack:
    """One project of Docker Compose: the demo profile, and a second code location with faults."""

    def __init__(self, project: str, tag: str, folder: str) -> None:
        """`folder` holds the settings, a random password among them, until the stack is stopped."""
        self.project = project
        self.tag = tag
        self._files = Path(folder)
        self.env_file = self._files / "env"
        kept = (
            dict(line.split("=", 1) for line in self.env_file.read_text().splitlines())
            if self.env_file.exists()
            else {}
        )
        port = kept.get("FERRY_PORT") or str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "FERRY_PROJECT": project,
            "FERRY_PORT": port,
            "FERRY_TAG": tag,
            "DAGSTER_POSTGRES_PASSWORD": kept.get("DAGSTER_POSTGRES_PASSWORD") or secrets.token_hex(16),
            "FERRY_RUN_MEMORY_MAX": "2Gi",
        }
        for name in (
            "FERRY_BUILD_NETWORK",
            "FERRY_BUILD_CA",
            "FERRY_BUILD_APT_SOURCES",
            "FERRY_BUILD_UV_CONFIG",
        ):
            if os.environ.get(name):
                settings[name] = os.environ[name]
        self._files.mkdir(mode=0o700, exist_ok=True)
        self.password = settings["DAGSTER_POSTGRES_PASSWORD"]
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def compose(self, *words: str, check: bool = True, timeout: float = 900) -> str:
        """`docker compose …` for this project, both profiles' services included."""
        files = ("-f", "docker-compose.yml", "-f", "tests/stack/compose.yaml")
        flags = ("--project-directory", str(ROOT), "--env-file", str(self.env_file), "--profile", "demo")
        return command("docker", "compose", *flags, *files, *words, check=check, timeout=timeout)

    def start(self) -> None:
        """Build the images and start all services; returns when all are healthy."""
        self.compose("build", "--quiet", "user-code", "migrate", "postgres", "docker-proxy", "demo-fill")
        self.compose("build", "--quiet", "faults")
        self.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "300")

    def stop(self) -> None:
        """Remove everything that belongs to the project: run containers, services, networks, volumes."""
        for container in self.run_containers():
            command("docker", "rm", "-f", container, check=False)
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)
        shutil.rmtree(self._files)

    def left(self) -> list[str]:
        """What is still there of the project: containers of services and runs, networks, volumes."""
        label = f"label=com.docker.compose.project={self.project}"
        listed = [("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q")]
        return [
            *self.run_containers(),
            *(n for ask in listed for n in command("docker", *ask, "--filter", label).split()),
        ]

    def dump_logs(self) -> Path:
        """Write what every container of the project said, and its state, to files; returns their folder."""
        folder = OUT / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "services.txt").write_text(self.compose("ps", "-a", check=False))
        (folder / "services.log").write_text(self.compose("logs", "--timestamps", check=False))
        for container in self.run_containers():
            said = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=False)
            state = command("docker", "inspect", "-f", "{{json .State}}", container, check=False)
            (folder / f"run-{container[:12]}.log").write_text(state + said.stdout + said.stderr)
        return folder

    # What Docker knows.

    def run_containers(self) -> list[str]:
        """Ids of the containers of runs, ended ones included."""
        return command(
            "docker", "ps", "-aq", "--no-trunc", "--filter", f"label=ferry/project={self.project}"
        ).split()

    def container_of_run(self, run_id: str) -> dict[str, Any]:
        """What `docker inspect` says of a run's container."""
        found = command("docker", "ps", "-aq", "--filter", f"label=dagster/run_id={run_id}").split()
        assert len(found) == 1, f"run {run_id} has {len(found)} containers"
        return json.loads(command("docker", "inspect", found[0]))[0]

    def service(self, name: str) -> dict[str, Any]:
        """What `docker inspect` says of a service's container."""
        return json.loads(command("docker", "inspect", f"{self.project}-{name}-1"))[0]

    def psql(self, service: str, database: str, query: str) -> list[str]:
        """Lines of the answer of a query to `postgres` or `demo-db`, columns separated by `|`."""
        user, password = ("ferry", self.password) if service == "postgres" else ("postgres", "demo")
        said = command(
            *("docker", "exec", "-e", f"PGPASSWORD={password}", f"{self.project}-{service}-1"),
            *("psql", "-h", "127.0.0.1", "-U", user, "-d", database, "-XAtc", query),
        )
        return said.splitlines()

    # What Dagster knows.

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer; errors of the query fail the test."""
        request = urllib.request.Request(  # noqa: S310 - the stack's own address
            f"{self.url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                said = json.load(answer)
        except urllib.error.HTTPError as refusal:
            raise AssertionError(refusal.read().decode()) from None
        assert "errors" not in said, said["errors"]
        return said["data"]

    def launch(
        self,
        *assets: str | Sequence[str],
        location: str = "faults",
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Launch one run that materializes the assets; returns its id."""
        paths = [{"path": [name] if isinstance(name, str) else list(name)} for name in assets]
        said = self.graphql(
            """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } }
                 ... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } } } }""",
            params={
                "selector": {
                    "repositoryLocationName": location,
                    "repositoryName": "__repository__",
                    "jobName": "__ASSET_JOB",
                    "assetSelection": paths,
                },
                "runConfigData": dict(config or {}),
                "executionMetadata": {
                    "tags": [{"key": key, "value": text} for key, text in (tags or {}).items()]
                },
            },
        )["launchRun"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return said["run"]["runId"]

    def launch_job(self, job: str, location: str) -> str:
        """Launch one run of a job without assets; returns its id."""
        said = self.graphql(
            """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={
                "selector": {
                    "repositoryLocationName": location,
                    "repositoryName": "__repository__",
                    "jobName": job,
                },
            },
        )["launchRun"]
        assert said["__typename"] == "LaunchRunSuccess", said
        return said["run"]["runId"]

    def backfill(self, *assets: str) -> str:
        """Launch a backfill of the assets over all their partitions; returns its id."""
        said = self.graphql(
            """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            params={"assetSelection": [{"path": [name]} for name in assets], "allPartitions": True},
        )["launchPartitionBackfill"]
        assert said["__typename"] == "LaunchBackfillSuccess", said
        return said["backfillId"]

    def runs_with_tag(self, key: str, value: str) -> list[str]:
        """Ids of the runs that carry a tag, the newest first."""
        said = self.graphql(
            """query($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results { runId } } } }""",
            filter={"tags": [{"key": key, "value": value}]},
        )
        return [each["runId"] for each in said["runsOrError"]["results"]]

    def start_sensor(self, name: str) -> None:
        """Switch a sensor of the shop on."""
        said = self.graphql(
            "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
            s={"repositoryLocationName": "ferry", "repositoryName": "__repository__", "sensorName": name},
        )
        assert said["startSensor"]["__typename"] == "Sensor", said

    def stop_sensor(self, name: str) -> None:
        """Switch a sensor of the shop off."""
        self.graphql(
            "mutation($id: String!) { stopSensor(id: $id) { __typename } }",
            id=self._instigator("sensor", name),
        )

    def start_schedule(self, name: str, since: float) -> None:
        """Switch a schedule of the shop on, and let Dagster's storage say that it was since `since` (seconds)."""
        said = self.graphql(
            "mutation($s: ScheduleSelector!) { startSchedule(scheduleSelector: $s) { __typename } }",
            s={"repositoryLocationName": "ferry", "repositoryName": "__repository__", "scheduleName": name},
        )
        assert said["startSchedule"]["__typename"] == "ScheduleStateResult", said
        changed = self.psql(
            *("postgres", "dagster"),
            "UPDATE instigators SET instigator_body = jsonb_set(instigator_body::jsonb,"
            f" '{{job_specific_data,start_timestamp}}', '{since}')::text"
            f" WHERE instigator_body LIKE '%\"{name}\"%' RETURNING 1",
        )
        assert changed[:1] == ["1"], changed

    def stop_schedule(self, name: str) -> None:
        """Switch a schedule of the shop off."""
        self.graphql(
            "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }",
            id=self._instigator("schedule", name),
        )

    def _instigator(self, kind: str, name: str) -> str:
        said = self.graphql(
            f"query($s: {kind.capitalize()}Selector!) {{ {kind}OrError({kind}Selector: $s) {{"
            f" ... on {kind.capitalize()} {{ id }} }} }}",
            s={"repositoryLocationName": "ferry", "repositoryName": "__repository__", f"{kind}Name": name},
        )
        return said[f"{kind}OrError"]["id"]

    def run(self, run_id: str) -> dict[str, Any]:
        """Status, tags and times of a run."""
        said = self.graphql(
            """query($id: ID!) { runOrError(runId: $id) { ... on Run {
                 runId status startTime endTime updateTime parentRunId tags { key value } } } }""",
            id=run_id,
        )["runOrError"]
        said["tags"] = {tag["key"]: tag["value"] for tag in said["tags"]}
        return said

    def finished(self, run_id: str, seconds: float = 120) -> dict[str, Any]:
        """The run, when it has ended one way or another."""

        def ended() -> dict[str, Any] | None:
            found = self.run(run_id)
            return found if found["status"] in FINISHED else None

        return wait_for(f"run {run_id} ends", ended, seconds)

    def succeeded(self, run_id: str, seconds: float = 120) -> dict[str, Any]:
        """The run, when it has succeeded; any other end fails the test with the run's messages."""
        found = self.finished(run_id, seconds)
        assert found["status"] == "SUCCESS", "\n".join(self.messages(run_id)[-15:])
        return found

    def reaches(self, run_id: str, status: str, seconds: float = 60) -> None:
        """Wait until the run has this status."""
        wait_for(f"run {run_id} is {status}", lambda: self.run(run_id)["status"] == status, seconds)

    def messages(self, run_id: str) -> list[str]:
        """What the run's event log says, one entry an event, errors included."""
        said = self.graphql(
            """query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
                 ... on MessageEvent { message }
                 ... on EngineEvent { error { message causes: errorChain { error { message } } } }
                 ... on RunFailureEvent { error { message causes: errorChain { error { message } } } }
                 ... on ExecutionStepFailureEvent { error { message causes: errorChain { error { message } } } }
               } } } }""",
            id=run_id,
        )["logsForRun"]["events"]
        found = []
        for event in said:
            error = event.get("error") or {}
            causes = [each["error"]["message"] for each in error.get("causes", [])]
            found.append("\n".join(filter(None, [event.get("message"), error.get("message"), *causes])))
        return found

    def retry_of(self, run_id: str, seconds: float = 60) -> str:
        """The id of the run that Dagster started as an automatic retry of this one."""
        return wait_for(
            f"run {run_id} is retried",
            lambda: self.run(run_id)["tags"].get("dagster/auto_retry_run_id"),
            seconds,
        )
