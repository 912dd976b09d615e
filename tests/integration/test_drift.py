"""Columns of the source that appear, vanish or change their type are told, whenever it happens; nothing is guessed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ferry.errors import DeclarationError, PermanentError
from ferry.loader import Loader
from ferry.pipeline import LOADED, VALIDATED, PartitionFailed, Staged, carry
from ferry.reconcile import compare
from ferry.stage import Stage
from ferry.verdict import Judge
from small import Small

APPEARS, VANISHES, CHANGES = (
    "alter table one add column city text",
    "alter table one drop column note",
    "alter table one alter column size type bigint",
)


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """A table in two partitions whose target would take what comes."""
    small = Small(new_database, tmp_path)
    small.source(
        "create table one (id int primary key, half text, note text, size int)",
        "insert into one values (1, 'a', 'x', 1), (2, 'b', 'y', 2)",
    )
    small.target("create table one (id int primary key, half text, note text, size bigint, city text)")
    small.declare("one", "id: int; note: str | None = None; size: int", made="natural", new_key="id",
                  partition={"by": "half", "values": ["a", "b"]})  # fmt: skip
    return small


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (APPEARS, "city appeared (text)"),
        (VANISHES, "note vanished"),
        (CHANGES, "size was integer and is bigint"),
    ],
)
def test_a_change_between_plan_and_partition_stops_the_partition(
    small: Small, change: str, words: str
) -> None:
    """What changed and what to do is told; the partition that was loaded before it stays."""
    plans = small.migrating.plans()
    assert small.migrating.load("one", ("a",), plans).failed == {}
    small.source(change)
    said = small.migrating.load("one", ("b",), plans).failed["b"]
    assert words in said
    assert "nothing of this partition was loaded" in said
    assert small.outcomes("one") == {"extracted": 1, "inserted": 1}


@pytest.mark.parametrize("change", [APPEARS, VANISHES, CHANGES])
def test_a_change_makes_another_plan_and_the_run_says_what_it_was(small: Small, change: str) -> None:
    """The plan hash differs; the next partition is staged with a note of the difference; all is loaded anew."""
    before = small.migrating.plans()
    small.migrating.load("one", ("a",), before)
    small.source(change)
    plans = small.migrating.plans()
    assert plans["one"].plan_hash != before["one"].plan_hash
    drifts = [
        event.drift
        for event in carry(plans, "one", ("b", "a"), small.migrating.settings)
        if isinstance(event, Staged)
    ]
    assert all(any(word in drift for word in ("appeared", "vanished", "was integer")) for drift in drifts)
    assert len(drifts) == 2
    again = small.migrating.load("one", plans=plans)
    assert (again.failed, again.different, again.skipped_chunks) == ({}, 0, 2)


def test_a_column_that_goes_nowhere_is_refused_with_the_ways_out(small: Small) -> None:
    """It appeared, and neither the target nor the declaration has a place for it."""
    small.source("alter table one add column colour text")
    with pytest.raises(DeclarationError, match=r"'colour' goes nowhere.*under `drop`"):
        small.migrating.plans()


def test_a_column_that_the_contract_needs_and_that_vanished_is_refused(small: Small) -> None:
    """A field without a default has to be there."""
    small.source("alter table one drop column size")
    with pytest.raises(DeclarationError, match="names a column 'size'"):
        small.migrating.plans()


def test_what_was_staged_with_other_columns_is_not_loaded_by_the_new_plan(small: Small) -> None:
    """A run of the later stages alone, and a comparison with the target, ask for the partition to be read anew."""
    small.migrating.load("one")
    small.source(CHANGES)
    plans = small.migrating.plans()
    failed = [
        event
        for event in carry(plans, "one", ("a",), small.migrating.settings, stages=(VALIDATED, LOADED))
        if isinstance(event, PartitionFailed)
    ]
    assert "size was integer and is bigint" in str(failed[0].error)
    assert "raw_one" in str(failed[0].error)
    stage = Stage(small.migrating.settings.stage_root, "one", "a")
    manifest = stage.manifest()
    assert manifest is not None
    with (
        Loader(plans, "one", small.migrating.settings) as loader,
        pytest.raises(PermanentError, match="staged when"),
    ):
        compare(loader, stage, manifest, Judge(plans["one"]))
