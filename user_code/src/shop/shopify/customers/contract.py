"""What a customer of the shop may be."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from ferry.contract import Contract


class Customer(Contract):
    """One customer as Shopify's Admin API has it."""

    id: Annotated[str, Field(pattern=r"^gid://shopify/Customer/[0-9]+$")]
    email: str
    first_name: str | None
    last_name: Annotated[str, Field(min_length=1)]
    note: str | None
    tags: str
    created_at: datetime
