"""What a contract does with bad input, personal data, Python validators and unexpected columns."""

import datetime as dt
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    EmailStr,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from ferry.contract import Contract, Int16, Personal, Verdict, compile_contract
from ferry.contract.backtracking import cost_of
from ferry.contract.verdict import ERRORS_SCHEMA
from ferry.errors import DeclarationError

NUMERIC = pa.opaque(pa.string(), "numeric", "PostgreSQL")


def contract_of(**fields: Any) -> type[Contract]:
    """A contract with these fields: a type, or a type and a `Field`."""
    declared = {name: kind if isinstance(kind, tuple) else (kind, ...) for name, kind in fields.items()}
    return create_model("Row", __base__=Contract, **declared)


def judged(model: type[BaseModel], **columns: Any) -> Verdict:
    """The verdict over one batch of these columns."""
    return compile_contract(model).judge(pa.record_batch(columns))


def broken(verdict: Verdict) -> list[tuple[int, str, str]]:
    """Row, column and rule of every error."""
    return [(each["row"], each["column"], each["rule"]) for each in verdict.errors.to_pylist()]


def text_with_broken_utf8() -> pa.Array:
    """`fine`, then two bytes that are no UTF-8."""
    return pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 4, 6], np.int32)), pa.py_buffer(b"fine\xff\xfe")
    )


def numeric(*texts: str | None) -> pa.Array:
    """A column as ADBC hands PostgreSQL's `numeric` over."""
    return pa.ExtensionArray.from_storage(NUMERIC, pa.array(texts, pa.string()))


def test_importing_a_contract_loads_neither_arrow_nor_polars_nor_dagster() -> None:
    """A contract module imports in a moment: judging is loaded when somebody judges."""
    code = "import sys, ferry.contract; print(*{'pyarrow', 'polars', 'dagster', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_empty_batch_has_nothing_to_reject() -> None:
    """No rows, no errors, and the table of errors has its schema all the same."""
    verdict = judged(contract_of(id=int), id=pa.array([], pa.int64()))
    assert verdict.rejected_rows.tolist() == []
    assert verdict.errors.schema == ERRORS_SCHEMA


def test_errors_are_ordered_by_row_then_column_and_counted_by_rule() -> None:
    """Row positions ascend, the columns of one row stand in the contract's order, counts are rows a rule."""
    model = contract_of(id=Annotated[int, Field(gt=0)], code=Annotated[str, Field(max_length=2)])
    verdict = judged(model, code=["long", "ok", "long"], id=[0, 1, -1])
    assert broken(verdict) == [
        (0, "id", "greater_than"),
        (0, "code", "string_too_long"),
        (2, "id", "greater_than"),
        (2, "code", "string_too_long"),
    ]
    assert verdict.counts == {"id: greater_than": 2, "code: string_too_long": 2}
    assert verdict.rejected_rows.dtype == np.int64


def test_invalid_utf8_is_rejected_with_its_bytes_written_out() -> None:
    """Broken text is one rejected value with its place, not an exception that takes the batch."""
    verdict = judged(
        contract_of(name=str, other=Any), name=text_with_broken_utf8(), other=text_with_broken_utf8()
    )
    assert broken(verdict) == [(1, "name", "invalid_utf8"), (1, "other", "invalid_utf8")]
    first = verdict.errors.to_pylist()[0]
    assert first["value"] == r"\xff\xfe"
    assert "not valid UTF-8" in first["message"]


def test_invalid_utf8_is_rejected_row_by_row_and_inside_lists_too() -> None:
    """The same holds where a rule of the whole row is in play, and one level down."""

    class Row(Contract):
        name: str
        tags: list[str]

        @model_validator(mode="after")
        def accepts(self) -> "Row":
            return self

    tags = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), text_with_broken_utf8())
    verdict = judged(Row, name=text_with_broken_utf8(), tags=tags)
    assert broken(verdict) == [(1, "name", "invalid_utf8"), (1, "tags", "invalid_utf8")]


