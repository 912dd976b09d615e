"""Text is read as declared, whole, or reported as it was."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from ferry.errors import DeclarationError
from ferry.parse import Reader, column_as
from ferry.value_rules import ParseRule

UNREAD = object()


def reader(rule: Any) -> Reader:
    """A reader of one column by a rule as YAML has it."""
    declared = ParseRule.model_validate(rule)
    return Reader(column_as("v", declared.type, "here"), declared, "here: parse.v")


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        ("integer", {"1": 1, "-2": -2, "+3": 3, "007": 7, "1.0": UNREAD, "9223372036854775808": UNREAD, "": UNREAD,
                     "1e3": UNREAD, "٣": UNREAD, " 1": UNREAD}),
        ({"type": "integer", "thousands": "."}, {"1.234.567": 1234567, "12.34": UNREAD, "1234": 1234}),
        ({"type": "numeric(6,2)", "decimal": ",", "thousands": "."},
         {"1.234,50": Decimal("1234.50"), "1234,5": Decimal("1234.5"), "-0,10": Decimal("-0.1"),
          "1,500": Decimal("1.50"), "0001,5": Decimal("1.5"), "1,234.5": UNREAD, "1.5": UNREAD, "12345,00": UNREAD,
          "0,005": UNREAD}),
        ("numeric(2,2)", {"0.5": Decimal("0.5"), "-.5": UNREAD, "1.5": UNREAD, "0": Decimal(0)}),
        ("numeric(3,0)", {"120": Decimal(120), "100.00": Decimal(100), "100.5": UNREAD, "1000": UNREAD}),
        ("numeric", {"1.500": "1.500", "+1": "1", "9" * 50: "9" * 50, "1e5": UNREAD, "NaN": UNREAD}),
        ("float", {"1.5": 1.5, "-2e3": -2000.0, "1e400": UNREAD, "abc": UNREAD, "nan": UNREAD}),
        ({"type": "boolean", True: ["ja", "x"], False: "nein"}, {"ja": True, "x": True, "nein": False, "Ja": UNREAD}),
        ("boolean", {"true": True, "false": False, "1": UNREAD}),
        ("date", {"2020-02-29": dt.date(2020, 2, 29), "2021-02-29": UNREAD, "2020-2-9": UNREAD, "20200229": UNREAD,
                  "0000-01-01": UNREAD, "0001-01-01": dt.date(1, 1, 1)}),
        ({"type": "date", "format": "%d.%m.%Y"},
         {"29.02.2020": dt.date(2020, 2, 29), "1.2.2020": dt.date(2020, 2, 1), "31.02.2020": UNREAD, "1.2.20": UNREAD}),
        ("timestamp", {"2020-01-01 10:00:00": dt.datetime(2020, 1, 1, 10), "2020-01-01T10:00:00Z": UNREAD,
                       "2020-01-01T10:00:00.123456": dt.datetime(2020, 1, 1, 10, 0, 0, 123456),
                       "2020-01-01T10:00:00.1234567": UNREAD}),
        ({"type": "timestamptz", "zone": "Europe/Berlin"},
         {"2020-07-01 10:00:00": dt.datetime(2020, 7, 1, 8, tzinfo=dt.UTC), "2020-10-25 02:30:00": UNREAD,
          "2020-03-29 02:30:00": UNREAD}),
        ({"type": "timestamptz", "format": "%Y-%m-%d %H:%M:%S%z"},
         {"2020-07-01 10:00:00+02:00": dt.datetime(2020, 7, 1, 8, tzinfo=dt.UTC), "2020-07-01 10:00:00": UNREAD}),
        ("time", {"10:11:12.5": dt.time(10, 11, 12, 500000), "24:00:00": UNREAD}),
        ({"trim": True, "empty_is_null": True, None: ["N/A"]}, {" a ": "a", "  ": None, "N/A": None, "n/a": "n/a"}),
        ({"type": "integer", "empty_is_null": True}, {"": None, " ": UNREAD, "1": 1}),
        ("jsonb", {'{"b": 1, "a": [1.50]}': '{"b": 1, "a": [1.50]}', "1" * 5_000: "1" * 5_000, "null": "null",
                   "NaN": UNREAD, "": UNREAD, "{'a': 1}": UNREAD, "[1,]": UNREAD, "[" * 100_000: UNREAD}),
    ],
)  # fmt: skip
def test_a_text_is_read_whole_or_not_at_all(rule: Any, texts: dict[str, Any]) -> None:
    """Each text gives the value that its rule says; what the rule does not cover is unread, and NULL stays NULL."""
    read = reader(rule).read(pa.chunked_array([pa.array([*texts, None], pa.string())]))
    values = [
        UNREAD if unread else value
        for value, unread in zip(read.values.to_pylist(), read.unread.tolist(), strict=True)
    ]
    assert values == [*texts.values(), None]


@pytest.mark.parametrize("type_", ["text", "integer", "date", "boolean", "json", "numeric(4,2)"])
def test_bytes_that_are_no_text_are_unread(type_: str) -> None:
    """A database without an encoding may hold them; no rule reads them, and the others are read."""
    given = pa.chunked_array([pa.array([b"\xe9", b"1", None, b"caf\xe9"]).view(pa.string())])
    assert reader(type_).read(given).unread.tolist() == [True, type_ in ("date", "boolean"), False, True]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("intger", "Did you mean 'integer'?"),
        ("numeric(40,2)", "Up to 38 digits"),
        ("numeric(2,3)", "cannot be"),
        ({"type": "numeric", "decimal": ",", "thousands": ","}, "the same character"),
        ({"type": "integer", "format": "%d"}, "`format` says nothing of a integer"),
        ("timestamptz", "Add `zone: Europe/Berlin`"),
        ({"type": "timestamp", "zone": "UTC"}, "a timestamp without a zone takes neither"),
        ({"type": "timestamptz", "zone": "Europe/Berln"}, "no zone 'Europe/Berln'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: Any, words: str) -> None:
    """Before anything is read, with what to write instead."""
    with pytest.raises(DeclarationError) as refused:
        reader(rule)
    assert words in str(refused.value)
