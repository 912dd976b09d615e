"""A compiled contract and Pydantic say the same of every row, and in the same words."""

import contextlib
import datetime as dt
import itertools
import math
import uuid
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal

import pyarrow as pa
import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic.types import UuidVersion

from ferry.contract import Contract, compile_contract

WIDTHS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
PATTERNS = [
    r"^[A-Z]{2}-\d+$",
    r"^\w+$",
    r"a|b",
    r"^.$",
    r"(?i)^straße$",
    r"\s",
    r"^$",
    r"[^\x00-\x7f]",
    r"x{0,3}$",
]
UNIT = {"s": 1, "ms": 10**3, "us": 10**6}
EPOCH = dt.datetime(1970, 1, 1)


class Status(Enum):
    """Text members."""

    OPEN = "open"
    PAID = "paid"
    ODD = "straße"


class Level(IntEnum):
    """Integer members."""

    LOW = 1
    HIGH = 300


def is_even_length(value: Any) -> Any:
    """A user's validator that may also fail by accident: `None` has no length."""
    if len(value) % 2:
        raise ValueError(f"{value!r} has an odd length")
    return value


def halved(value: Any) -> Any:
    """A user's validator that changes what it judges, which must not show."""
    return value[: len(value) // 2] if isinstance(value, str) else value


def differs_from_first(value: Any, info: ValidationInfo) -> Any:
    """A user's validator that looks at another column."""
    if value is not None and value in list(info.data.values()):
        raise ValueError("repeats an earlier column")
    return value


def bounded(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Bounds that leave something between them, or none at all."""
    low, high = sorted([draw(values), draw(values)])
    bounds = {}
    if draw(st.booleans()):
        bounds[draw(st.sampled_from(["ge", "gt"] if low != high else ["ge"]))] = low
    if draw(st.booleans()):
        bounds[draw(st.sampled_from(["le", "lt"] if low != high and "gt" not in bounds else ["le"]))] = high
    return bounds


def near(limits: list[Any], step: Any, lowest: Any, highest: Any) -> list[Any]:
    """The limits and their neighbours, within what the column can hold."""
    around = [limit + delta for limit in limits for delta in (-step, 0 * step, step)]
    return [value for value in around if lowest <= value <= highest]


@st.composite
def int_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """An int of any width with bounds and multiples."""
    dtype = draw(st.sampled_from(WIDTHS))
    bits = dtype.bit_width - (0 if "uint" in str(dtype) else 1)
    low, high = (0 if "uint" in str(dtype) else -(2**bits)), 2**bits - 1
    any_int = st.integers(-(2**70), 2**70) | st.integers(-5, 300)
    bounds = bounded(draw, any_int)
    if not bounds and draw(st.booleans()):
        bounds["multiple_of"] = draw(st.sampled_from([1, 2, 7, 100, 2**40]))
    edges = near([*bounds.values(), low, high, 0], 1, low, high)
    base = draw(st.sampled_from([int, float])) if "multiple_of" not in bounds else int
    if base is float:
        bounds = {rule: float(limit) for rule, limit in bounds.items()}
        if len(set(bounds.values())) < len(bounds):
            bounds.popitem()
    return Annotated[base, Field(**bounds)], dtype, st.sampled_from(edges) | st.integers(low, high)


@st.composite
def float_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """A float with bounds, infinities, NaN and minus zero."""
    bounds: dict[str, Any] = bounded(draw, st.floats(allow_nan=False, allow_infinity=False))
    if draw(st.booleans()):
        bounds["allow_inf_nan"] = draw(st.booleans())
    dtype = draw(st.sampled_from([pa.float64(), pa.float32()]))
    edges = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 0.1]
    edges += [bounds[rule] for rule in ("ge", "gt", "le", "lt") if rule in bounds]
    return Annotated[float, Field(**bounds)], dtype, st.sampled_from(edges) | st.floats()


@st.composite
def decimal_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """A Decimal with digits, places and bounds, in columns narrower and wider than 64 bits."""
    precision = draw(st.integers(1, 38))
    scale = draw(st.integers(0, precision))
    dtype = pa.decimal128(precision, scale)
    rules: dict[str, Any] = {}
    if draw(st.booleans()):
        rules["decimal_places"] = draw(st.integers(0, 12))
    if draw(st.booleans()):
        rules["max_digits"] = max(1, rules.get("decimal_places", 0)) + draw(
            st.sampled_from([0, 0, 1, 2, 5, 25])
        )
    if rules.get("max_digits", 99) - rules.get("decimal_places", 0) > 7 and draw(st.integers(0, 3)) == 0:
        rules |= {
            rule: Decimal(limit).scaleb(-draw(st.integers(0, 3)))
            for rule, limit in bounded(draw, st.integers(-(10**6), 10**6)).items()
        }
        rules = {
            rule: value for rule, value in rules.items() if rule != "le" or value >= rules.get("ge", value)
        }
        rules = {
            rule: value for rule, value in rules.items() if rule != "lt" or value > rules.get("ge", value - 1)
        }
        if "gt" in rules:
            rules.pop("le", None)
    top = 10**precision - 1
    ends = [10**power + delta for power in range(precision) for delta in (-1, 0, 1)]
    whole = [end for end in (0, top, *ends) if end <= top]
    units = st.sampled_from([*whole, *(-end for end in whole)]) | st.integers(-top, top)
    value = units.map(lambda unit: Decimal(f"{unit}e-{scale}"))
    return Annotated[Decimal, Field(**rules)], dtype, value


@st.composite
def text_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """Text with lengths in characters, patterns and trimming; combining and four-byte characters, NUL."""
    rules: dict[str, Any] = {}
    shortest, longest = sorted([draw(st.integers(0, 4)), draw(st.integers(0, 6))])
    if draw(st.booleans()):
        rules["min_length"] = shortest
    if draw(st.booleans()):
        rules["max_length"] = longest
    if draw(st.booleans()):
        rules["pattern"] = draw(st.sampled_from(PATTERNS))
    if draw(st.integers(0, 3)) == 0:
        rules["strip_whitespace"] = True
    if draw(st.integers(0, 5)) == 0:
        rules[draw(st.sampled_from(["to_lower", "to_upper"]))] = True
    dtype = draw(
        st.sampled_from(
            [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
        )
    )
    letters = st.sampled_from("ab A-Z1\n\t\x00\u00a0\u2003\u200b\u0301é\U0001d504ß\u017fK\x1c\x85")
    samples = [
        "",
        "AB-12",
        "ab",
        "STRASSE",
        "straße",
        "e\u0301",
        "\U0001d504\U0001d504",
        " a ",
        "\u2003",
        "a\n",
        "K",
    ]
    value = st.sampled_from(samples) | st.text(letters, max_size=8) | st.text(max_size=8)
    return Annotated[str, StringConstraints(**rules)], dtype, value


@st.composite
def email_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """Addresses, likely and unlikely."""
    part = st.text(st.sampled_from("ab1.-+_é@ "), min_size=1, max_size=5) | st.sampled_from(
        ["a" * 63, "a" * 64]
    )
    ends = [
        "com",
        "test",
        "local",
        "co",
        "c0m",
        "c",
        "localhost",
        "example",
        "invalid",
        "xn--p1ai",
        "arpa",
        "рф",
    ]
    domain = st.tuples(part, st.sampled_from(ends)).map(".".join) | st.sampled_from(ends)
    address = st.tuples(part, domain).map("@".join)
    odd = ["Bob <b@b.co>", "", "a@b", '"a b"@c.com', "a@[127.0.0.1]", "a.@b.com", "a@-b.com", "a@b--c.com"]
    declared: Any = EmailStr
    if draw(st.booleans()):
        declared = Annotated[EmailStr, Field(max_length=draw(st.integers(5, 80)))]
    return declared, pa.string(), address | st.sampled_from(odd)


@st.composite
def closed_list_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """Enums and literals, in columns of their own type and of another."""
    declared = draw(
        st.sampled_from(
            [
                Status,
                Level,
                Literal["a", "b"],
                Literal[1, 2, "a"],
                Literal[True],
                Literal["x", None],
                Status | int,
            ]
        )
    )
    dtype = draw(st.sampled_from([pa.string(), pa.int16(), pa.int64(), pa.bool_(), pa.float64()]))
    values: dict[Any, list[Any]] = {
        pa.string(): ["open", "OPEN", "straße", "a", "x", "", "1"],
        pa.int16(): [0, 1, 2, 300],
        pa.int64(): [0, 1, 2, 300, 2**62],
        pa.bool_(): [True, False],
        pa.float64(): [1.0, 2.5],
    }
    return declared, dtype, st.sampled_from(values[dtype])


@st.composite
def time_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """Dates, times, datetimes with and without zone, durations: from the first to the last, with bounds."""
    kind = draw(st.sampled_from(["date", "datetime", "aware", "time", "timedelta"]))
    unit = draw(st.sampled_from(["s", "ms", "us"]))
    micro = 10**6 // UNIT[unit]
    if kind == "date":
        values = st.dates() | st.sampled_from([dt.date.min, dt.date.max])
        return Annotated[dt.date, Field(**bounded(draw, st.dates()))], pa.date32(), values
    if kind == "datetime" and draw(st.integers(0, 3)) == 0:
        moments = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
        rules = bounded(draw, moments)
        edges = near(
            [(limit - EPOCH) // dt.timedelta(microseconds=1) * 1000 for limit in rules.values()],
            1,
            -(2**62),
            2**62,
        )
        return (
            Annotated[dt.datetime, Field(**rules)],
            pa.timestamp("ns"),
            st.sampled_from([*edges, 0, 999, -1]),
        )
    step = dt.timedelta(microseconds=micro)
    if kind == "datetime":
        rules = bounded(draw, st.datetimes())
        values = st.datetimes() | st.sampled_from([dt.datetime.min, dt.datetime.max, *beside(rules, step)])
        values = values.map(lambda value: value.replace(microsecond=value.microsecond // micro * micro))
        return Annotated[dt.datetime, Field(**rules)], pa.timestamp(unit), values
    if kind == "aware":
        whole = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29))
        rules = bounded(draw, whole.map(lambda value: value.replace(tzinfo=dt.UTC)))
        values = whole.map(lambda value: value.replace(tzinfo=dt.UTC)) | st.sampled_from(
            beside(rules, step) or [dt.datetime(2020, 3, 29, 1, tzinfo=dt.UTC)]
        )
        values = values.map(lambda value: value.replace(microsecond=value.microsecond // micro * micro))
        zone = draw(st.sampled_from(["UTC", "+02:00", "Europe/Berlin"]))
        return Annotated[dt.datetime, Field(**rules)], pa.timestamp(unit, zone), values
    if kind == "time":
        rules = bounded(draw, st.times())
        values = st.times() | st.sampled_from([dt.time.min, dt.time.max, *rules.values()])
        values = values.map(lambda value: value.replace(microsecond=value.microsecond // micro * micro))
        dtype = pa.time64("us") if unit == "us" else pa.time32(unit)
        return Annotated[dt.time, Field(**rules)], dtype, values
    spans = st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6))
    rules = bounded(draw, spans)
    values = (spans | st.sampled_from([dt.timedelta(0), *beside(rules, step)])).map(
        lambda value: value - value % step
    )
    return Annotated[dt.timedelta, Field(**rules)], pa.duration(unit), values


def beside(bounds: dict[str, Any], step: dt.timedelta) -> list[Any]:
    """Each bound, and one step of the column's unit to either side of it."""
    found = []
    for limit in bounds.values():
        for delta in (-step, 0 * step, step):
            with contextlib.suppress(OverflowError):
                found.append(limit + delta)
    return found


@st.composite
def list_field(draw: st.DrawFn) -> tuple[Any, pa.DataType, st.SearchStrategy[Any]]:
    """Lists of any of the others, with lengths."""
    declared, dtype, value = draw(scalar_field)
    rules: dict[str, Any] = {}
    shortest, longest = sorted([draw(st.integers(0, 2)), draw(st.integers(0, 3))])
    if draw(st.booleans()):
        rules = {"min_length": shortest, "max_length": longest}
    if draw(st.booleans()):
        declared = declared | None if declared is not None else None
    make = draw(st.sampled_from([pa.list_, pa.large_list]))
    return Annotated[list[declared], Field(**rules)], make(dtype), st.lists(st.none() | value, max_size=4)


simple_field = st.sampled_from(
    [
        (bool, pa.bool_(), st.booleans()),
        (uuid.UUID, pa.uuid(), st.uuids()),
        (Annotated[bytes, Field(max_length=2)], pa.binary(), st.binary(max_size=4)),
        (Annotated[bytes, Field(min_length=2)], pa.binary(3), st.binary(min_size=3, max_size=3)),
        (Any, pa.int64(), st.integers(0, 3)),
        (int | str, pa.string(), st.text("a1\x00", max_size=2)),
        (int | None | float, pa.float64(), st.floats()),
        (int, pa.string(), st.sampled_from(["1", ""])),
        (str, pa.int64(), st.integers(0, 3)),
        (bool, pa.int8(), st.integers(0, 1)),
        (Decimal, pa.string(), st.sampled_from(["1.5"])),
        (Decimal, pa.int64(), st.integers(0, 3)),
        (float, pa.decimal128(5, 1), st.sampled_from([Decimal("1.5")])),
        (dt.datetime, pa.date32(), st.dates()),
        (dt.date, pa.timestamp("us"), st.datetimes()),
        (set[int], pa.list_(pa.int64()), st.lists(st.integers(0, 3), max_size=2)),
        (None, pa.null(), st.none()),
        (None, pa.int64(), st.integers(0, 1)),
        (Annotated[uuid.UUID, UuidVersion(4)], pa.uuid(), st.uuids(version=4) | st.uuids(version=1)),
        (int | None, pa.null(), st.none()),
        (Annotated[str, AfterValidator(is_even_length)], pa.string(), st.text("ab", max_size=3)),
        (Annotated[Any, BeforeValidator(is_even_length)], pa.string(), st.text("ab", max_size=3)),
        (
            Annotated[str, BeforeValidator(halved), Field(max_length=1)],
            pa.string(),
            st.text("ab", max_size=4),
        ),
    ]
)
scalar_field = st.one_of(
    int_field(), float_field(), decimal_field(), text_field(), email_field(), closed_list_field(),
    time_field(), simple_field,
)  # fmt: skip
any_field = scalar_field | list_field()


@st.composite
def cases(draw: st.DrawFn) -> tuple[type[BaseModel], pa.RecordBatch]:
    """A model and a batch: columns nullable, aliased, missing or unexpected, sliced out of a larger batch."""
    fields = draw(st.lists(any_field, min_size=1, max_size=4))
    rows = draw(st.integers(1, 8))
    declared, names, arrays = {}, [], []
    for number, (annotation, dtype, value) in enumerate(fields):
        alias = f"C{number}" if draw(st.booleans()) else None
        default: Any = ...
        if draw(st.booleans()):
            annotation = annotation | None if annotation is not None else None
            default = draw(st.sampled_from([..., None]))
        declared[f"f{number}"] = (annotation, Field(default, validation_alias=alias))
        if draw(st.integers(0, 9)):
            nulls = draw(st.sampled_from([st.nothing(), st.none()]))
            values = draw(st.lists(nulls | value, min_size=rows + 2, max_size=rows + 2))
            names.append(alias or f"f{number}")
            arrays.append(as_array(as_stored(values, dtype), dtype))
    if draw(st.integers(0, 4)) == 0 or not names:
        names.append("undeclared")
        arrays.append(pa.array(["x"] * (rows + 2)))
    if draw(st.integers(0, 5)) == 0:
        last = f"f{len(fields) - 1}"
        declared[last] = (Annotated[declared[last][0], AfterValidator(differs_from_first)], declared[last][1])
    extra = draw(st.sampled_from(["ignore", "forbid", "allow"]))
    base = draw(st.sampled_from([Contract, BaseModel]))
    made = type(
        "Base", (base,), {"model_config": ConfigDict(strict=True, extra=extra), "__module__": __name__}
    )
    model = create_model("Generated", __base__=made, **declared)
    return model, pa.record_batch(arrays, names=names).slice(1, rows)


def as_stored(values: list[Any], dtype: pa.DataType) -> list[Any]:
    """Naive datetimes as distances from the epoch, which reach the years 1 and 9999 in every unit."""
    if not pa.types.is_timestamp(dtype) or dtype.tz is not None or dtype.unit == "ns":
        return values
    micro = [None if value is None else (value - EPOCH) // dt.timedelta(microseconds=1) for value in values]
    return [None if value is None else value * UNIT[dtype.unit] // 10**6 for value in micro]


def as_array(values: list[Any], dtype: pa.DataType) -> pa.Array:
    """An array of values, through the storage where pyarrow cannot build the type itself."""
    if pa.types.is_dictionary(dtype):
        return pa.array(values, dtype.value_type).dictionary_encode()
    if isinstance(dtype, pa.BaseExtensionType):
        raw = [None if value is None else value.bytes for value in values]
        return pa.ExtensionArray.from_storage(dtype, pa.array(raw, dtype.storage_type))
    is_list = pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
    item = dtype.value_type if is_list else None
    if is_list and (isinstance(item, pa.BaseExtensionType) or pa.types.is_dictionary(item)):
        flat = as_array([each for value in values for each in (value or [])], item)
        ends = [0, *itertools.accumulate(len(value or []) for value in values)]
        make = pa.ListArray if pa.types.is_list(dtype) else pa.LargeListArray
        width = pa.int32() if pa.types.is_list(dtype) else pa.int64()
        return make.from_arrays(pa.array(ends, width), flat)
    return pa.array(values, dtype)


def pydantics_errors(model: type[BaseModel], batch: pa.RecordBatch) -> list[tuple[int, str, str, str]]:
    """What Pydantic itself says, row by row: (row, column, rule, message)."""
    found = []
    for row, values in enumerate(batch.to_pylist()):
        try:
            model.model_validate(values, strict=True)
        except ValidationError as error:
            found += [(row, str(each["loc"][0]), each["type"], each["msg"]) for each in error.errors()]
        except TypeError as error:  # `is_even_length` of None
            found.append((row, "", "validator_raised", str(error)))
    return found


def ferrys_errors(model: type[BaseModel], batch: pa.RecordBatch) -> list[tuple[int, str, str, str]]:
    """The same of a compiled contract."""
    errors = compile_contract(model).judge(batch).errors.to_pylist()
    return [(each["row"], each["column"], each["rule"], each["message"]) for each in errors]


def assert_same_verdict(model: type[BaseModel], batch: pa.RecordBatch) -> None:
    """The errors and the rejected rows are Pydantic's.

    Of a row whose validator failed by itself Pydantic has no list, only the exception: there `validator_raised`
    must be among ours.
    """
    expected, got = pydantics_errors(model, batch), ferrys_errors(model, batch)
    crashed = {row for row, _, rule, _ in expected if rule == "validator_raised"}
    assert [each for each in got if each[0] not in crashed] == [e for e in expected if e[0] not in crashed]
    assert crashed <= {row for row, _, rule, _ in got if rule == "validator_raised"}
    assert compile_contract(model).judge(batch).rejected_rows.tolist() == sorted(
        {row for row, *_ in expected}
    )


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_every_row_gets_pydantics_verdict_in_pydantics_words(
    case: tuple[type[BaseModel], pa.RecordBatch],
) -> None:
    """Accepted rows, rejected rows and the list of errors equal Pydantic's on `batch.to_pylist()`."""
    assert_same_verdict(*case)


KINDS = {
    "int": int_field(),
    "float": float_field(),
    "decimal": decimal_field(),
    "text": text_field(),
    "email": email_field(),
    "closed list": closed_list_field(),
    "time": time_field(),
    "list": list_field(),
    "other": simple_field,
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_column_gets_pydantics_verdict(kind: str, data: st.DataObject) -> None:
    """Each kind of column by itself, with many values: the rules that Pydantic breaks are the rules broken here."""
    annotation, dtype, value = data.draw(KINDS[kind])
    values = data.draw(st.lists(value, min_size=1, max_size=12))
    batch = pa.record_batch([as_array(as_stored(values, dtype), dtype)], names=["f"])
    model = create_model("One", __base__=Contract, f=(annotation, ...))
    assert_same_verdict(model, batch)


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (Annotated[Decimal, Field(max_digits=2, decimal_places=2)], ["0", "0.5", "0.25", "1", "-0.99"]),
        (Annotated[Decimal, Field(max_digits=1, decimal_places=1)], ["0", "1", "-1"]),
        (
            Annotated[Decimal, Field(max_digits=20)],
            ["18446744073709551617", "1e19", "36893488147419103232e2"],
        ),
        (Annotated[Decimal, Field(le=5)], ["18446744073709551617", "-18446744073709551617", "5", "5.01"]),
        (Annotated[Decimal, Field(max_digits=30)], ["123456789012345678901234567.1234567"]),
    ],
)
def test_decimals_at_the_edges_get_pydantics_verdict(declared: Any, values: list[str]) -> None:
    """Zero where no digit may stand before the point, and numbers whose low 64 bits look harmless."""
    scale = 7 if any("." in value for value in values) else 0
    column = pa.array([Decimal(value) for value in values], pa.decimal128(38, scale))
    batch = pa.record_batch({"f": column})
    model = create_model("One", __base__=Contract, f=(declared, ...))
    assert ferrys_errors(model, batch) == pydantics_errors(model, batch)


def test_addresses_at_special_and_odd_domains_get_pydantics_verdict() -> None:
    """Special-use domains are no domains to `EmailStr`, whatever their case; labels and lengths have limits."""
    domains = [*SPECIAL_USE_DOMAIN_NAMES, *(f"b.{name.upper()}" for name in SPECIAL_USE_DOMAIN_NAMES)]
    domains += [
        "b.co",
        "b.c",
        "b.c0",
        "b-.co",
        "-b.co",
        "b--b.co",
        "b_b.co",
        "b..co",
        "b.co.",
        "1.co",
        "xn--p1ai.co",
    ]
    locals_ = [
        "a",
        "a.b",
        ".a",
        "a.",
        "a..b",
        "a+b",
        "a_b",
        "a-b",
        "A",
        "a b",
        "",
        "é",
        "a" * 64,
        "a" * 65,
        "a'b",
    ]
    batch = pa.record_batch({"f": [f"{local}@{domain}" for local in locals_ for domain in domains]})
    model = create_model("One", __base__=Contract, f=(EmailStr, ...))
    assert ferrys_errors(model, batch) == pydantics_errors(model, batch)