def test_nul_is_rejected_in_text_and_the_error_can_be_stored_in_postgresql() -> None:
    """PostgreSQL text holds no NUL: neither does what a contract accepts, nor the error about it."""
    verdict = judged(contract_of(name=str, note=str | None), name=["a\x00b", "fine"], note=[None, "\x00"])
    assert broken(verdict) == [(0, "name", "nul_character"), (1, "note", "nul_character")]
    assert verdict.errors["value"].to_pylist() == [r"a\x00b", r"\x00"]


TO_2000 = 946_684_800_000_000


@pytest.mark.parametrize(
    ("declared", "column", "value"),
    [
        (dt.date, pa.array([2**31 - 1 + 10_957 - 2**32], pa.int32()).cast(pa.date32()), "infinity"),
        (dt.datetime, pa.array([TO_2000 + 2**63 - 1 - 2**64], pa.timestamp("us")), "infinity"),
        (dt.datetime, pa.array([TO_2000 - 2**63], pa.timestamp("us", "UTC")), "-infinity"),
        (dt.date, pa.array([6_585_365], pa.int32()).cast(pa.date32()), "20000-02-13"),
        (dt.time, pa.array([86_400_000_000], pa.time64("us")), "24:00:00"),
    ],
)
def test_a_date_that_python_cannot_hold_is_rejected_by_name(
    declared: Any, column: pa.Array, value: str
) -> None:
    """Infinite dates, the year 20000 and 24:00 are legal in PostgreSQL; the error says which of them it met.

    The infinities are as the driver delivers them: wrapped around, because it counts from another year.
    """
    verdict = judged(contract_of(day=declared), day=column)
    assert broken(verdict) == [(0, "day", "out_of_range")]
    assert verdict.errors["value"].to_pylist() == [value]


def test_an_infinite_date_passes_where_the_contract_asks_for_nothing() -> None:
    """`Any` lets a value through that only the database can hold."""
    column = pa.array([2**31 - 1], pa.int32()).cast(pa.date32())
    assert broken(judged(contract_of(day=Any), day=column)) == []


def test_a_huge_value_is_judged_and_only_its_beginning_is_quoted() -> None:
    """A value of 100 MB neither hangs the pattern nor lands in the error."""
    model = contract_of(note=Annotated[str, Field(pattern="^(a+)+$")])
    verdict = judged(model, note=["a" * 100_000_000 + "!", "aaa"])
    assert broken(verdict) == [(0, "note", "string_pattern_mismatch")]
    (value,) = verdict.errors["value"].to_pylist()
    assert value == "a" * 200 + "… (100,000,001 characters)"


def test_five_thousand_columns_are_judged_in_seconds() -> None:
    """A wide table is slow at worst, never stuck: 5,000 columns of 1,000 rows, one bad value in each."""
    names = [f"c{number}" for number in range(5_000)]
    model = create_model(
        "Wide", __base__=Contract, **{name: (Annotated[int, Field(ge=0)], ...) for name in names}
    )
    values = np.arange(1_000)
    values[7] = -1
    batch = pa.record_batch([pa.array(values)] * 5_000, names=names)
    began = time.perf_counter()
    verdict = compile_contract(model).judge(batch)
    assert time.perf_counter() - began < 60
    assert verdict.rejected_rows.tolist() == [7]
    assert verdict.errors.num_rows == 5_000


def test_a_contract_that_meets_the_wrong_table_keeps_few_errors_a_row_and_counts_all() -> None:
    """5,000 missing columns in 1,000 rows are five million errors: few are kept, some for every row."""
    names = [f"c{number}" for number in range(5_000)]
    model = create_model("Wide", __base__=Contract, **dict.fromkeys(names, (int, ...)))
    verdict = judged(model, other=np.arange(1_000))
    assert verdict.errors.num_rows == 250_000
    assert np.unique(verdict.errors["row"].to_numpy()).tolist() == list(range(1_000))
    assert len(verdict.rejected_rows) == 1_000
    assert set(verdict.counts.values()) == {1_000}
    assert len(verdict.counts) == 5_000


