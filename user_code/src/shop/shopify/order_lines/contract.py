"""What a line of an order may be."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from ferry.contract import Contract


class OrderLine(Contract):
    """One line item as Shopify's Admin API has it."""

    id: str
    order_id: str
    product_id: str | None
    title: str
    sku: str | None
    quantity: Annotated[int, Field(gt=0)]
    price: Annotated[Decimal, Field(ge=0)]
