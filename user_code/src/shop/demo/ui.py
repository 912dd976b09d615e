"""`make demo-ui`: the Dagster UI on the demo's own instance, with webserver and daemon."""

import os
import sys
from pathlib import Path

from ferry.cli import run_guarded
from ferry.cli.output import console
from ferry.errors import PermanentError
from shop.demo.__main__ import home_from_environment
from shop.demo.migrate import set_up


def serve() -> None:
    """Replace this process by `dagster dev` on 127.0.0.1:$PORT; Ctrl-C ends it."""
    port = os.environ.get("PORT") or "3000"
    if not port.isdigit():
        raise PermanentError(f"the port is not a number: {port!r}", where="PORT", next="Try PORT=3000")
    home = home_from_environment()
    set_up(home)
    workspace = home / "dagster" / "workspace.yaml"
    workspace.write_text(
        "load_from: [{python_module: {module_name: shop.definitions, location_name: ferry}}]\n"
    )
    console.print(f"The UI opens at http://127.0.0.1:{port} in a moment; Ctrl-C ends it.")
    program = Path(sys.executable).with_name("dagster")
    os.execv(  # noqa: S606 - a fixed program with our own words
        program, [str(program), "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", port]
    )


if __name__ == "__main__":
    sys.exit(run_guarded(serve))
