"""Removes containers of runs that are over, and stops those that go on although their run is over.

    python -m ferry_launcher.janitor          looks every ten seconds, for ever
    python -m ferry_launcher.janitor once     looks once

Nothing else removes them, and until then they are the evidence: `docker logs`, and whether memory ran out. The
janitor goes by Dagster's list of runs, as the docker-proxy lists no containers; what it may ask there is to inspect
and stop a container by its full id, and to prune stopped containers that carry this project's label and one run's.
See docs/adr/run-containers-are-pruned-by-label.md.
"""

import datetime
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors
import requests
from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG

from ferry_launcher.launcher import PROJECT_LABEL

RUN_LABEL = "dagster/run_id"
PATIENCE = datetime.timedelta(seconds=20)
"""How long a container may go on after its run is over: it may be about to notice. The slots that its run held in
pools are given to others a minute after that (deploy/dagster.yaml), so it has to be gone by then."""
LOST = datetime.timedelta(days=30)
"""After so long a stopped container goes although Dagster does not know its run: somebody deleted it."""
EVERY_SECONDS = 10
AT_ONCE = 100
HEARTBEAT = Path("/tmp/janitor")  # noqa: S108 - of a container of its own

log = logging.getLogger("janitor")


class Janitor:
    """One look at what is over, as often as it is called; how far it came is kept in Dagster's database."""

    def __init__(
        self, instance: DagsterInstance, client: docker.DockerClient, project: str, keep: datetime.timedelta
    ) -> None:
        """Args: where runs are known, the way to Docker, whose containers, how long they stay after their run."""
        self._instance, self._docker, self._project, self._keep = instance, client, project, keep

    def look(self) -> None:
        """Stop and remove what is due; an error of Docker or of the database is raised, and the next look goes on."""
        self._sweep("ferry-janitor-stopped", min(PATIENCE, self._keep), self._stop)
        self._sweep("ferry-janitor-removed", self._keep, self._remove)
        self._prune({"label": [f"{PROJECT_LABEL}={self._project}"], "until": [f"{LOST.days * 24}h"]})

    def _sweep(self, name: str, age: datetime.timedelta, act: Callable[[DagsterRun], None]) -> None:
        """Act once on each run that has been over for so long."""
        cursors = self._instance.daemon_cursor_storage
        until = datetime.datetime.now(datetime.UTC) - age
        while True:
            seen = cursors.get_cursor_values({name}).get(name)
            after = datetime.datetime.fromisoformat(seen) if seen else None
            records = self._instance.get_run_records(
                RunsFilter(statuses=FINISHED_STATUSES, updated_after=after, updated_before=until),
                limit=AT_ONCE,
                order_by="update_timestamp",
                ascending=True,
            )
            if not records:
                return
            for record in records:
                act(record.dagster_run)
            cursors.set_cursor_values({name: records[-1].update_timestamp.isoformat()})

    def _stop(self, run: DagsterRun) -> None:
        """Stop the run's container if it still runs."""
        container_id = run.tags.get(DOCKER_CONTAINER_ID_TAG)
        if not container_id:
            return
        try:
            container = self._docker.containers.get(container_id)
            if container.status == "running":
                log.warning(
                    "run %s is over (%s), its container is not: stopped", run.run_id, run.status.value
                )
                container.stop(timeout=20)
        except docker.errors.NotFound:
            return

    def _remove(self, run: DagsterRun) -> None:
        self._stop(run)
        self._prune({"label": [f"{PROJECT_LABEL}={self._project}", f"{RUN_LABEL}={run.run_id}"]})

    def _prune(self, filters: dict[str, list[str]]) -> None:
        for container_id in self._docker.containers.prune(filters=filters)["ContainersDeleted"] or ():
            log.info("removed container %s: %s", container_id[:12], ", ".join(filters["label"]))


def main() -> None:
    """Look, once or for ever. Without Docker it tries again; without the database it ends and is started anew."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    keep = datetime.timedelta(hours=float(os.environ["FERRY_RUN_KEEP_HOURS"]))
    instance = DagsterInstance.get()
    janitor = Janitor(instance, docker.from_env(timeout=90), os.environ["FERRY_PROJECT"], keep)
    if sys.argv[1:] == ["once"]:
        janitor.look()
        return
    while True:
        try:
            janitor.look()
            HEARTBEAT.touch()
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            log.warning("Docker does not answer as it should, tries again: %s", error)
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
