"""The contract of TPC-H's lines."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ferry.contract import Contract

Money = Annotated[Decimal, Field(ge=0, max_digits=15, decimal_places=2)]


class Lineitem(Contract):
    """One row of `lineitem`."""

    l_orderkey: Annotated[int, Field(gt=0)]
    l_partkey: int
    l_suppkey: int
    l_linenumber: Annotated[int, Field(gt=0, le=7)]
    l_quantity: Money
    l_extendedprice: Money
    l_discount: Annotated[Decimal, Field(ge=0, le=1, max_digits=15, decimal_places=2)]
    l_tax: Money
    l_returnflag: Literal["A", "N", "R"]
    l_linestatus: Literal["O", "F"]
    l_shipdate: date
    l_commitdate: date
    l_receiptdate: date
    l_shipinstruct: str
    l_shipmode: Literal["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"]
    l_comment: str
