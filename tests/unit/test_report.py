"""The table that ends a run can be read in a terminal of 80 columns, however many entities there are."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ferry.cli.run import report_tables
from ferry.ledger import Outcomes

HEADINGS = (*Outcomes().as_dict(), "reconciled", "rows/s", "peak MiB")


def printed(entities: dict[str, dict[str, object]], width: int) -> list[str]:
    """The lines that a console of that width shows."""
    report = {"rows": 1, "seconds": 1.0, "entities": entities}
    console = Console(width=width, file=io.StringIO())
    for table in report_tables(report, width):
        console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def entity(number: int, reconciled: bool = True) -> dict[str, object]:
    """An entity in which every outcome is this number."""
    return {
        **dict.fromkeys(Outcomes().as_dict(), number), "reconciled": reconciled, "rows_per_second": number,
        "peak_rss_mib": 300.0,
    }  # fmt: skip


@given(
    count=st.integers(1, 20), number=st.sampled_from([0, 7_650_000, 10**11]),
    name=st.sampled_from(["x", "order_lines", "e" * 41]), width=st.sampled_from([80, 100, 120, 200]),
)  # fmt: skip
def test_no_number_and_no_name_is_cut_or_wrapped(count: int, number: int, name: str, width: int) -> None:
    """Each entity and each outcome stands whole on a line that fits."""
    entities = {f"{name}{position}"[-41:]: entity(number) for position in range(count)}
    lines = printed(entities, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert text.count(f"{number:,}") >= 8 * count
    assert all(shown in text.split() for shown in entities)
    assert all(heading in text for heading in HEADINGS)


@pytest.mark.parametrize("width", [80, 160])
def test_an_entity_that_is_not_reconciled_stands_out(width: int) -> None:
    """`NO` stands in its line or column, `yes` in the others'."""
    text = "\n".join(printed({"good": entity(1), "bad": entity(2, reconciled=False)}, width)).split()
    assert (text.count("yes"), text.count("NO")) == (1, 1)
