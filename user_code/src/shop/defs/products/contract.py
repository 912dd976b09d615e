"""What an article of the old shop may be."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from ferry.contract import Contract


class Product(Contract):
    """One row of `legacy.products`; an article without a name or a price above zero cannot be sold."""

    id: Annotated[int, Field(gt=0)]
    name: Annotated[str, Field(min_length=1, max_length=80)]
    manufacturer: str
    brand: Annotated[str, Field(pattern=r"^Brand#[0-9]+$")]
    kind: str
    size: Annotated[int, Field(ge=1, le=50)]
    container: str | None
    price: Annotated[Decimal, Field(gt=0)]
    description: str | None
