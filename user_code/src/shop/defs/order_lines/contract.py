"""What a line of an order may be."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ferry.contract import Contract


class OrderLine(Contract):
    """One row of `legacy.order_lines`; `price` is for all pieces, `discount` and `tax` parts of it."""

    order_id: int
    line_number: Annotated[int, Field(ge=1)]
    product_id: int
    quantity: Annotated[Decimal, Field(gt=0)]
    price: Annotated[Decimal, Field(ge=0)]
    discount: Annotated[Decimal, Field(ge=0, le=1)]
    tax: Annotated[Decimal, Field(ge=0, le=1)]
    return_flag: Literal["A", "N", "R"] | None
    shipped_on: date | None
    ship_mode: str | None
    comment: str | None
