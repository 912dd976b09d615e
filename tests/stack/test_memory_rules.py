"""Which limit a run gets, and what is a size. The launcher's rules without a container."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "launcher"))

from ferry_launcher.memory import SizeError, format_size, limit_of_run, parse_size

MIB, GIB = 1024**2, 1024**3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512Mi", 512 * MIB),
        ("1.5Gi", 1536 * MIB),
        ("2g", 2 * GIB),
        ("640m", 640 * MIB),
        ("1 Gi", GIB),
        ("1073741824", GIB),
        ("262144Ki", 256 * MIB),
    ],
)
def test_sizes_of_docker_and_kubernetes_are_read(text: str, size: int) -> None:
    """Both notations mean powers of 1024, and a plain number is bytes."""
    assert parse_size(text, "here") == size


@pytest.mark.parametrize(
    "text", ["", "lots", "1G", "1GB", "-1g", "1,5Gi", "1gi", "0x10", "1e9", "Gi", "1 000 000 000"]
)
def test_what_is_no_size_is_refused_with_the_place_and_an_example(text: str) -> None:
    """`1G` is among them: Docker and Kubernetes disagree on it."""
    with pytest.raises(SizeError, match=r"^FERRY_RUN_MEMORY: .*512Mi, 1\.5Gi or 2g"):
        parse_size(text, "FERRY_RUN_MEMORY")


def test_a_size_too_small_to_start_python_is_refused() -> None:
    """A forgotten unit (`512`) would otherwise kill every run at its start."""
    with pytest.raises(SizeError, match="at least 128 MiB"):
        parse_size("512", "run tag ferry/memory")


@pytest.mark.parametrize(
    ("size", "text"), [(GIB, "1 GiB"), (1536 * MIB, "1.5 GiB"), (640 * MIB, "640 MiB"), (1000, "1000 bytes")]
)
def test_sizes_are_shown_in_the_unit_that_people_use(size: int, text: str) -> None:
    """The messages of the launcher name limits this way."""
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("tags", "steps", "size", "why"),
    [
        ({}, [], GIB, "default"),
        ({}, ["512Mi"], 512 * MIB, "what its entity declares"),
        ({}, ["512Mi", "3Gi", "1Gi"], 3 * GIB, "the largest"),
        ({"ferry/memory": "256Mi"}, ["512Mi"], 256 * MIB, "the run's tag"),
        ({"ferry/memory": "64Gi"}, [], 4 * GIB, "the ceiling"),
        ({}, ["64Gi"], 4 * GIB, "the ceiling"),
        ({"ferry/out_of_memory": str(512 * MIB)}, ["512Mi"], GIB, "twice 512 MiB"),
        ({"ferry/out_of_memory": str(512 * MIB)}, ["2Gi"], 2 * GIB, "what its entity declares"),
        ({"ferry/out_of_memory": str(3 * GIB)}, ["3Gi"], 4 * GIB, "the ceiling"),
    ],
)
def test_the_limit_of_a_run(tags: dict[str, str], steps: list[str], size: int, why: str) -> None:
    """Own tag, else the largest declared, else the default; twice the last limit after a kill; never above 4 GiB."""
    limit = limit_of_run(tags, steps, default=GIB, maximum=4 * GIB)
    assert limit.size == size
    assert why in limit.why


def test_a_wrong_run_tag_says_where_it_stands() -> None:
    """Whoever launched the run reads this in its event log."""
    with pytest.raises(SizeError, match="run tag ferry/memory"):
        limit_of_run({"ferry/memory": "much"}, [], default=GIB, maximum=4 * GIB)
