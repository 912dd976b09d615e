"""What a product of the shop may be."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from ferry.contract import Contract


class Product(Contract):
    """One product as Shopify's Admin API has it."""

    id: str
    title: Annotated[str, Field(min_length=1)]
    handle: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    vendor: str
    product_type: str
    created_at: datetime
