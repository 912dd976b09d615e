"""Run a command under a limit of memory that the kernel enforces, where this account may set one."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def run_limited(
    command: Sequence[str], mebibytes: int, environment: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[bytes], bool]:
    """Run a command with at most this much memory.

    Returns:
        What it printed, and whether the limit was enforced. A process that needs more is killed by the kernel, and
        `CalledProcessError` says so.
    """
    with _group(mebibytes) as group:

        def join() -> None:
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        done = subprocess.run(command, check=True, env=environment, capture_output=True, preexec_fn=join)
        return done, group is not None


@contextlib.contextmanager
def _group(mebibytes: int) -> Iterator[Path | None]:
    """A control group of its own, of the first or the second kind; None where none can be made."""
    version_2 = (CGROUPS / "cgroup.controllers").exists()
    group = (CGROUPS if version_2 else CGROUPS / "memory") / f"ferry-bench-{os.getpid()}"
    limit = group / ("memory.max" if version_2 else "memory.limit_in_bytes")
    try:
        group.mkdir()
        limit.write_text(str(mebibytes * 2**20))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()
