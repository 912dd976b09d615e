"""What passes between a delivery and an API: rows to send, and what became of them. No client is imported for it."""

import itertools
import uuid
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """One row to send: its key in the journal, the request it belongs to, its body, its id over there if it has one.

    `taken` is the body that the API took last; `operation` what it calls the work on the request, if it said so.
    """

    key: str
    request: uuid.UUID
    body: dict[str, Any]
    remote_id: str | None = None
    taken: dict[str, Any] | None = None
    operation: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a row: its id over there, or what the API said against it.

    `also` are ids beside its own: of what goes with it (`variantId`), or a list for what went inside it (`lineItems`).
    """

    key: str
    remote_id: str | None = None
    problem: str = ""
    also: dict[str, Any] = field(default_factory=dict)


def placed(body: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Put a value at a dotted place of a body, where a number is a place in a list; gives the body."""
    steps = place.split(".")
    inner: Any = body
    for step, following in itertools.pairwise(steps):
        inner = _within(inner, step, [] if following.isdigit() else {})
    _within(inner, steps[-1], value, replace=True)
    return body


def _within(inner: Any, step: str, value: Any, *, replace: bool = False) -> Any:
    if isinstance(inner, list):
        inner.extend({} for _ in range(len(inner), int(step) + 1))
        if replace:
            inner[int(step)] = value
        return inner[int(step)]
    if replace:
        inner[step] = value
    return inner.setdefault(step, value)
