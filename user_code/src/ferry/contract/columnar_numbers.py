"""Vectorised doubt about integers, floats and decimals. Bounds are compared exactly."""

from __future__ import annotations

import operator
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from ferry.contract.columnar_check import Doubt, Doubter, Node, NotColumnar

BROKEN_BY = {"gt": operator.le, "ge": operator.lt, "lt": operator.ge, "le": operator.gt}
KEPT_BY = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}


def fixed_width(array: pa.Array, kind: np.dtype[Any] | type) -> np.ndarray:
    """The values of an array without copying; under a NULL stands whatever is there."""
    return np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]


def bounds(node: Node) -> list[tuple[str, Any]]:
    """The comparisons of a schema: `[("ge", 0), ("lt", 10)]`."""
    return [(rule, node[rule]) for rule in KEPT_BY if rule in node]


def breaking(values: np.ndarray, limits: list[tuple[str, int]]) -> Doubt:
    """Which integers break a bound. The extremes are looked at first: mostly that settles it in one pass."""
    if not len(values) or not limits:
        return None
    low, high = int(values.min()), int(values.max())
    doubted = None
    for rule, limit in limits:
        if KEPT_BY[rule](low, limit) and KEPT_BY[rule](high, limit):
            continue
        broken = BROKEN_BY[rule](values, limit)
        doubted = broken if doubted is None else doubted | broken
    return doubted


def either(one: Doubt, other: Doubt) -> Doubt:
    """Doubted by one or by the other."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def integers(node: Node, dtype: pa.DataType, _: Node) -> Doubter:
    """Integers of any width: bounds and multiples."""
    kind = dtype.to_pandas_dtype()
    limits = bounds(node)
    factor = node.get("multiple_of")
    if not all(type(limit) is int for _, limit in limits) or type(factor) not in (int, type(None)):
        raise NotColumnar("a bound of an int is no int")
    if factor is not None and factor > np.iinfo(kind).max:
        raise NotColumnar("multiple_of is wider than the column")

    def doubt(array: pa.Array) -> Doubt:
        values = fixed_width(array, kind)
        doubted = breaking(values, limits)
        if factor not in (None, 1):
            odd = values % factor != 0
            doubted = either(doubted, odd if odd.any() else None)
        return doubted

    return doubt


def floats(node: Node, dtype: pa.DataType, config: Node) -> Doubter:
    """Floats of any width, and integers where a float is asked for, which Pydantic takes as 64-bit floats."""
    kind = dtype.to_pandas_dtype()
    limits = [(KEPT_BY[rule], float(limit)) for rule, limit in bounds(node)]
    finite = not node.get("allow_inf_nan", config.get("allow_inf_nan", True))

    def doubt(array: pa.Array) -> Doubt:
        values = fixed_width(array, kind).astype(np.float64, copy=False)
        sure = np.isfinite(values) if finite else None
        for keeps, limit in limits:
            kept = keeps(values, limit)  # NaN keeps no bound
            sure = kept if sure is None else sure & kept
        return None if sure is None or sure.all() else ~sure

    return doubt


def _digit_limits(node: Node, scale: int) -> tuple[int, int | None]:
    """How many places may hold a digit, and the first unscaled magnitude that has too many digits."""
    places, digits = node.get("decimal_places"), node.get("max_digits")
    kept = scale if places is None else min(scale, places)
    if digits is None:
        return kept, None
    whole = digits - (places if places is not None else scale)
    if whole < 0 or (whole, scale) == (0, 0):  # Pydantic counts the zero of 0, but not that of 0.0
        return kept, 0
    return kept, 10 ** (whole + scale)


def decimals(node: Node, dtype: pa.DataType, _: Node) -> Doubter:
    """`decimal128` columns, on their unscaled 64-bit words.

    Pydantic counts digits without trailing zeros: 1.50 has one place. A value passes when it has no digit
    beyond the allowed places and not too many before the point; one wider than 64 bits is left to Pydantic.
    """
    scale = dtype.scale
    if scale < 0:
        raise NotColumnar("a decimal of negative scale")
    kept, ceiling = _digit_limits(node, scale)
    step = 10 ** (scale - kept)
    limits = []
    for rule, limit in bounds(node):
        scaled = Decimal(limit).scaleb(scale)
        if scaled != scaled.to_integral_value() or Decimal(limit) != scaled.scaleb(-scale):
            raise NotColumnar("a bound with more places than the column has")
        limits.append((rule, int(scaled)))
    if ceiling is not None:
        limits += [("lt", ceiling), ("gt", -ceiling)]

    def doubt(array: pa.Array) -> Doubt:
        words = np.frombuffer(array.buffers()[1], np.int64)
        words = words[2 * array.offset : 2 * (array.offset + len(array))]
        low, high = words[::2], words[1::2]
        wide = (low >> 63) != high
        doubted = wide if wide.any() else None
        doubted = either(doubted, breaking(low, limits))
        if step > 1:
            rest = low != 0 if step > 2**62 else low % step != 0
            doubted = either(doubted, rest if rest.any() else None)
        return doubted

    return doubt


_DIGITS_KEPT = 28  # by Python's Decimal arithmetic, which Pydantic counts digits with


def numeric_texts(node: Node, _dtype: pa.DataType, _: Node) -> Doubter:
    """PostgreSQL `numeric` as ADBC carries it, as text: a pattern counts digits, floats keep the bounds.

    NaN, infinities, exponents, very many digits and values that equal a bound as floats are left to Pydantic.
    """
    digits, places = node.get("max_digits"), node.get("decimal_places")
    counted = digits is not None or places is not None
    fraction = _DIGITS_KEPT if places is None else places
    whole = digits - (places or 0) if digits is not None else _DIGITS_KEPT
    if whole == 0:
        raise NotColumnar("no digit before the point: Pydantic counts the zero of 0 but not that of 0.5")
    limits = [(rule, float(limit)) for rule, limit in bounds(node)]
    sign = "" if ("ge", 0.0) in limits else "-?"
    limits = [limit for limit in limits if limit != ("ge", 0.0)]
    point = rf"\.[0-9]{{1,{fraction}}}0*" if fraction else r"\.0+"
    plain = rf"^{sign}[0-9]{{1,{whole}}}({point})?$"
    # Without places, a text no longer than the digits has no more digits than that, point and sign included.
    longest = min(_DIGITS_KEPT, digits if digits is not None and places is None else _DIGITS_KEPT)

    def doubt(array: pa.Array) -> Doubt:
        import polars as pl

        texts = pl.Series(array.storage)
        sure = texts.str.contains(plain)
        if counted:
            sure &= texts.str.len_bytes() <= longest
        if limits:
            values = texts.cast(pl.Float64, strict=False)
            for rule, limit in limits:
                # Rounding keeps the order: what is above as a float is above.
                sure &= (values > limit) if rule in ("ge", "gt") else (values < limit)
        return None if sure.all() else ~sure.fill_null(value=False).to_numpy()

    return doubt
