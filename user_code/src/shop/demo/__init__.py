"""The demo's world: an embedded PostgreSQL, a legacy shop full of history and dirt, and a new shop."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ferry.errors import FerryError


def told(demo: Callable[[], None]) -> int:
    """Run a demo; what goes wrong is one message, and the status of the process says that it did."""
    try:
        demo()
    except (FerryError, OSError) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Run it again; it goes on where it was.", file=sys.stderr)
        return 130
    return 0


def take_on(home: Path, variables: Mapping[str, str]) -> None:
    """Set variables of the environment, and keep them in `home/env` for a shell: nobody else may read it."""
    os.environ.update(variables)
    shell = home / "env"
    shell.touch(mode=0o600)
    shell.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
