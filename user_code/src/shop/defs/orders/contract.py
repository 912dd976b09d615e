"""What an order of the old shop may be."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ferry.contract import Contract


class Order(Contract):
    """One row of `legacy.orders`; the shop traded from 1992 to 1998, so other dates are wrong."""

    id: Annotated[int, Field(gt=0)]
    customer_id: int
    employee_id: int | None
    status: Literal["O", "F", "P"]
    total: Annotated[Decimal, Field(ge=0)]
    priority: str | None
    placed_at: Annotated[datetime, Field(ge=datetime(1992, 1, 1), lt=datetime(1999, 1, 1))] | None
    comment: str | None
