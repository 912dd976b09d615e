"""What the README names exists: tests, files, make targets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROOFS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)))


@pytest.mark.parametrize(("file", "test"), PROOFS)
def test_a_promise_is_proved_by_a_test_that_is_there(file: str, test: str) -> None:
    """A test that is renamed or removed takes its line of the README with it."""
    assert f"\ndef {test}(" in (ROOT / file).read_text("utf-8")


def test_the_promises_name_tests() -> None:
    """Each line of the table has at least one."""
    lines = [line for line in README.splitlines() if re.match(r"\| P\d \|", line)]
    assert len(lines) >= 4
    assert all("::test_" in line for line in lines)


def test_paths_are_there() -> None:
    """Links, and names in the table of places."""
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    named = re.findall(r"`((?:user_code|tests|benchmarks|deploy|docs)/[\w/]*|docker-compose\.yml)`", README)
    assert len(linked) >= 4
    assert len(named) >= 5
    assert [path for path in {*linked, *named} if not (ROOT / path).exists()] == []


def test_make_knows_the_targets() -> None:
    """`make demo` and the others are in the Makefile or in what it includes."""
    makefiles = [ROOT / "Makefile", *ROOT.glob("*/*.mk"), *ROOT.glob("tests/*/*.mk")]
    known = {name for path in makefiles for name in re.findall(r"^([\w-]+):", path.read_text("utf-8"), re.M)}
    assert set(re.findall(r"`?make ([a-z][\w-]*)", README)) <= known


def test_it_is_one_screen() -> None:
    """A README that nobody reads to its end promises nothing."""
    assert len(README.splitlines()) <= 80
