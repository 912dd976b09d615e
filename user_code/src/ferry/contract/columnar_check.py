"""What a compiled column is made of: the check, what surrounds it, and the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ferry.arrow import numbers_of

Doubt = np.ndarray | None
"""One bool a row, True where a value is doubted; None when there is no doubt at all. Rows with NULL may say
anything: `Check.nulls` decides those."""

Node = Mapping[str, Any]


class NotColumnar(Exception):  # noqa: N818 - a signal inside this package, not an error anybody sees
    """This rule, or this rule on this Arrow type, is Pydantic's to judge; the text says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """A compiled column: whether NULL is surely accepted, and which other values are doubted."""

    nulls: bool
    values: Callable[[pa.Array], Doubt]

    def doubt(self, array: pa.Array) -> Doubt:
        """Which rows Pydantic has to look at; None when there are none."""
        doubted = self.values(array)
        if array.null_count == 0:
            return doubted
        missing = numbers_of(array.is_null())
        if doubted is None:
            return None if self.nulls else missing
        return doubted & ~missing if self.nulls else doubted | missing


@dataclass(frozen=True)
class Scope:
    """What surrounds a field's schema: the model's config and the definitions that it may refer to."""

    config: Mapping[str, Any] = field(default_factory=dict)
    definitions: Mapping[str, Node] = field(default_factory=dict)


def no_doubt(_: pa.Array) -> Doubt:
    """Every value of this Arrow type is accepted."""
    return None


Doubter = Callable[[pa.Array], Doubt]
"""What looks at the values of a column; each of the `columnar_*` modules makes some."""


def all_doubted(array: pa.Array) -> Doubt:
    """No value of this Arrow type is surely accepted."""
    return np.ones(len(array), bool)


def only(node: Node, *known: str) -> None:
    """Refuse a schema with a setting that this module does not know; `strict` is always on here."""
    unknown = set(node) - {"type", "ref", "metadata", "serialization", "strict", *known}
    if unknown:
        raise NotColumnar(f"{node['type']} with {', '.join(sorted(unknown))} is outside the columnar subset")
