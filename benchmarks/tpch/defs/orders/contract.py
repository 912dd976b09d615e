"""The contract of TPC-H's orders."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ferry.contract import Contract


class Order(Contract):
    """One row of `orders`."""

    o_orderkey: Annotated[int, Field(gt=0)]
    o_custkey: Annotated[int, Field(gt=0)]
    o_orderstatus: Literal["O", "F", "P"]
    o_totalprice: Annotated[Decimal, Field(ge=0, max_digits=15, decimal_places=2)]
    o_orderdate: Annotated[date, Field(ge=date(1992, 1, 1), lt=date(1999, 1, 1))]
    o_orderpriority: Annotated[str, Field(pattern=r"^[1-5]-[A-Z ]+$")]
    o_clerk: str
    o_shippriority: int
    o_comment: str
