"""How long Python's regular expressions can take: a bound from the pattern alone.

Rust's engine (Pydantic's default for `pattern="…"`) is linear whatever the pattern. Python's engine
backtracks; it is used for compiled patterns and for `regex_engine="python-re"`, mostly for the sake of
look-around. The bound here is on the safe side: what it calls endless may be harmless, what it calls bounded
is bounded.
"""

from __future__ import annotations

import re
import re._parser as parser
from typing import Any

_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_FEW = 3  # a repetition of at most so many rounds is counted like writing it out


class _EndlessError(Exception):
    """Repetitions in a repetition: the ways to match can double with each character."""


def cost_of(pattern: str, flags: int = 0) -> tuple[int | None, str]:
    """The power of the text's length that bounds the number of steps, or None for no bound, and why.

    `^a+$` is 1; `a+$` is 2, because a match may begin anywhere; `^(a+)+$` is None.
    """
    parsed = parser.parse(pattern, flags)
    try:
        power = _power(parsed, inside=False)
    except _EndlessError as endless:
        return None, str(endless)
    return power + (0 if _anchored(parsed) else 1) or 1, ""


def _anchored(parsed: Any) -> bool:
    first = [str(part) for part in parsed[0]] if len(parsed) else []
    return first == ["AT", "AT_BEGINNING"] and not parsed.state.flags & re.MULTILINE


def _power(items: Any, *, inside: bool) -> int:
    total = 0
    for opcode, argument in items:
        code = str(opcode)
        if code in _REPEATS:
            least, most, body = argument
            if inside and most != least:
                raise _EndlessError("a repetition inside a repetition")
            if most <= _FEW:
                total += _power(body, inside=inside) * int(most)
                continue
            total += _power(body, inside=True) + (most != least)
        elif code == "BRANCH":
            if inside:
                raise _EndlessError("alternatives inside a repetition")
            total += max(_power(branch, inside=inside) for branch in argument[1])
        elif code == "SUBPATTERN":
            total += _power(argument[-1], inside=inside)
        elif code in ("ASSERT", "ASSERT_NOT"):
            total += _power(argument[1], inside=inside)
        elif code == "ATOMIC_GROUP":
            total += _power(argument, inside=inside)
        elif code == "GROUPREF_EXISTS":
            total += sum(_power(branch, inside=inside) for branch in argument[1:] if branch)
        elif code == "GROUPREF":
            if inside:
                raise _EndlessError("a back-reference inside a repetition")
            total += 1
    return total
