"""Records to Arrow without coercion."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from ferry.errors import DeclarationError, PermanentError
from ferry.sources.shape import Field, Shape


def shaped(kind: str, value: Any, *, parse: bool = False) -> Any:
    """The one value, after it went through a shape."""
    batch = Shape([Field("x", kind, parse=parse)]).batch([{"x": value}], "here")
    return batch.column("x")[0].as_py()


@pytest.mark.parametrize(
    ("kind", "value", "want"),
    [
        ("int", 9_007_199_254_740_993, 9_007_199_254_740_993),
        ("decimal(20,0)", 2**63, Decimal(2**63)),
        ("decimal(12,2)", Decimal("12.5"), Decimal("12.50")),
        ("decimal(12,2)", 12, Decimal("12.00")),
        ("number", Decimal("12.50"), "12.50"),
        ("number", 7, "7"),
        ("text", "007", "007"),
        ("bool", True, True),
        ("json", {"b": [Decimal("1.10")], "a": None}, '{"a": null, "b": [1.10]}'),
        ("json", "text", '"text"'),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("timestamp", "2024-02-29T12:00:00+02:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        ("datetime", "2024-02-29 12:00:00", datetime(2024, 2, 29, 12)),
        ("int", None, None),
    ],
)
def test_a_value_of_its_type_comes_as_it_is(kind: str, value: Any, want: Any) -> None:
    """Every digit, zero and zone is kept."""
    assert shaped(kind, value) == want


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", "7"), ("int", True), ("int", Decimal("7.0")), ("int", 2**63), ("text", 7), ("bool", 1),
        ("bool", "true"),
        ("decimal(12,2)", Decimal("1.234")), ("decimal(4,2)", 12345), ("decimal(12,2)", "1.00"),
        ("decimal(12,2)", True), ("number", "7"), ("date", "29.02.2024"), ("date", "2024-02-30"),
        ("timestamp", "2024-02-29T12:00:00"), ("datetime", "2024-02-29T12:00:00Z"), ("timestamp", 1_700_000_000),
        ("text", {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_said(kind: str, value: Any) -> None:
    """No number from text, no text from a number, no rounding, no guessed zone."""
    with pytest.raises(PermanentError, match=r"here: record 1: x is .*, which is not"):
        shaped(kind, value)


@pytest.mark.parametrize(
    ("kind", "text", "want"),
    [
        ("int", "-7", -7),
        ("decimal(12,2)", "1.5", Decimal("1.50")),
        ("bool", "T", True),
        ("number", "1.50", "1.50"),
    ],
)
def test_text_is_parsed_where_it_is_declared(kind: str, text: str, want: Any) -> None:
    """`parse` is a declared rule."""
    assert shaped(kind, text, parse=True) == want


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int", "007"), ("int", "1.0"), ("int", " 1"), ("int", "१"), ("decimal(12,2)", "NaN"), ("decimal(12,2)", "1,5"),
     ("bool", "yes"), ("number", "Infinity")],
)  # fmt: skip
def test_text_that_is_not_exactly_the_type_is_said(kind: str, text: str) -> None:
    """A leading zero, a blank or another script is no number to be guessed at."""
    with pytest.raises(PermanentError):
        shaped(kind, text, parse=True)


def test_a_type_that_changes_between_pages_is_said() -> None:
    """Without declared fields the first pages tell the types; what was null may become anything."""
    shape = Shape()
    assert shape.batch([{"a": 1, "b": None}], "page 1").schema.field("b").type == pa.null()
    assert shape.batch([{"a": 2, "b": "x"}], "page 2").schema.field("b").type == pa.string()
    with pytest.raises(PermanentError, match=r"page 3: field a is not of one type: int, text"):
        shape.batch([{"a": "2", "b": "x"}], "page 3")


def test_what_was_learned_goes_on_from_a_checkpoint() -> None:
    """A restored shape misses the field that was there before."""
    first, second = Shape(), Shape()
    first.batch([{"a": 1, "b": 1}], "page 1")
    second.restore(first.as_dict())
    with pytest.raises(PermanentError, match="fields are gone from the rows: b"):
        second.batch([{"a": 1}], "page 2")


def test_an_unknown_type_is_said_with_the_known_ones() -> None:
    """The declaration's place and the words to use."""
    with pytest.raises(DeclarationError, match=r"fields.x: there is no type 'varchar'.*text"):
        shaped("varchar", "x")
