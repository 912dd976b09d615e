"""What commands print: text and tables for a person, JSON for a script.

In a terminal of 80 columns no name and no number is cut.
"""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# What is shown comes from declarations and rows: what stands there in brackets is no markup.
console = Console(markup=False, highlight=False)
errors = Console(markup=False, highlight=False, stderr=True)
CROSS = ("✗", "red")
COLOURS = {"yes": "green", "NO": "red"}


def print_json(value: Any) -> None:
    """JSON on standard output; dates and decimals as text."""
    print(json.dumps(value, default=str, ensure_ascii=False, indent=1))


def print_error(message: object) -> None:
    """What went wrong, on standard error, as one line that a terminal may break and nothing else does."""
    errors.print(Text.assemble(CROSS, f" {message}"), soft_wrap=True)


def number_tables(title: str, cells: dict[str, dict[str, str]], width: int) -> list[Table]:
    """Numbers of entities, name by name: an entity a line, or an entity a column where lines are too long.

    With more entities than columns fit there are several tables, one below the other.
    """
    names, headings = list(cells), list(next(iter(cells.values()), {}))
    widths = number_widths(cells, headings)
    if max(map(len, names), default=0) + sum(widths.values()) + len(headings) < width:
        table = number_table(title, ["entity", *headings])
        for name, row in cells.items():
            add_row(table, name, *row.values())
        return [table]
    column = max([*map(len, names), *widths.values()], default=0) + 1
    at_once = max(1, (width - max(map(len, headings), default=0) - 1) // column)
    tables = []
    for first in range(0, len(names), at_once):
        shown = names[first : first + at_once]
        table = number_table(title if not first else None, ["", *shown])
        for heading in headings:
            add_row(table, heading, *(cells[name][heading] for name in shown))
        tables.append(table)
    return tables


def number_widths(cells: dict[str, dict[str, str]], headings: list[str]) -> dict[str, int]:
    """How wide the column of each heading is."""
    return {
        heading: max(len(heading), *(len(row[heading]) for row in cells.values())) for heading in headings
    }


def number_table(title: str | None, headings: list[str]) -> Table:
    """An empty table of numbers, each line under a name; `add_row` fills it."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    return table


def word_table(title: str, headings: tuple[str, ...]) -> Table:
    """An empty table of words, which go on in the next line; `add_row` fills it."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a line to a table, its cells as they are."""
    table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in cells))
