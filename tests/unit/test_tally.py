"""The verdict over a partition in numbers, for people who ask why rows did not make it."""

import pyarrow as pa

from ferry.verdict import ERRORS, MOST_VALUES, PartVerdict, Tally


def verdict(*errors: tuple[int, str, str, str, str | None]) -> PartVerdict:
    """A verdict over a thousand rows with these errors: row, reason, column, rule, value."""
    rows = [dict(zip(ERRORS.names, (*error, "why", None), strict=True)) for error in errors]
    return PartVerdict(1_000, pa.Table.from_pylist(rows, schema=ERRORS))


def test_rules_and_their_most_frequent_values_are_counted_over_all_parts() -> None:
    """Each row counts once, for its first error; NULL is counted as a row and is no value."""
    tally = Tally()
    tally.add(
        verdict(
            (1, "contract", "age", "int", "x"),
            (1, "contract", "name", "long", "…"),
            (2, "contract", "age", "int", "y"),
        )
    )
    tally.add(
        verdict(
            (5, "contract", "age", "int", "y"),
            (6, "contract", "age", "int", None),
            (7, "duplicate_key", "id", "", "7"),
        )
    )
    tally.add(verdict())
    assert (tally.accepted, tally.rejected) == (2_995, 5)
    assert tally.rules == {"contract: age: int": 4, "duplicate_key": 1}
    assert tally.top("contract: age: int") == "y (2), x (1)"
    assert [example["row"] for example in tally.examples] == [1, 2, 5, 6, 7]


def test_values_without_number_do_not_fill_the_memory() -> None:
    """Beyond a thousand distinct values of a rule only the rows are counted."""
    tally = Tally()
    for part in range(3):
        tally.add(verdict(*((row, "contract", "age", "int", f"{part} {row}") for row in range(800))))
    assert tally.rules == {"contract: age: int": 2_400}
    assert len(tally.values["contract: age: int"]) == MOST_VALUES


def test_a_verdict_reads_back_with_the_place_inside_the_value() -> None:
    """What is kept beside a part, also as an earlier version wrote it; a path shows only where there is one."""
    rows = [{**dict.fromkeys(ERRORS.names), "row": 3, "reason": "contract", "path": "[1].city"}]
    kept = PartVerdict(5, pa.Table.from_pylist(rows, schema=ERRORS))
    assert PartVerdict.from_bytes(kept.to_bytes()).listed()[0]["path"] == "[1].city"
    older = PartVerdict(5, kept.errors.drop_columns(["path"]))
    assert "path" not in PartVerdict.from_bytes(older.to_bytes()).listed()[0]
