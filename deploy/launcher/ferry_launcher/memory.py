"""Sizes of memory as people write them, and which limit a run gets."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MEMORY_TAG = "ferry/memory"
"""On an op: what its entity declares. On a run: what the person who launched it wants instead."""

OUT_OF_MEMORY_TAG = "ferry/out_of_memory"
"""On a run that was killed for memory: the limit it had, in bytes. Its retry inherits the tag."""

SMALLEST = 128 * 1024**2
"""Below this, Python with Dagster (about 100 MiB) does not even start; a limit that small is a mistake."""

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])|([KMGT])i)?")


class SizeError(ValueError):
    """A text that should be an amount of memory and is not."""

    def __init__(self, text: str, where: str, why: str = "it is not a size") -> None:
        super().__init__(
            f"{where}: {text!r} is refused, because {why}. Write a size such as 512Mi, 1.5Gi or 2g."
        )


def parse_size(text: str, where: str) -> int:
    """Bytes of `text`: `512Mi` or `1.5Gi` as Kubernetes writes it, `512m` or `2g` as Docker does, or plain bytes.

    All units are powers of 1024. `1G` is refused: it is 2**30 to Docker and 10**9 to Kubernetes.
    `where` is named in the error (`SizeError`).
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise SizeError(text, where)
    number, docker_unit, binary_unit = found.groups()
    size = int(float(number) * _UNITS[docker_unit or (binary_unit or "").lower()])
    if size < SMALLEST:
        raise SizeError(text, where, f"a run needs at least {format_size(SMALLEST)} to start")
    return size


def format_size(size: int) -> str:
    """`1 GiB`, `1.5 GiB`, `640 MiB`: the largest unit that leaves at least one."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{size} bytes"


@dataclass(frozen=True)
class Limit:
    """The memory that a run gets, and why, for the run's event log."""

    size: int
    why: str
    at_ceiling: bool


def limit_of_run(run_tags: dict[str, str], step_sizes: Iterable[str], default: int, maximum: int) -> Limit:
    """What a run gets: its own tag, else the largest that its steps declare, else the default; never above the maximum.

    A run that repeats one killed for memory gets twice what that one had, if this is more.
    `step_sizes` are the values of `ferry/memory` of the steps that the run executes.
    """
    declared = list(step_sizes)
    if MEMORY_TAG in run_tags:
        size, why = parse_size(run_tags[MEMORY_TAG], f"run tag {MEMORY_TAG}"), f"the run's tag {MEMORY_TAG}"
    elif declared:
        sizes = [
            parse_size(text, f"op tag {MEMORY_TAG} (resources.memory of an entity)") for text in declared
        ]
        size, why = (
            max(sizes),
            "the largest that its entities declare" if len(sizes) > 1 else "what its entity declares",
        )
    else:
        size, why = default, "the default, FERRY_RUN_MEMORY"

    killed_at = int(run_tags.get(OUT_OF_MEMORY_TAG, "0"))
    if killed_at and killed_at * 2 > size:
        size, why = killed_at * 2, f"twice {format_size(killed_at)}, at which the run before it was killed"
    if size > maximum:
        size, why = maximum, f"the ceiling, FERRY_RUN_MEMORY_MAX; wanted was {format_size(size)}: {why}"
    return Limit(size, why, at_ceiling=size >= maximum)
