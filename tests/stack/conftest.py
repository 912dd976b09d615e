"""The stack that the tests here share, and a copy of the checkout for those that start it themselves."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import Checkout, copy_of_checkout
from stack_fixture import stack

__all__ = ["checkout", "stack"]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the checkout that was set up once by its own script; its project is removed afterwards."""
    copy = copy_of_checkout(tmp_path)
    yield copy
    copy.write(DAGSTER_POSTGRES_PASSWORD="x", FERRY_RUN_MEMORY="1Gi")
    subprocess.run(
        ["docker", "compose", "--profile", "demo", "down", "--volumes", "--timeout", "5"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