def test_a_row_that_fails_after_the_limit_of_errors_is_rejected_all_the_same() -> None:
    """Rows with very many errors crowd out other errors, never another row."""
    natural = Annotated[int, Field(ge=0)]
    model = contract_of(many=list[natural], late=natural, last=natural)
    bad_but_one, bad_one = [-1] * 999 + [0], [0] * 999 + [-1]
    verdict = judged(model, many=[[-1] * 1_000] * 999 + [[]], late=bad_but_one, last=bad_one)
    assert verdict.rejected_rows.tolist() == list(range(1_000))
    assert verdict.counts == {
        f"{name}: greater_than_equal": rows for name, rows in [("many", 999), ("late", 999), ("last", 1)]
    }
    assert verdict.errors.num_rows <= 250_000 + 1_000
    assert verdict.errors.to_pylist()[-1]["column"] == "last"


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        (re.compile("^(a+)+$"), "can backtrack for ever"),
        (re.compile(r"^(\w+\s?)*$"), "can backtrack for ever"),
        (re.compile(r"^(?:a?a)+$"), "can backtrack for ever"),
        (re.compile(r"^(a|ab)(c|bcd)*(?=d)$"), "can backtrack for ever"),
        (re.compile(r"(?!x)a+$"), "max_length of at most 10000"),
    ],
)
def test_a_pattern_that_could_run_for_ever_is_refused_with_its_field(
    pattern: re.Pattern[str], rule: str
) -> None:
    """Python's engine has no bound of its own, so the contract must have one before any row is read."""
    model = contract_of(id=int, code=Annotated[str, Field(pattern=pattern)])
    with pytest.raises(DeclarationError, match=re.escape("code: the pattern")) as refused:
        compile_contract(model)
    assert rule in str(refused.value)


def test_a_bounded_pattern_of_python_is_judged_by_pydantic() -> None:
    """Look-around is allowed where its time is bounded."""
    model = contract_of(code=Annotated[str, Field(pattern=re.compile(r"^(?!xx)[a-z]+$"))])
    assert broken(judged(model, code=["ab", "xxa"])) == [(1, "code", "string_pattern_mismatch")]


@pytest.mark.parametrize(
    ("pattern", "power"),
    [
        ("^a+$", 1),
        ("a+$", 2),
        ("^a*a*b$", 2),
        ("abc", 1),
        ("^(?!x)[a-z]{2,40}-[0-9]+$", 2),
        ("^(a+)+$", None),
    ],
)
def test_the_time_of_a_pattern_is_bounded_by_a_power_of_the_length(pattern: str, power: int | None) -> None:
    """One for each repetition, and one more where the match may begin anywhere."""
    assert cost_of(pattern)[0] == power


