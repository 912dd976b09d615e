"""A code location of a test's own with a sync tool's connection in it, and the emulated tool behind it."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

from emulators.running import Emulator
from ferry.components import FerryResource
from ferry.components.connections import refresh
from ferry.settings import read_settings

HERE = Path(__file__).parent
TABLES = (
    "create table customers (id int, name varchar(40), credit numeric(12, 2), since timestamp)",
    "insert into customers select n, 'Customer ' || n, n * 1.25, '2020-01-01'::timestamp + n * interval '1 day'"
    " from generate_series(1, 500) n",
    "create table orders (id bigint, customer_id int, note text)",
    "insert into orders select n, 1 + n % 500, 'note ' || n from generate_series(1, 2000) n",
)
_numbers = itertools.count(1)


@dataclass
class Synced:
    """One connection that copies `customers` and `orders` from an old system into `landing`."""

    kind: str
    tool: Emulator
    folder: Path
    old_url: str
    landing_url: str
    account: str
    package: str = field(default_factory=lambda: f"synced_{os.getpid()}_{next(_numbers)}")

    @property
    def defs(self) -> Path:
        """The folder of the declarations."""
        return self.folder / self.package / "defs"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process works here."""
        return {
            "FERRY_CONNECTIONS__TOOL": self.account,
            "FERRY_CONNECTIONS__LANDING": self.landing_url,
            "FERRY_STAGE_URI": str(self.folder / "stage"),
        }

    def declare(self, **more: Any) -> None:
        """Write the project and the connection's declaration."""
        place = self.defs / "shop"
        place.mkdir(parents=True, exist_ok=True)
        root = f'directory_type = "project"\n[tool.dg.project]\nroot_module = "{self.package}"\n'
        (self.folder / "pyproject.toml").write_text(f"[tool.dg]\n{root}")
        for module in (self.defs.parent, self.defs):
            (module / "__init__.py").touch()
        attributes = {
            "account": "tool", "connection": "old shop", "into": "landing", "poll_seconds": 0.05,
            "streams": ["customers", "orders"], **more,
        }  # fmt: skip
        component = {"airbyte": "AirbyteConnection", "fivetran": "FivetranConnection"}[self.kind]
        document = {"type": f"ferry.components.{component}", "attributes": attributes}
        (place / "defs.yaml").write_text(json.dumps(document))

    def sync(self, instance: dg.DagsterInstance, **tags: str) -> dg.ExecuteInProcessResult:
        """Materialize the connection's tables."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        return materialize(self.defs.parent, instance, {k.replace("__", "/"): v for k, v in tags.items()})

    def start(self) -> subprocess.Popen[bytes]:
        """Materialize in a process of its own, which can be killed."""
        return subprocess.Popen(
            [sys.executable, str(HERE / "synced.py"), str(self.defs.parent)],
            env={
                **os.environ,
                **self.environment,
                "PYTHONPATH": f"{HERE}:{HERE / 'emulators'}:{self.folder}",
            },
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @contextlib.contextmanager
    def meanwhile(self, condition: Callable[[dict[str, Any]], Any], **orders: Any) -> Iterator[None]:
        """Give the tool orders as soon as what it tells fulfils a condition, while the block runs."""

        def watch() -> None:
            self.wait_for(condition)
            self.tool.control(**orders)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        yield
        thread.join()

    def old(self, *statements: str) -> None:
        """Run SQL in the old system."""
        with psycopg.connect(self.old_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, table: str) -> int:
        """The rows that have landed."""
        with psycopg.connect(self.landing_url) as landing:
            found = landing.execute(f"select count(*) from {table}".encode()).fetchone()
        assert found is not None
        return found[0]

    def wait_for(self, condition: Callable[[dict[str, Any]], Any], seconds: float = 60) -> dict[str, Any]:
        """Wait until what the tool tells fulfils a condition."""
        until = time.monotonic() + seconds
        while not condition(told := self.tool.tell()):
            assert time.monotonic() < until, told
            time.sleep(0.02)
        return told


@contextlib.contextmanager
def synced(kind: str, new_database: Callable[..., str], folder: Path, account: str) -> Iterator[Synced]:
    """An old system with two tables, an empty landing database, the emulated tool between them, and a code location.

    `account` is the URL by which the tool is reached, with `{place}` for host and port.
    """
    old, landing = new_database(), new_database()
    with psycopg.connect(old, autocommit=True) as connection:
        for statement in TABLES:
            connection.execute(statement.encode())
    arguments = ("--source", old, "--destination", landing, "--schema", "public")
    with Emulator(kind, *arguments) as tool:
        place = tool.url.removeprefix("http://")
        made = Synced(kind, tool, folder, old, landing, account.format(place=place))
        made.declare()
        yield made


def materialize(
    package: Path, instance: dg.DagsterInstance, tags: dict[str, str]
) -> dg.ExecuteInProcessResult:
    """Load the definitions anew, as Dagster loads them, and materialize the connection's tables."""
    definitions = dg.load_from_defs_folder(path_within_project=package)
    found = [one for one in definitions.assets or () if isinstance(one, dg.AssetsDefinition)]
    chosen = [one for one in found if one.op.name == "sync_shop"]
    resources = {"ferry": FerryResource()}
    return dg.materialize(chosen, instance=instance, resources=resources, tags=tags, raise_on_error=False)


def each_is_refused(
    shop: Synced,
    instance: dg.DagsterInstance,
    refusals: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]],
    secret: str,
) -> None:
    """Each refusal is said without the secret before a sync starts; re-executed when nothing is wrong, it succeeds.

    A refusal is what the tool is told, what takes it back, what is declared meanwhile, and what the run says.
    """
    refresh(shop.defs, read_settings())
    for change, back, declared, wanted in refusals:
        shop.declare(**declared)
        shop.tool.control(**change)
        dead = shop.sync(instance)
        assert wanted in (said := failure(dead)), said
        assert secret not in said
        assert shop.tool.tell()["syncs"] == []
        shop.tool.control(**back)
    shop.declare()
    assert shop.sync(instance, dagster__parent_run_id=dead.run_id).success


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step says."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            return str(data.user_failure_data.description if data.user_failure_data else data.error)
    return ""


if __name__ == "__main__":
    with dg.DagsterInstance.ephemeral() as own:
        sys.exit(not materialize(Path(sys.argv[1]), own, {}).success)
