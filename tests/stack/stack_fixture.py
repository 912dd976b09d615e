"""One stack for the tests of this folder and of tests/browser: healthy before the first, gone after the last."""

import hashlib
import os
import tempfile

import pytest

from stack import ROOT, Stack, command

KEEP = bool(os.environ.get("FERRY_STACK_KEEP"))
"""Leave the stack running after the tests, and take up one that was left, to work on the tests."""

_running: list[Stack] = []


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Stack:
    """The running stack. When a test failed, what its containers said is left in out/stack/logs."""
    if not _running:
        checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
        files = tempfile.gettempdir() + f"/ferrytest-{checkout}"
        started = Stack(f"ferrytest-{checkout}", command(str(ROOT / "deploy/tag.sh")).strip(), files)
        session = request.session

        def finish() -> None:
            if session.testsfailed:
                print(f"\nWhat the containers said is in {started.dump_logs()}")
            if not KEEP:
                started.stop()
                assert started.left() == []

        # The session ends once, whichever of the two folders asked first.
        request.addfinalizer(finish)  # noqa: PT021 - the second folder must not stop it again
        _running.append(started)
        try:
            started.start()
        except AssertionError as error:
            session.testsfailed += 1
            pytest.exit(f"the stack did not start: {error}", returncode=1)
    return _running[0]
