"""What an order of the shop may be."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ferry.contract import Contract


class Order(Contract):
    """One order as Shopify's Admin API has it; somebody who bought as a guest is no customer."""

    id: str
    name: Annotated[str, Field(pattern=r"^#[0-9]+$")]
    customer_id: str | None
    currency: Literal["EUR", "USD", "GBP"]
    total: Annotated[Decimal, Field(ge=0)]
    financial_status: str | None
    fulfillment_status: str
    created_at: datetime
