"""A run launcher that gives every run a container with the memory its entities declare."""

import os
from collections.abc import Mapping
from typing import Any, Self

import docker
import docker.errors
import requests
from dagster import Array, DagsterRun, Field, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext

from ferry_launcher.memory import (
    MEMORY_TAG,
    OUT_OF_MEMORY_TAG,
    Limit,
    format_size,
    limit_of_run,
    parse_size,
)

DAGSTER = ["dagster"]
STARTED = ["python", "-c", "import gc; gc.disable(); import ferry_storage; from dagster._cli import main; "
           "gc.freeze(); gc.enable(); main()"]  # fmt: skip
"""A run's container begins with these words in place of `dagster`: the same program, which looks for no garbage while
it imports Dagster and the storage (0.8 s of CPU instead of 1.5). They ask nothing of an image that it has not had for
long: a run that waited in the queue while the platform was updated gets the image of its day."""

PROJECT_LABEL = "ferry/project"
"""On every run container: the Compose project that it belongs to, so that `make down` finds it."""


class LaunchError(Exception):
    """A run's container could not be made or started; the message says what to do."""


class FerryRunLauncher(DockerRunLauncher):
    """`DockerRunLauncher` with a memory limit per run, and a plain word when a run is killed for it.

    Configuration beyond that of `DockerRunLauncher`: `memory` and `memory_max` (sizes), `volumes`
    (`name:/path`, environment variables allowed), `env_prefix` (variables of this process whose names begin
    so go into every run), `project` (the value of the label `ferry/project`).
    """

    def __init__(
        self,
        memory: str,
        memory_max: str,
        volumes: list[str],
        env_prefix: str,
        project: str,
        **docker_config: Any,
    ) -> None:
        super().__init__(**docker_config)
        self._default = parse_size(memory, "FERRY_RUN_MEMORY")
        self._maximum = parse_size(memory_max, "FERRY_RUN_MEMORY_MAX")
        self._volumes = volumes
        self._env_prefix = env_prefix
        self._project = project

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """The launcher's schema in dagster.yaml."""
        return {
            **super().config_type(),
            "memory": Field(StringSource, description="Limit of a run whose entities declare none."),
            "memory_max": Field(StringSource, description="No run gets more, whatever it asks for."),
            "volumes": Field(Array(StringSource), is_required=False, default_value=[]),
            "env_prefix": Field(StringSource, is_required=False, default_value="FERRY_"),
            "project": Field(StringSource),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Called by Dagster with the launcher's part of dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    def get_container_context(self, dagster_run: DagsterRun) -> DockerContainerContext:
        """What dagster.yaml and the code location ask for, plus this run's limit, volumes and variables."""
        context = super().get_container_context(dagster_run)
        limit = self.limit_of(dagster_run)
        kwargs = dict(context.container_kwargs)
        kwargs["mem_limit"] = limit.size
        kwargs["memswap_limit"] = limit.size  # the same number: no swap, so the limit means what it says
        kwargs["volumes"] = [*kwargs.get("volumes", []), *self._volumes]
        # A dictionary of its own: the base class writes each run's labels into the one that it is given.
        kwargs["labels"] = {**kwargs.get("labels", {}), PROJECT_LABEL: self._project}
        forwarded = sorted(name for name in os.environ if name.startswith(self._env_prefix))
        return context._replace(container_kwargs=kwargs, env_vars=[*context.env_vars, *forwarded])

    def limit_of(self, run: DagsterRun) -> Limit:
        """The memory of `run`. Op tags do not reach a run's tags; they stand in its execution plan snapshot."""
        declared = []
        if run.execution_plan_snapshot_id:
            plan = self._instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
            chosen = set(plan.step_keys_to_execute)
            declared = [
                step.tags[MEMORY_TAG]
                for step in plan.steps
                if step.key in chosen and MEMORY_TAG in (step.tags or {})
            ]
        return limit_of_run(dict(run.tags), declared, self._default, self._maximum)

    def _launch_container_with_command(self, run: DagsterRun, docker_image: str, command: Any) -> None:
        limit = self.limit_of(run)
        self._instance.report_engine_event(
            f"Memory limit {format_size(limit.size)}: {limit.why}.", run, cls=self.__class__
        )
        if command[:1] == DAGSTER:
            command = [*STARTED, *command[1:]]
        try:
            super()._launch_container_with_command(run, docker_image, command)
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise LaunchError(_advice(error, docker_image)) from error

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """As in the base class, but a container killed for memory says so, and its one retry is prepared.

        Dagster asks here before it marks a run as failed, so the tags set here are those that its retry
        daemon goes by.
        """
        container = self._get_container(run)
        if container is None or container.status == "running":
            return super().check_run_worker_health(run)
        state = container.attrs.get("State", {})
        if not state.get("OOMKilled"):
            return CheckRunHealthResult(WorkerStatus.FAILED, msg=_ending(container.status, state))
        killed_at = int(container.attrs["HostConfig"]["Memory"])
        return CheckRunHealthResult(WorkerStatus.FAILED, msg=self._out_of_memory(run, killed_at))

    def _out_of_memory(self, run: DagsterRun, killed_at: int) -> str:
        """Allows one retry with more, or none at the ceiling or when this was the retry; returns the message."""
        advice = "Raise resources.memory of the entity, or the run's tag ferry/memory"
        retries = 0
        if run.tags.get(MAX_RETRIES_TAG) == "0":
            next_step = f"Not retried: the run's tag {MAX_RETRIES_TAG} forbids it. {advice}."
        elif killed_at >= self._maximum:
            next_step = f"Not retried: that is the ceiling. {advice}, and FERRY_RUN_MEMORY_MAX."
        elif OUT_OF_MEMORY_TAG in run.tags:
            next_step = f"Not retried: this was the retry with more memory. {advice}."
        else:
            # Dagster retries while the run and its re-executions are no more than this number.
            group = self._instance.get_run_group(run.run_id)
            retries = len(list(group[1])) if group else 1
            more = format_size(min(2 * killed_at, self._maximum))
            next_step = f"Retried once, with {more}. {advice}, to spare the first try."
        self._instance.add_run_tags(
            run.run_id, {OUT_OF_MEMORY_TAG: str(killed_at), MAX_RETRIES_TAG: str(retries)}
        )
        return f"out of memory, limit {format_size(killed_at)}. {next_step}"


def _ending(status: str, state: Mapping[str, Any]) -> str:
    """One line for a container that ended while its run was in progress, and not for memory."""
    code = state.get("ExitCode")
    if code == 137:
        return (
            "the run's container was killed from outside (SIGKILL), not for memory. It is retried as a crash."
        )
    reason = f" Docker says: {state['Error']}." if state.get("Error") else ""
    return f"the run's container is {status} with exit code {code} while the run is in progress.{reason}"


def _advice(error: BaseException, image: str) -> str:
    """One message for what Docker or the docker-proxy answered."""
    # The base class tries to pull a missing image, which the docker-proxy refuses: the first error is the reason.
    first = error
    while first.__context__ is not None and not isinstance(first, docker.errors.ImageNotFound):
        first = first.__context__
    if isinstance(first, docker.errors.ImageNotFound):
        return f"image {image} is missing on the Docker host. Build it again with `make up`, or relaunch the run."
    if isinstance(error, docker.errors.APIError) and error.status_code == 403:
        return (
            f"the docker-proxy refused to make the run's container: {error.explanation or error}. "
            "Its rules are in deploy/docker-proxy/; look at container_kwargs of the code location and the launcher."
        )
    if isinstance(error, docker.errors.APIError):
        return f"Docker could not start the run's container: {error.explanation or error}"
    host = os.environ.get("DOCKER_HOST", "the local socket")
    return (
        f"no answer from Docker at {host}. Look at `docker compose ps docker-proxy` and its logs. ({error})"
    )
