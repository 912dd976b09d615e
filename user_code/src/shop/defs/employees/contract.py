"""What a clerk of the old shop may be."""

from datetime import date
from typing import Annotated

from pydantic import EmailStr, Field

from ferry.contract import Contract, Personal


class Employee(Contract):
    """One row of `legacy.employees`; `manager_id` is another employee, and empty for the one at the top."""

    id: Annotated[int, Field(gt=0)]
    name: Annotated[str, Field(min_length=1, max_length=120), Personal()]
    email: Annotated[EmailStr, Personal()]
    hired_on: date
    manager_id: int | None
