"""The real stack, started for the tests under a project name and a port of its own, and what tests ask of it."""

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from asking import Dagster, free_port, wait_for

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "stack"
"""Logs of a failed session and screenshots of the browser."""

__all__ = ["OUT", "ROOT", "Stack", "command", "wait_for"]


def command(*words: str, check: bool = True, timeout: float = 900, stdin: str | None = None) -> str:
    """Standard output of a command; with `check`, a failure raises with all that it said."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT, input=stdin
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Stack(Dagster):
    """One project of Docker Compose: the demo profile, and a second code location, by default one with faults."""

    overlay, second = "tests/stack/compose.yaml", "faults"

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
        files = ("-f", "docker-compose.yml", "-f", self.overlay)
        flags = ("--project-directory", str(ROOT), "--env-file", str(self.env_file), "--profile", "demo")
        return command("docker", "compose", *flags, *files, *words, check=check, timeout=timeout)

    def start(self) -> None:
        """Build the images and start all services; returns when all are healthy."""
        self.compose("build", "--quiet", "user-code", "migrate", "postgres", "docker-proxy", "demo-fill")
        self.compose("build", "--quiet", self.second)
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
