"""The contract of TPC-H's customers."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ferry.contract import Contract


class Customer(Contract):
    """One row of `customer`."""

    c_custkey: Annotated[int, Field(gt=0)]
    c_name: Annotated[str, Field(min_length=1, max_length=25)]
    c_address: str
    c_nationkey: Annotated[int, Field(ge=0, le=24)]
    c_phone: Annotated[str, Field(pattern=r"^\d\d-\d{3}-\d{3}-\d{4}$")]
    c_acctbal: Annotated[Decimal, Field(max_digits=15, decimal_places=2)]
    c_mktsegment: Literal["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"]
    c_comment: str
