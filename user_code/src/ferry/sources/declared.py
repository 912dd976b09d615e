"""What all declarations of sources share: strictness, columns, and errors that name each fault and its place."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from ferry.errors import DeclarationError
from ferry.sources.shape import Field as Column


def as_tuple(value: Any) -> Any:
    """One name, or a list of names, as a tuple; anything else as it is, for Pydantic to refuse."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


ONE_OR_SEVERAL = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
)
Columns = Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1), ONE_OR_SEVERAL]


class Declared(BaseModel):
    """A declaration: unknown words are faults, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_password(url: str) -> str:
    """Addresses stand in messages and in the names of files; so a password has a place of its own."""
    authority = re.split("[/?#]", url.partition("://")[2])[0]
    if not re.fullmatch(r"([^:@]*@)?(\[[^\]]*\]|[^:@]*)(:\d*)?", authority):
        raise ValueError("takes no password before its host: credentials have variables of their own")
    return url


PlainUrl = Annotated[str, AfterValidator(_without_password)]


class FieldSpec(Declared):
    """One column; see `ferry.sources.shape.Field`."""

    type: str
    path: str = ""
    parse: bool = False


D = TypeVar("D", bound=Declared)


def checked(kind: type[D], given: Any, where: str) -> D:
    """The declaration of that kind; raises `DeclarationError` with each fault and its place."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DeclarationError(
            "the declaration is not right", where=where, why=faults, next="See docs/sources.md"
        ) from None


def columns_of(fields: dict[str, FieldSpec | str] | None) -> list[Column] | None:
    """The declared columns; None when they are taken from the rows."""
    if fields is None:
        return None
    specs = {n: FieldSpec(type=s) if isinstance(s, str) else s for n, s in fields.items()}
    columns = [Column(name, s.type, s.path, s.parse) for name, s in specs.items()]
    for column in columns:
        _ = column.arrow  # an unknown type is said now, not at the first page
    return columns
