"""Dates and times that Python cannot hold, as PostgreSQL writes them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_EPOCH = np.datetime64("2000-01-01", "D")
_DAYS_TO_2000 = 10_957
_MICROS_TO_2000 = 946_684_800_000_000
DAY = 86_400_000_000
"""Microseconds."""


def is_moment(dtype: pa.DataType) -> bool:
    """Whether `text_of` can write a value of this type."""
    return pa.types.is_date32(dtype) or (
        (pa.types.is_timestamp(dtype) or pa.types.is_time64(dtype)) and dtype.unit == "us"
    )


def text_of(value: int, dtype: pa.DataType) -> str:
    """A date, timestamp or time, given as Arrow counts it, whatever its year.

    PostgreSQL's infinities are the ends of its own range, which counts from 2000 on; as Arrow, which counts from
    1970 on, they wrap around. So the shift is undone first.
    """
    if pa.types.is_date32(dtype):
        days = (value - _DAYS_TO_2000 + 2**31) % 2**32 - 2**31
        return _infinite(days, 31) or _day(days)
    if pa.types.is_time64(dtype):
        return _clock(value)
    moment = (value - _MICROS_TO_2000 + 2**63) % 2**64 - 2**63
    if infinite := _infinite(moment, 63):
        return infinite
    days, rest = divmod(moment, DAY)
    day, _, era = _day(days).partition(" ")
    return f"{day} {_clock(rest)}{'+00' if dtype.tz else ''} {era}".strip()


def _infinite(value: int, bits: int) -> str:
    return {2**bits - 1: "infinity", -(2**bits): "-infinity"}.get(value, "")


def _day(days: int) -> str:
    year, month, day = str(_EPOCH + np.timedelta64(days, "D")).rsplit("-", 2)
    if int(year) > 0:
        return f"{int(year):04d}-{month}-{day}"
    return f"{1 - int(year):04d}-{month}-{day} BC"


def _clock(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    shown = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{shown}.{fraction:06d}".rstrip("0") if fraction else shown
