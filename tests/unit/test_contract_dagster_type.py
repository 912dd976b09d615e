"""A contract as a DagsterType: the UI's schema, and a failure that shows what is wrong but no secret."""

from decimal import Decimal
from typing import Annotated

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import EmailStr, Field

from ferry.contract import Contract, Personal


class Customer(Contract):
    """A customer as the spreadsheet has them."""

    id: Annotated[int, Field(gt=0)]
    email: Annotated[EmailStr, Personal()]
    balance: Decimal | None


GOOD = {"id": [1, 2], "email": ["a@example.com", "b@example.com"], "balance": [Decimal("1.50"), None]}
BAD = {**GOOD, "id": [1, -2], "email": ["a@example.com", "secret name"]}


def failure(frame: object) -> dg.Failure:
    """What a run that returns this frame from an op of this type fails with."""

    @dg.op(out=dg.Out(Customer.dagster_type()))
    def customers() -> object:
        return frame

    @dg.job
    def load() -> None:
        customers()

    with pytest.raises(dg.DagsterTypeCheckDidNotPass) as caught:
        load.execute_in_process()
    return caught.value


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, pa.RecordBatch.from_pydict])
def test_frames_of_every_kind_that_keep_the_contract_pass(make: object) -> None:
    """pandas, Polars and Arrow frames are judged alike."""

    @dg.asset(dagster_type=Customer.dagster_type())
    def customers() -> object:
        return make(GOOD)

    assert dg.materialize([customers]).success


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_frame_that_breaks_the_contract_fails_the_run_and_shows_the_rows(make: object) -> None:
    """The failure counts rules and shows the offending rows; a personal value is masked everywhere in it."""
    caught = failure(make(BAD))
    assert (
        "1 of 2 rows break the contract Customer: id: greater_than (1), email: value_error (1)"
        in caught.description
    )
    shown = caught.metadata["offending_rows"].records
    assert [(record.data["row"], record.data["column"], record.data["value"]) for record in shown] == [
        (1, "id", "-2"),
        (1, "email", "***"),
    ]
    assert "secret name" not in repr(caught.metadata) + caught.description


def test_something_that_is_no_frame_fails_with_what_was_expected() -> None:
    """An asset that returns a list is told which types would do."""
    assert "expected a pandas or Polars DataFrame" in failure([1, 2]).description


def test_the_schema_in_the_ui_has_every_column_with_its_rules() -> None:
    """Column names, types, NULL and rules come from the contract; personal columns carry a tag."""
    schema = Customer.dagster_type().metadata["dagster/column_schema"].value
    by_name = {column.name: column for column in schema.columns}
    assert by_name["id"].type == "int"
    assert by_name["id"].constraints.other == ["gt 0"]
    assert not by_name["email"].constraints.nullable
    assert "personal" in by_name["email"].tags
    assert by_name["balance"].constraints.nullable
    document = Customer.dagster_type().metadata["json_schema"].data
    assert document["properties"]["email"] == {
        "format": "email",
        "title": "Email",
        "type": "string",
        "x-personal": True,
    }


def test_the_type_is_made_once() -> None:
    """Dagster refuses two types of one name, so two assets with one contract share the object."""
    assert Customer.dagster_type() is Customer.dagster_type()
