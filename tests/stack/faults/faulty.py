"""A code location for the stack tests, beside the shop's: runs that want too much memory, wait, or die.

And one entity behind a connection of the emulated Airbyte.
"""

import os
import time
from pathlib import Path

import dagster as dg

from ferry.components import FerryResource

MIB = 1024**2


class Hunger(dg.Config):
    """How much a run of `hungry` fills."""

    mebibytes: int = 300


@dg.asset(op_tags={"ferry/memory": "192Mi"})
def hungry(context: dg.AssetExecutionContext, config: Hunger) -> None:
    """Fill memory step by step, then succeed when the limit allowed it."""
    print("hungry begins", flush=True)
    held = []
    for filled in range(0, config.mebibytes, 10):
        held.append(b"x" * (10 * MIB))
        context.log.debug("holds %s MiB", filled)
    print(f"hungry held {sum(map(len, held)) // MIB} MiB", flush=True)


@dg.asset(op_tags={"ferry/memory": "320Mi"})
def modest() -> None:
    """Need nothing; declares more than `hungry`, so that a run of both gets this limit."""


@dg.asset
def plain(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Say what this run can see of Docker and of its settings."""
    print("plain was here", flush=True)
    sockets = [
        str(path) for path in (Path("/var/run/docker.sock"), Path("/run/docker.sock")) if path.exists()
    ]
    return dg.MaterializeResult(
        metadata={
            "docker_sockets": ", ".join(sockets) or "none",
            "docker_host": os.environ.get("DOCKER_HOST", "none"),
            "user": os.getuid(),
            "connections": ", ".join(
                sorted(name for name in os.environ if name.startswith("FERRY_CONNECTIONS__"))
            ),
        }
    )


@dg.asset
def patient() -> None:
    """Wait until killed or cancelled, one minute and a half at most."""
    print("patient waits", flush=True)
    time.sleep(90)


# In process, as the shop's: one process in a container, so that the container's end is the run's end.
defs = dg.Definitions.merge(
    dg.load_from_defs_folder(path_within_project=Path(__file__).parent / "synced" / "defs"),
    dg.Definitions(
        assets=[hungry, modest, plain, patient],
        resources={"ferry": FerryResource()},
        executor=dg.in_process_executor,
    ),
)
