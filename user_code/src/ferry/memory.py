"""How much memory this process needs."""

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_mib() -> float:
    """The most memory that this process has held so far, in MiB.

    Linux counts into `ru_maxrss` what the process that started this one held; `VmHWM` begins anew with each program.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
