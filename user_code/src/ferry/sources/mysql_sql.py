"""Pieces of SQL for MySQL, each with the values for its places; a percent sign of ours is doubled."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ferry.catalogue import Column
from ferry.partition import Scheme, Window

Bound = tuple[str, list[Any]]
"""A piece of SQL, and the values for its places."""


def condition(where: str | None, windows: Sequence[Window], cuts: Sequence[str]) -> Bound:
    """The condition of one partition; `cuts` are the expressions of what its windows are windows of."""
    parts, values = ([f"({doubled(where)})"] if where else []), []
    for window, cut in zip(windows, cuts, strict=True):
        inside = []
        if window.value is not None:
            inside.append(f"{written(cut)} = %s")
            values.append(window.value)
        if window.others:
            inside.append(f"{written(cut)} not in ({_places(window.others)})")
            values += window.others
        for sign, bound in ((">=", window.low), ("<", window.high)):
            if bound is not None:
                inside.append(f"{cut} {sign} %s")
                values.append(bound)
        if inside:
            text = " and ".join(inside)
            parts.append(f"({text} or {cut} is null)" if window.or_null else text)
    return " and ".join(parts) or "true", values


def number_of(scheme: Scheme, cuts: Sequence[str]) -> Bound:
    """The number of the key, among those of the scheme, that a row belongs to; the first takes NULL and the rest."""
    number, values = "0", []
    for cut, column in zip(scheme.cuts, cuts, strict=True):
        rest = cut.windows[1:]
        if cut.listed and rest:
            one = f"coalesce(field({written(column)}, {_places(rest)}), 0)"
            values += [window.value for window in rest]
        else:
            one = f"coalesce({' + '.join(['0', *(f'({column} >= %s)' for _ in rest)])}, 0)"
            values += [window.low for window in rest]
        number = f"({number} * {len(cut.windows)} + {one})"
    return number, values


def written(expression: str) -> str:
    """A value as the bytes of its text: a collation may call two texts equal that are not."""
    return f"cast(convert({expression} using utf8mb4) as binary)"


def same_part(asked: str, column: Column, text: str) -> Bound:
    """Whether a part of a key is the one that this text stands for, asked so that an index can answer."""
    match column.base_type:
        case "text" | "varchar":
            return f"({asked} = %s and {written(asked)} = %s)", [text, text]
        case "bytea":
            return f"{asked} = %s", [bytes.fromhex(text.removeprefix("\\x"))]
        case "int2" | "int4" | "int8" | "numeric":
            return f"{asked} = %s", [Decimal(text)]
        case "float4" | "float8":
            return f"{asked} = %s", [float(text)]
        case _:
            return f"{asked} = %s", [text]


def _places(values: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def quoted(name: str) -> str:
    """A name as SQL wants it."""
    return doubled("`" + name.replace("`", "``") + "`")


def doubled(text: str) -> str:
    """SQL in which a percent sign is one, and no place for a value."""
    return text.replace("%", "%%")
