"""A webserver of Dagster for one test: an instance of its own, a code location over the test's own migration."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dagster import DagsterInstance

from asking import Dagster, free_port, wait_for
from migrating import Migrating

TESTS = Path(__file__).parent
# Runs start at once, without a daemon that would take them from a queue.
INSTANCE = """telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
# The daemon as it is, but looking at backfills every second; by itself it rests for half a minute.
DAEMON = """
import dagster._daemon.controller as controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
from dagster._daemon.cli import main
main()
"""


class Served(Dagster):
    """The webserver at `url`, whose instance lies in `home`; `location` is the name of its code location."""

    location = "shop"

    def __init__(self, url: str, home: Path) -> None:
        """Args: its address and the folder of its instance."""
        self.url, self.home = url, home

    def is_up(self) -> bool:
        """Whether it answers and has loaded its code location; Dagster loads again what it could not reach in time."""
        try:
            said = self.graphql(
                """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError {
                     __typename ... on PythonError { message } } } } } }"""
            )
        except OSError:
            return False
        found = [
            each for each in said["workspaceOrError"]["locationEntries"] if each["loadStatus"] == "LOADED"
        ]
        for each in found:
            if each["locationOrLoadError"]["__typename"] == "PythonError":
                print(f"the code location was not loaded: {each['locationOrLoadError']['message']}")
        return [each["locationOrLoadError"]["__typename"] for each in found] == ["RepositoryLocation"]


@contextmanager
def serving(
    migrating: Migrating,
    home: Path,
    *,
    daemon: bool = False,
    instance: str = INSTANCE,
) -> Iterator[Served]:
    """Serve a migration until the block ends; runs are processes of their own.

    Args:
        migrating: what the code location works on, by its environment.
        home: a folder that is not there yet, for the instance and what the services print.
        daemon: whether there is one, for backfills, schedules, sensors and queues.
        instance: its dagster.yaml.
    """
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(instance)
    module = (
        f"{{module_name: {migrating.code}, location_name: {Served.location}, working_directory: {TESTS}}}"
    )
    (home / "workspace.yaml").write_text(f"load_from: [{{python_module: {module}}}]\n")
    # Its tables are made before anybody uses them: two processes that find none make them both, and each of
    # them writes down its schema's version, which no process opens any more.
    with DagsterInstance.from_config(str(home)):
        pass
    port = free_port()
    variables = {**os.environ, **migrating.environment, "DAGSTER_HOME": str(home)}
    workspace = ["-w", str(home / "workspace.yaml")]
    beside = Path(sys.executable).with_name
    commands = [[str(beside("dagster-webserver")), *workspace, "-h", "127.0.0.1", "-p", str(port)]]
    commands += [[sys.executable, "-c", DAEMON, "run", *workspace]] if daemon else []
    with ExitStack() as processes:
        for words in commands:
            log = processes.enter_context((home / f"{Path(words[0]).name}.log").open("w"))
            process = subprocess.Popen(words, env=variables, stdout=log, stderr=subprocess.STDOUT, cwd=home)
            processes.callback(process.wait, 30)
            processes.callback(process.terminate)
        served = Served(f"http://127.0.0.1:{port}", home)
        try:
            wait_for("the webserver has loaded the shop", served.is_up, 120)
            yield served
        except BaseException:
            for log in sorted(home.glob("*.log")):
                print(f"{log.name} ends with:\n{log.read_text()[-8000:]}")
            raise
