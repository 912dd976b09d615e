"""The demo's world: an embedded PostgreSQL, a legacy shop full of history and dirt, and a new shop."""

import sys
from collections.abc import Callable

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
