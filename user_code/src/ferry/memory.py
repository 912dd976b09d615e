"""How much memory this process needs, and that it gives back what one part needed before the next."""

import contextlib
import ctypes
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")
# glibc's names for what `mallopt` sets.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def one_heap() -> None:
    """Make all threads share one heap of the C library; before any of them begins, as a heap once made stays.

    Each partition has threads of its own, and what they leave in heaps of theirs nobody else would use.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Make Arrow and the C library return large buffers to the system as soon as they are free.

    Left to themselves both keep them for later, and a process that carries parts of some MiB ends at 50 MiB more.
    """
    import pyarrow as pa  # here, as `one_heap` comes before anything large is imported

    one_heap()
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 8 * 2**20)


def peak_mib() -> float:
    """The most memory that this process has held so far, in MiB.

    Linux counts into `ru_maxrss` what the process that started this one held; `VmHWM` begins anew with each program.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