class Nothing(Enum):
    """No members."""


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (Annotated[int, Field(gt=5, lt=3)], "no value is both gt 5 and lt 3"),
        (Annotated[int, Field(gt=5, lt=6)], "no value is both gt 5 and lt 6"),
        (Annotated[int, Field(ge=5, le=6, multiple_of=4)], "no multiple of 4 is both ge 5 and le 6"),
        (Annotated[float, Field(ge=float("nan"))], "no value is ge NaN"),
        (
            Annotated[Decimal, Field(max_digits=2, decimal_places=3)],
            "decimal_places 3 is more than max_digits 2",
        ),
        (
            Annotated[Decimal, Field(max_digits=3, ge=1000)],
            "ge 1000 needs more digits than max_digits 3 allows",
        ),
        (Annotated[str, Field(min_length=3, max_length=2)], "min_length 3 is more than max_length 2"),
        (list[Annotated[str, Field(min_length=3, max_length=2)]], "min_length 3 is more than max_length 2"),
        (Annotated[int, Field(max_length=2)], "int has no length"),
        (
            Annotated[
                dt.datetime, Field(ge=dt.datetime(2020, 1, 1), le=dt.datetime(2021, 1, 1, tzinfo=dt.UTC))
            ],
            "ge 2020-01-01 00:00:00 and le 2021-01-01 00:00:00+00:00 cannot be compared",
        ),
        (Nothing, "the Enum Nothing has no members"),
        ((int, None), "its own rules do not accept the default None"),
        ((Annotated[int, Field(gt=0)], 0), "its own rules do not accept the default 0"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused_by_name(declared: Any, said: str) -> None:
    """No row can satisfy it, so nothing is read: the message names the model, the field and the rules."""
    with pytest.raises(DeclarationError) as refused:
        compile_contract(contract_of(id=int, bad=declared))
    assert f"bad: {said}" in str(refused.value)
    assert "Row" in str(refused.value)


def test_what_is_no_model_is_refused() -> None:
    """A class that is not Pydantic's is named, with what to do."""
    with pytest.raises(DeclarationError, match=r"is no contract.*Inherit from"):
        compile_contract(dict)


def test_a_batch_with_two_columns_of_one_name_is_refused() -> None:
    """Which of the two would be judged is anybody's guess, so neither is."""
    batch = pa.record_batch([pa.array([1]), pa.array([2])], names=["id", "id"])
    with pytest.raises(DeclarationError, match="more than one column id"):
        compile_contract(contract_of(id=int)).judge(batch)


class Tier(Enum):
    """Text and integer members."""

    BASIC = "basic"
    ONE = 1


def test_an_enum_is_judged_by_the_values_of_its_members_type_included() -> None:
    """No source delivers Python objects; `1` is a member, `"1"` and `True` are not."""
    model = contract_of(tier=Tier)
    assert broken(judged(model, tier=["basic", "1", "BASIC"])) == [(1, "tier", "enum"), (2, "tier", "enum")]
    assert broken(judged(model, tier=[1, 2])) == [(1, "tier", "enum")]
    assert broken(judged(model, tier=[True])) == [(0, "tier", "enum")]
    assert model.model_validate({"tier": "basic"}).tier is Tier.BASIC


@settings(deadline=None)
@given(
    st.lists(
        st.none()
        | st.decimals(allow_nan=False, allow_infinity=False)
        | st.sampled_from(
            [
                "NaN",
                "0.00",
                "-0",
                "-0.01",
                "0.01",
                "0.1",
                "1",
                "1.00",
                "1.10",
                "12.3400",
                "99.990",
                "Infinity",
                "-1",
                "0.990000000000",
                "1e5",
                "123456789012345678901234567890",
                "0.10",
                "99.99",
                "100",
            ]
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(
        [
            Decimal,
            Annotated[Decimal, Field(ge=0, max_digits=4, decimal_places=2)],
            Annotated[Decimal, Field(max_digits=30)],
            Annotated[Decimal, Field(decimal_places=0)],
            Annotated[Decimal, Field(max_digits=3)],
            Annotated[Decimal, Field(max_digits=2, decimal_places=2)],
            Annotated[Decimal, Field(ge=-1, lt=Decimal("99.99"))],
            Annotated[Decimal, Field(gt=0, le=1)],
            Annotated[Decimal, Field(gt=Decimal("0.05"), allow_inf_nan=True)],
        ]
    ),
    st.booleans(),
)
def test_postgresqls_numeric_is_judged_as_the_decimal_that_it_is(
    values: list[Any], declared: Any, many: bool
) -> None:
    """`numeric` travels as text inside an extension type; the verdict is that on the Decimal."""
    texts = [None if value is None else str(value) for value in values]
    kind, column = declared, numeric(*texts)
    rows = [None if text is None else Decimal(text) for text in texts]
    if many:
        kind = list[declared]
        column = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), column)
        rows = [rows]
    model = contract_of(total=kind)
    expected = []
    for row, value in enumerate(rows):
        try:
            model.model_validate({"total": value})
        except ValidationError as error:
            expected += [(row, "total", each["type"]) for each in error.errors()]
    assert broken(judged(model, total=column)) == expected


def test_plain_text_is_no_decimal() -> None:
    """Only a declared parse rule turns text into numbers."""
    assert broken(judged(contract_of(total=Decimal), total=["1.50"])) == [(0, "total", "is_instance_of")]


def test_a_validator_in_python_runs_once_a_distinct_value() -> None:
    """A column with a validator costs its distinct values, not its rows; NULL is one of them."""
    seen: list[str | None] = []

    def known(value: str | None) -> str | None:
        seen.append(value)
        if value == "XX":
            raise ValueError("unknown country")
        return value

    model = contract_of(country=Annotated[str | None, AfterValidator(known)])
    verdict = judged(model, country=pa.array(["DE", "XX", None, "DE"] * 10_000))
    assert sorted(map(str, seen)) == ["DE", "None", "XX"]
    assert len(verdict.rejected_rows) == 10_000
    assert set(verdict.errors["message"].to_pylist()) == {"Value error, unknown country"}


def test_minus_zero_and_zero_are_distinct_values() -> None:
    """A validator may tell them apart, so they are shown to it one by one."""

    def positive(value: float) -> float:
        if np.signbit(value):
            raise ValueError("negative")
        return value

    model = contract_of(x=Annotated[float, AfterValidator(positive)])
    assert broken(judged(model, x=[0.0, -0.0])) == [(1, "x", "value_error")]


def test_a_validator_that_crashes_rejects_its_rows_and_says_so() -> None:
    """A bug in a rule takes no other row with it, and its rows can be replayed after the fix."""

    def buggy(value: int) -> int:
        return 1 // value

    verdict = judged(contract_of(n=Annotated[int, AfterValidator(buggy)]), n=[1, 0])
    assert broken(verdict) == [(1, "n", "validator_raised")]
    assert "ZeroDivisionError" in verdict.errors["message"].to_pylist()[0]


class Period(Contract):
    """A rule that looks at two columns, and one that is about one."""

    starts: dt.date
    ends: dt.date
    owner: Annotated[str, Personal(), Field(max_length=5)]

    @model_validator(mode="after")
    def in_order(self) -> "Period":
        """The end is not before the start."""
        if self.ends < self.starts:
            raise ValueError(f"{self.owner} ends before the start")
        return self


def test_a_rule_of_the_whole_row_is_judged_row_by_row_and_keeps_secrets() -> None:
    """Its error belongs to `*`; the row is not quoted, and a message that could name a person is withheld."""
    days = pa.array([1, 2], pa.int32()).cast(pa.date32())
    verdict = judged(Period, starts=days, ends=days.take(pa.array([1, 0])), owner=["Ada", "Bob"])
    assert broken(verdict) == [(1, "*", "value_error")]
    (error,) = verdict.errors.to_pylist()
    assert error["value"] is None
    assert "Bob" not in error["message"]
    ways = {(path.column, path.rule): path.way for path in compile_contract(Period).explain()}
    assert ways["*", "Period.in_order"] == "row by row"
    assert ways["starts", "date"] == "row by row"


def secretive(value: str) -> str:
    """A validator whose message repeats the value."""
    if "secret" in value:
        raise ValueError(f"{value} is not allowed")
    return value


def crashing(value: str) -> str:
    """A validator whose crash repeats the value."""
    raise KeyError(value)


@pytest.mark.parametrize(
    "declared",
    [
        Annotated[EmailStr, Personal()],
        Annotated[EmailStr, Personal()] | None,
        Annotated[str, Personal(), Field(max_length=3)],
        Annotated[str, AfterValidator(secretive), Personal()],
        Annotated[str, AfterValidator(crashing), Personal()],
        list[Annotated[str, AfterValidator(secretive), Personal()]],
        Annotated[dict[str, int], Personal()],
        Annotated[Tier, Personal()],
        Annotated[Literal["a"], Personal()],
    ],
)
def test_a_personal_value_appears_nowhere_in_its_errors(declared: Any) -> None:
    """However the mark is nested, the value is `***` and no message, path or rule repeats it."""
    verdict = judged(contract_of(who=declared), who=[["secret"]] if "list" in str(declared) else ["secret@"])
    assert len(verdict.rejected_rows) == 1
    assert set(verdict.errors["value"].to_pylist()) == {"***"}
    assert "secret" not in str(verdict.errors.to_pylist())
    assert compile_contract(contract_of(who=declared)).fields[0].personal


def test_the_value_of_a_column_that_nobody_declared_is_masked() -> None:
    """It could be anything, so an `extra` error names the column and shows nothing of it."""
    model = create_model("Row", __base__=Contract, __cls_kwargs__={"extra": "forbid"}, id=(int, ...))
    verdict = judged(model, id=[1], ssn=["078-05-1120"])
    assert broken(verdict) == [(0, "ssn", "extra_forbidden")]
    assert verdict.errors["value"].to_pylist() == ["***"]


def test_a_null_is_shown_as_null_even_when_personal() -> None:
    """That a value is missing is no secret, and the reader needs it."""
    verdict = judged(contract_of(who=Annotated[str, Personal()]), who=pa.array([None], pa.string()))
    assert verdict.errors["value"].to_pylist() == [None]


@pytest.mark.parametrize("names", [["x"], ["y"], ["f"], ["x", "y"], ["y", "x", "f"], ["other"]])
@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("extra", ["ignore", "forbid"])
def test_a_field_reads_the_column_that_pydantic_would_read(
    names: list[str], by_name: bool, extra: Any
) -> None:
    """Aliases, several of them, the field's own name, and what is left over as a forbidden extra."""

    class Row(Contract):
        model_config = ConfigDict(extra=extra, validate_by_name=by_name, validate_by_alias=True)
        f: int = Field(validation_alias=AliasChoices("x", "y"))

    batch = pa.record_batch(
        [pa.array([number]) if name != "y" else pa.array(["text"]) for number, name in enumerate(names)],
        names=names,
    )
    expected = []
    try:
        Row.model_validate(batch.to_pylist()[0])
    except ValidationError as error:
        expected = sorted(each["type"] for each in error.errors())
    assert sorted(rule for _, _, rule in broken(compile_contract(Row).judge(batch))) == expected


def test_an_alias_path_into_a_struct_is_judged_row_by_row() -> None:
    """A field may come from inside another column; the verdict is Pydantic's."""

    class Row(Contract):
        city: Annotated[str, Field(max_length=3)] = Field(validation_alias=AliasPath("address", "city"))

    assert broken(judged(Row, address=[{"city": "Ulm"}, {"city": "Hamburg"}])) == [
        (1, "address", "string_too_long")
    ]
    assert {path.way for path in compile_contract(Row).explain()} == {"row by row"}


class Line(Contract):
    """A nested model."""

    quantity: Int16
    sku: str


def test_nested_models_are_judged_with_the_place_inside_the_value() -> None:
    """The column is the batch's; the path says where inside."""
    verdict = judged(contract_of(lines=list[Line]), lines=[[{"quantity": 40_000, "sku": "a"}], []])
    (error,) = verdict.errors.to_pylist()
    assert (error["column"], error["rule"], error["path"]) == ("lines", "less_than", "[0].quantity")


def test_judging_changes_nothing() -> None:
    """Whatever validators return, the batch is the one that came in."""
    model = contract_of(name=Annotated[str, AfterValidator(str.upper)], email=EmailStr)
    batch = pa.record_batch({"name": ["ada"], "email": ["Ada <ADA@EXAMPLE.COM>"]})
    copy = pa.record_batch({"name": ["ada"], "email": ["Ada <ADA@EXAMPLE.COM>"]})
    assert compile_contract(model).judge(batch).errors.num_rows == 0
    assert batch.equals(copy)


def test_explain_says_rule_by_rule_which_way_it_goes() -> None:
    """Columnar inside the subset, distinct values for Python on one column, with the reason."""

    class Row(Contract):
        id: Annotated[int, Field(gt=0)]
        code: Annotated[str, Field(pattern="^C-")] | None
        country: Annotated[str, AfterValidator(secretive)]

        @field_validator("id")
        @classmethod
        def check_id(cls, value: int) -> int:
            return value

    ways = {(path.column, path.rule): (path.way, path.why) for path in compile_contract(Row).explain()}
    assert ways["code", "pattern ^C-"] == ("columnar", "")
    assert ways["code", "no NUL"] == ("columnar", "")
    assert ways["country", "secretive"] == ("distinct values", "the validator secretive is Python code")
    assert ways["id", "gt 0"] == ("distinct values", "the validator Row.check_id is Python code")


def test_the_columns_of_a_contract_can_be_read() -> None:
    """Plans see the source's column names, whether NULL or absence is allowed, and what is personal."""

    class Row(Contract):
        key: int = Field(validation_alias="ID")
        email: Annotated[EmailStr, Personal()] | None = None

    contract = compile_contract(Row)
    assert contract.columns == ("ID", "email")
    key, email = contract.fields
    assert (key.field, key.nullable, key.required, key.personal) == ("key", False, True, False)
    assert (email.nullable, email.required, email.personal) == (True, False, True)
    assert (
        "| `email` (personal) | str, no NUL, e-mail address, or NULL, may be absent | columnar |"
        in contract.markdown()
    )


Edit = Callable[[str], str]

BASE = """
from typing import Annotated
from pydantic import AfterValidator, Field
from ferry.contract import Contract, Personal

LIMIT = 3

def helper(value):
    return len(value) < LIMIT

def short(value):
    if not helper(value):
        raise ValueError("long")
    return value

class Row(Contract):
    id: Annotated[int, Field(gt=0)]
    code: Annotated[str, AfterValidator(short)]
"""


def fingerprint_of(source: str, folder: Path) -> str:
    """The fingerprint of the class `Row` in a module `made` with this source."""
    path = folder / f"made_{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("made", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return compile_contract(module.Row).fingerprint()


def test_the_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    """No memory address and no order of hashing enters it, so a run can trust what another run wrote."""
    (tmp_path / "made.py").write_text(BASE)
    code = "import made; print(made.Row.compiled().fingerprint())"
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        seen.add(done.stdout.strip())
    assert seen == {fingerprint_of(BASE, tmp_path)}


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text,
        lambda text: "# a comment\n\n\n" + text,
        lambda text: text.replace("class Row(Contract):", 'class Row(Contract):\n    """Words."""\n'),
        lambda text: text.replace("def short(value):", 'def short(value):\n    """Words."""\n    # words'),
        lambda text: text.replace("    return value", "    return  value"),
        lambda text: text + "\nUNUSED = 5\n",
    ],
    ids=["nothing", "comment", "class docstring", "docstring", "white space", "unused constant"],
)
def test_what_changes_no_verdict_changes_no_fingerprint(edit: Edit, tmp_path: Path) -> None:
    """Loaded chunks stay valid when only words and space changed."""
    assert fingerprint_of(edit(BASE), tmp_path) == fingerprint_of(BASE, tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("gt=0", "gt=1"),
        lambda text: text.replace("id:", "key:"),
        lambda text: text.replace("Annotated[int,", "Annotated[float,"),
        lambda text: text.replace("< LIMIT", "<= LIMIT"),
        lambda text: text.replace("LIMIT = 3", "LIMIT = 4"),
        lambda text: text.replace('"long"', '"too long"'),
        lambda text: text.replace("AfterValidator(short)", "AfterValidator(short), Personal()"),
        lambda text: text + "    note: str | None = None\n",
    ],
    ids=["bound", "name", "type", "helper", "constant", "wording", "personal", "field"],
)
def test_what_may_change_a_verdict_changes_the_fingerprint(edit: Edit, tmp_path: Path) -> None:
    """Rules, types, names, masks and what validators do, down to the helpers and constants that they use."""
    assert fingerprint_of(edit(BASE), tmp_path) != fingerprint_of(BASE, tmp_path)


