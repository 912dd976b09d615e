"""One stack for all stack tests: built, started and healthy before the first, gone after the last."""

import hashlib
import os
from collections.abc import Iterator

import pytest
from stack import ROOT, Stack, command, free_port

KEEP = bool(os.environ.get("FERRY_STACK_KEEP"))
"""Leave the stack running after the tests, to work on them."""


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The running stack. When a test failed, what its containers said is left in out/stack/logs."""
    tag = command(str(ROOT / "deploy" / "tag.sh")).strip()
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
    running = Stack(f"ferrytest-{checkout}", free_port(), tag)
    try:
        running.start()
        yield running
    finally:
        failed = request.session.testsfailed
        if failed:
            print(f"\nwhat the containers said: {running.dump_logs()}")
        if not KEEP:
            running.stop()
