"""Paths into JSON text, such as `$.lines[0].price`: what stands there, digit for digit."""

import json
import re
from typing import Any

from ferry.errors import DeclarationError

_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"]*)"\]|\['([^']*)'\]""")


class JsonPath:
    """A path of names and positions; no wildcards, since a column holds one value."""

    def __init__(self, path: str, where: str) -> None:
        """Read it; raises `DeclarationError` if it is none."""
        self._steps: list[str | int] = []
        at = 1
        while at < len(path):
            match = _STEP.match(path, at)
            if match is None:
                raise DeclarationError(
                    f"{path!r} is no path", where=where, next='Write $.name, $.list[0] or $["any name"]'
                )
            names = match[1], match[3], match[4]
            name = next((one for one in names if one is not None), None)
            self._steps.append(int(match[2]) if name is None else name)
            at = match.end()

    def find(self, text: str) -> str | None:
        """The text, number or boolean there as text; None if nothing or null is there.

        Raises:
            ValueError: the text is no JSON, or an object or list stands there.
        """
        try:
            found: Any = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("the JSON is nested too deep") from None
        for step in self._steps:
            if isinstance(step, int):
                found = found[step] if isinstance(found, list) and step < len(found) else None
            else:
                found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, dict | list):
            raise ValueError("an object or a list stands there, and a column takes one value")  # noqa: TRY004
        if isinstance(found, bool):
            return "true" if found else "false"
        return None if found is None else str(found)


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
