"""How the command `ferry` starts: hundreds of modules are imported, and nobody looks for garbage meanwhile."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ferry.memory import one_heap

one_heap()


@contextmanager
def importing() -> Iterator[None]:
    """Import modules without a search for garbage, which would take a third of a short run and find none.

    What they make lasts as long as the process, so that searches afterwards, the one at its end too, leave it out.
    """
    before, searching = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if searching:
            gc.enable()


def main() -> None:
    """The program `ferry`."""
    with importing():
        from ferry.cli import main as command
    command()
