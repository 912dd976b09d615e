"""What a customer of the old shop may be."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import EmailStr, Field

from ferry.contract import Contract, Personal


class Customer(Contract):
    """One row of `legacy.customers`; `balance` may be negative, and `notes` may be any text."""

    id: Annotated[int, Field(gt=0)]
    name: Annotated[str, Field(min_length=1, max_length=120), Personal()]
    email: Annotated[EmailStr, Personal()]
    phone: Annotated[str, Personal()] | None
    street: Annotated[str, Personal()] | None
    nation: Annotated[int, Field(ge=0, le=24)] | None
    segment: Literal["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"]
    balance: Decimal
    referred_by: int | None
    notes: str | None
    created_at: datetime | None
