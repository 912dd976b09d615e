"""`python -m shop.demo`: the demo's databases, without the migration. Prints JSON.

    databases   start the server, make both databases at $SCALE unless they are there, and print their URLs
    start       start the server with whatever databases it has
    stop        stop it; the next start finds everything as it was
    clean       stop it and remove the demo's home with everything in it

The home is $FERRY_DEMO_HOME, or `.demo` in the current directory.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from ferry.errors import DeclarationError, FerryError, PermanentError
from shop.demo.account import remove_account
from shop.demo.databases import LEGACY, NEW_SHOP, prepare
from shop.demo.server import EmbeddedServer

DEFAULT_SCALE = 0.02


def home_from_environment() -> Path:
    """The directory that holds all of the demo: $FERRY_DEMO_HOME, or `.demo` in the current directory."""
    return Path(os.environ.get("FERRY_DEMO_HOME") or ".demo").resolve()


def scale_from_environment() -> float:
    """$SCALE as a number, 0.02 when it is not set; 1 is 7.85 million rows."""
    given = os.environ.get("SCALE") or str(DEFAULT_SCALE)
    try:
        return float(given)
    except ValueError:
        raise DeclarationError(
            f"the scale is not a number: {given!r}", where="SCALE", next=f"Try SCALE={DEFAULT_SCALE}"
        ) from None


def databases(home: Path) -> dict[str, object]:
    """Both databases' URLs, after making what was missing."""
    made = prepare(home, scale_from_environment())
    return {"source_url": made.source_url, "target_url": made.target_url}


def start(home: Path) -> dict[str, object]:
    """Start the server alone."""
    server = EmbeddedServer(home).start()
    return {"running": True, "source_url": server.url(LEGACY), "target_url": server.url(NEW_SHOP)}


def stop(home: Path) -> dict[str, object]:
    """Stop the server; `stopped` is false if it did not run."""
    return {"stopped": EmbeddedServer(home).stop()}


def clean(home: Path) -> dict[str, object]:
    """Remove the home, if there is one and if it is one: a directory of somebody else's is left alone."""
    server = EmbeddedServer(home)
    if server.exists():
        server.remove()
        remove_account()
        shutil.rmtree(home)
        return {"removed": str(home)}
    if home.exists() and any(home.iterdir()):
        raise PermanentError(
            "this directory holds no demo, so it was left alone",
            where=str(home),
            next="Look at FERRY_DEMO_HOME, or remove the directory yourself",
        )
    return {"removed": None}


COMMANDS: dict[str, Callable[[Path], dict[str, object]]] = {
    "databases": databases,
    "start": start,
    "stop": stop,
    "clean": clean,
}


def main() -> int:
    """Run one command; its answer goes to standard output as JSON, an error to standard error as one line."""
    parser = argparse.ArgumentParser(
        prog="python -m shop.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    try:
        answer = COMMANDS[parser.parse_args().command](home_from_environment())
    except FerryError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
