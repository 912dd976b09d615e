"""What commands print: text and tables for a person, JSON for a script."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console()
errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """JSON on standard output; dates and decimals as text."""
    print(json.dumps(value, default=str, ensure_ascii=False, indent=1))


def number_tables(title: str, cells: dict[str, dict[str, str]], width: int) -> list[Table]:
    """Numbers of entities, name by name: an entity a line, or an entity a column where lines are too long.

    With more entities than columns fit there are several tables, one below the other.
    """
    names, headings = list(cells), list(next(iter(cells.values()), {}))
    widths = {
        heading: max(len(heading), *(len(Text.from_markup(cells[name][heading])) for name in names))
        for heading in headings
    }
    if max(map(len, names), default=0) + sum(widths.values()) + len(headings) < width:
        table = _numbers(title, ["entity", *headings])
        for name, row in cells.items():
            table.add_row(name, *row.values())
        return [table]
    column = max([*map(len, names), *widths.values()], default=0) + 1
    at_once = max(1, (width - max(map(len, headings), default=0) - 1) // column)
    tables = []
    for first in range(0, len(names), at_once):
        shown = names[first : first + at_once]
        table = _numbers(title if not first else None, ["", *shown])
        for heading in headings:
            table.add_row(heading, *(cells[name][heading] for name in shown))
        tables.append(table)
    return tables


def _numbers(title: str | None, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    return table
