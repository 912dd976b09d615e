"""Vectorised doubt about dates, times, datetimes and durations, on their integer distance from an epoch."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from ferry.contract.columnar_check import Doubter, Node, NotColumnar
from ferry.contract.columnar_numbers import bounds, breaking, fixed_width

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6}
_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)


def _scaled(limits: list[tuple[str, int]], unit: str) -> list[tuple[str, int]]:
    """Bounds in microseconds, which is what Python sees, as exact bounds in the unit of the column."""
    if unit == "ns":  # Python sees nanoseconds cut off: v <= 1 us  <=>  v <= 1999 ns
        return [(rule, limit * 1000 + (999 if rule in ("le", "gt") else 0)) for rule, limit in limits]
    step = 10**6 // _PER_SECOND[unit]
    exact = []
    for rule, limit in limits:
        whole, rest = divmod(limit, step)
        if rest and rule in ("ge", "lt"):  # v >= 1.5 s  <=>  v >= 2 s;  v < 1.5 s  <=>  v < 2 s
            whole += 1
        exact.append((rule, whole))
    return exact


def _unit(dtype: pa.DataType) -> str:
    if dtype.unit == "ns":
        raise NotColumnar("nanoseconds are finer than Python's types")
    return dtype.unit


def dates(node: Node, _dtype: pa.DataType, _: Node) -> Doubter:
    """Days from year 1 to year 9999, and bounds."""
    first, last = (day.toordinal() - _EPOCH.toordinal() for day in (dt.date.min, dt.date.max))
    limits = [("ge", first), ("le", last)]
    for rule, limit in bounds(node):
        if type(limit) is not dt.date:
            raise NotColumnar("a bound of a date is no date")
        limits.append((rule, limit.toordinal() - _EPOCH.toordinal()))
    return lambda array: breaking(fixed_width(array, np.int32), limits)


def datetimes(node: Node, dtype: pa.DataType, _: Node) -> Doubter:
    """Timestamps with or without a zone from year 1 to 9999, and bounds of the same kind."""
    aware = dtype.tz is not None
    wanted = node.get("tz_constraint")
    if wanted is not None and wanted != ("aware" if aware else "naive"):
        raise NotColumnar(f"the contract wants {wanted} datetimes")
    # With a zone the local year may differ from the year in UTC: the outermost years are left to Pydantic.
    margin = dt.timedelta(days=2 if aware else 0)
    limits = [
        ("ge", (dt.datetime.min + margin - _EPOCH) // _MICROSECOND),
        ("le", (dt.datetime.max - margin - _EPOCH) // _MICROSECOND),
    ]
    for rule, limit in bounds(node):
        if (limit.tzinfo is not None) != aware:
            raise NotColumnar("one of bound and column has a zone, the other has none")
        if aware and dtype.tz not in ("UTC", "+00:00", "Z"):
            raise NotColumnar("bounds on a zone other than UTC")
        naive = limit.astimezone(dt.UTC).replace(tzinfo=None) if aware else limit
        limits.append((rule, (naive - _EPOCH) // _MICROSECOND))
    scaled = _scaled(limits, dtype.unit)
    return lambda array: breaking(fixed_width(array, np.int64), scaled)


def times(node: Node, dtype: pa.DataType, _: Node) -> Doubter:
    """Times of day without a zone, and bounds."""
    unit = _unit(dtype)
    if node.get("tz_constraint") not in (None, "naive"):
        raise NotColumnar("the contract wants times with a zone")
    limits = [("ge", 0), ("lt", 86_400 * 10**6)]
    for rule, limit in bounds(node):
        if limit.tzinfo is not None:
            raise NotColumnar("a bound with a zone")
        since = dt.timedelta(hours=limit.hour, minutes=limit.minute, seconds=limit.second)
        limits.append((rule, since // _MICROSECOND + limit.microsecond))
    scaled = _scaled(limits, unit)
    kind = np.int32 if dtype.bit_width == 32 else np.int64
    return lambda array: breaking(fixed_width(array, kind), scaled)


def durations(node: Node, dtype: pa.DataType, _: Node) -> Doubter:
    """Durations within Python's range, and bounds."""
    unit = _unit(dtype)
    longest = dt.timedelta.max // _MICROSECOND
    limits = [("ge", -(10**6) * 86_400 * 999_999_999), ("le", longest)]
    limits += [(rule, limit // _MICROSECOND) for rule, limit in bounds(node)]
    scaled = _scaled(limits, unit)
    return lambda array: breaking(fixed_width(array, np.int64), scaled)