@given(
    kind=st.sampled_from([int, str, bool, float, Decimal, dt.date, dt.datetime, Literal["a"], int | str]),
    optional=st.booleans(),
    column=st.sampled_from([
        pa.array(["", "1", "a", "2020-01-01", "true"]),
        pa.array([-1, 0, 1, 2**40]),
        pa.array([0.0, 1.5]),
        pa.array([True, False]),
        pa.array([Decimal("0.00"), Decimal("1.50")]),
        pa.array([dt.date(2020, 1, 1)]),
        pa.array([dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, 1)], pa.timestamp("us")),
        pa.array([b"1"]),
    ]),
)  # fmt: skip
def test_a_column_is_unsatisfiable_if_its_type_is_refused(
    kind: Any, optional: bool, column: pa.Array
) -> None:
    """Of an unsatisfiable column every value is rejected; of the others one passes, or is rejected for what it is."""
    compiled = compile_contract(contract_of(value=kind | None if optional else kind))
    verdict = compiled.judge(pa.record_batch({"value": column}))
    refused = {each["rule"] for each in verdict.errors.to_pylist()}
    if "value" in compiled.unsatisfiable(pa.schema([("value", column.type)])):
        assert len(verdict.rejected_rows) == len(column)
    else:
        assert (
            len(verdict.rejected_rows) < len(column)
            or pa.types.is_binary(column.type)
            or refused <= {"literal_error"}
        )
