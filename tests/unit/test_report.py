"""What the command prints can be read in a terminal of 80 columns, however much there is of it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from ferry.cli import run_guarded
from ferry.cli.partitions import partition_table
from ferry.cli.plan import plan_table, rules_table
from ferry.cli.rejects import rejects_table
from ferry.cli.run import report_tables
from ferry.errors import DeclarationError
from ferry.ledger import Outcomes

HEADINGS = (*Outcomes().as_dict(), "reconciled", "rows/s", "peak MiB")


def printed(entities: dict[str, dict[str, object]], width: int) -> list[str]:
    """The lines that a console of that width shows."""
    report = {"rows": 1, "seconds": 1.0, "entities": entities}
    return lines_of(report_tables(report, width), width)


def lines_of(tables: list[Table], width: int = 80) -> list[str]:
    """What a console of that width shows of tables."""
    console = Console(width=width, file=io.StringIO())
    for table in tables:
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


@given(
    number=st.sampled_from([0, 9_999_999]), entity=st.sampled_from(["orders", "order_lines", "e" * 30]),
    key=st.sampled_from(["all", "1992-01", "(others)", "1992-01|north", "[red]", "k" * 60]),
)  # fmt: skip
def test_partitions_show_every_number_and_every_heading(number: int, entity: str, key: str) -> None:
    """A long key goes on in the next line; ends that no row has met are left out before anything is cut."""
    row = {"partition": key, "complete": True, **dict.fromkeys(Outcomes().as_dict(), number), "extracted": 1}
    lines = lines_of([partition_table(entity, [row], 80)])
    words, first = " ".join(lines).split(), "".join(line.split(" ")[0] for line in lines)
    assert {"complete", "extracted", "yes", "1"} <= set(words)
    assert not number or {*HEADINGS[:7]} <= set(words)
    assert words.count("9,999,999") == (6 if number else 0)
    assert first == entity + key
    assert "…" not in "".join(lines)


def test_a_plan_shows_tables_references_and_rules_whole() -> None:
    """Names of tables, of rejected keys and reasons stand on one line; brackets of a value are no markup."""
    table = {"source": "legacy/public.order_lines", "target": "crm/public.order_items_of_the_new_shop"}
    path = {"column": "state", "rule": "one of '[a]', '[b]'", "way": "columnar", "why": ""}
    reference = {"column": "order_id", "to": "orders", "strategy": "null first, then update"}
    one = {
        **table,
        "entity": "order_lines",
        "partitions": ["1992-01", "1998-12"],
        "references": [reference],
        "rules": [path],
    }
    wrong = {"column": "customer_id", "value": "[x]", "message": "Input should be a valid integer"}
    reject = {
        "entity": "order_lines",
        "key": ["40065", "1"],
        "reason": "parent_rejected",
        "errors": [wrong],
        "in_target": False,
    }
    lines = lines_of([plan_table([one]), rules_table([one]), rejects_table([reject])])
    text = "\n".join(lines)
    assert all(name in text for name in table.values())
    assert "order_id → orders: null first, then update" in text
    assert "2 partitions: 1992-01 … 1998-12" in text
    assert "one of '[a]', '[b]'" in text
    assert "40065, 1" in text
    assert "parent_rejected" in text
    assert "[x]" in text
    assert all(len(line) <= 80 for line in lines)


def test_what_a_message_has_in_brackets_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A key such as `[/x]` is a key, and no markup: it is neither swallowed nor the end in a trace."""

    def fail() -> None:
        raise DeclarationError("there is no row [/x]", where="[red]")

    assert run_guarded(fail) == 1
    assert "[red]: there is no row [/x]." in capsys.readouterr().err
