"""The Python value behind each Arrow value: what Pydantic is shown.

It is `array.to_pylist()`, with two differences. PostgreSQL's `numeric` travels through ADBC as text inside an
extension type, and is a `Decimal` here, as it was in the database (plain text stays text). And a value that
has no Python form (invalid UTF-8, an infinite date, the year 20000) is an `Unreadable` instead of an
exception that would take the whole batch with it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.types as pt

from ferry.contract.moments import DAY, is_moment, text_of

_IN_UTC, _UTC = pa.timestamp("us", "UTC"), ZoneInfo("UTC")
INVALID_UTF8 = "invalid_utf8"
OUT_OF_RANGE = "out_of_range"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that Python cannot hold.

    Attributes:
        rule: `invalid_utf8` (never accepted) or `out_of_range` (accepted only where a contract says `Any`).
        text: the value as well as it can be written down.
        message: why it cannot be read, for people.
    """

    rule: str
    text: str
    message: str

    def __str__(self) -> str:
        """The value as well as it can be written down."""
        return self.text


def is_numeric_text(dtype: pa.DataType) -> bool:
    """Whether this is PostgreSQL's `numeric` as ADBC carries it: text in an `arrow.opaque` extension."""
    return isinstance(dtype, pa.OpaqueType) and dtype.type_name == "numeric" and is_text(dtype.storage_type)


def is_text(dtype: pa.DataType) -> bool:
    """Whether values of this Arrow type are `str` in Python."""
    return pt.is_string(dtype) or pt.is_large_string(dtype) or pt.is_string_view(dtype)


def is_list(dtype: pa.DataType) -> bool:
    """Whether values of this Arrow type are a list of offsets into a child array."""
    return pt.is_list(dtype) or pt.is_large_list(dtype)


def plain(array: pa.Array) -> pa.Array:
    """The same values without an encoding: dictionaries and runs decoded, views as offsets, JSON as text."""
    dtype = array.type
    if isinstance(dtype, pa.JsonType):
        return plain(array.storage)
    if pt.is_dictionary(dtype):
        return plain(array.dictionary_decode())
    if pt.is_run_end_encoded(dtype):
        import pyarrow.compute as pc

        return plain(pc.call_function("run_end_decode", [array]))
    if pt.is_string_view(dtype):
        return array.cast(pa.large_string())
    if dtype == pa.binary_view():
        return array.cast(pa.large_binary())
    return array


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """The type of `plain(array)` for an array of this type."""
    return plain(pa.array([], type=dtype)).type if _is_encoded(dtype) else dtype


def _is_encoded(dtype: pa.DataType) -> bool:
    views = pt.is_string_view(dtype) or dtype == pa.binary_view()
    return pt.is_dictionary(dtype) or pt.is_run_end_encoded(dtype) or views or isinstance(dtype, pa.JsonType)


def holds_text(dtype: pa.DataType) -> bool:
    """Whether text, whose UTF-8 may be broken, is anywhere inside this type."""
    if isinstance(dtype, pa.BaseExtensionType):
        return holds_text(dtype.storage_type)
    if pt.is_dictionary(dtype):
        return holds_text(dtype.value_type)
    if pt.is_nested(dtype):
        return any(holds_text(dtype.field(i).type) for i in range(dtype.num_fields))
    return is_text(dtype)


def has_broken_text(array: pa.Array) -> bool:
    """Whether some text in the array is not valid UTF-8. Reads every byte once (about 2 GB/s)."""
    if not holds_text(array.type):
        return False
    try:
        array.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return True
    return False


def python_values(array: pa.Array) -> list[Any]:
    """One Python value a row, `None` for NULL, `Unreadable` for what Python cannot hold."""
    if _needs_decoding(array.type):
        return [_decoded(value, array.type) for value in _as_python(array)]
    return list(_as_python(array))


def _as_python(array: pa.Array) -> list[Any]:
    if pt.is_time64(array.type) and array.type.unit == "us" and _ends_a_day(array):
        return list(_one_by_one(array))
    try:
        if array.type == _IN_UTC:  # of a moment with a zone Arrow asks pandas, and imports it: 0.3 s of CPU
            moments = array.cast(pa.timestamp("us")).to_pylist()
            return [moment and moment.replace(tzinfo=_UTC) for moment in moments]
        return array.to_pylist()
    except (ValueError, OverflowError, ArithmeticError, pa.ArrowException):
        return list(_one_by_one(array))


def _ends_a_day(array: pa.Array) -> bool:
    """Whether a time is 24:00 or later, which Arrow would show as 00:00 or later."""
    import pyarrow.compute as pc

    latest = pc.call_function("max", [array.view(pa.int64())]).as_py()
    return latest is not None and latest >= DAY


def _one_by_one(array: pa.Array) -> Iterator[Any]:
    for position in range(len(array)):
        scalar = array[position]
        if pt.is_time64(scalar.type) and scalar.is_valid and scalar.value >= DAY:
            yield Unreadable(OUT_OF_RANGE, text_of(scalar.value, scalar.type), "Python has no 24:00")
            continue
        try:
            yield scalar.as_py()
        except UnicodeDecodeError as error:
            text = error.object.decode("utf-8", "backslashreplace")
            yield Unreadable(
                INVALID_UTF8, text, f"Text is not valid UTF-8: {error.reason} at byte {error.start}"
            )
        except (ValueError, OverflowError, ArithmeticError, pa.ArrowException) as error:
            yield Unreadable(
                OUT_OF_RANGE, str(_raw(scalar)), f"No Python value can hold this {array.type}: {error}"
            )


def _raw(scalar: pa.Scalar) -> object:
    value = getattr(scalar, "value", None)  # dates and times: their distance from the epoch
    if not isinstance(value, int):
        return "an unreadable value"
    dtype = scalar.type
    if is_moment(dtype):
        return text_of(value, dtype)
    return f"{value} {getattr(dtype, 'unit', 'day')} since 1970-01-01"


def _needs_decoding(dtype: pa.DataType) -> bool:
    if is_numeric_text(dtype):
        return True
    if pt.is_dictionary(dtype):
        return _needs_decoding(dtype.value_type)
    return pt.is_nested(dtype) and any(_needs_decoding(dtype.field(i).type) for i in range(dtype.num_fields))


def _decoded(value: Any, dtype: pa.DataType) -> Any:
    if value is None or isinstance(value, Unreadable):
        return value
    if is_numeric_text(dtype):
        return Decimal(value)
    if pt.is_dictionary(dtype):
        return _decoded(value, dtype.value_type)
    if pt.is_map(dtype):
        return [(_decoded(key, dtype.key_type), _decoded(item, dtype.item_type)) for key, item in value]
    if pt.is_struct(dtype):
        return {field.name: _decoded(value[field.name], field.type) for field in dtype}
    if pt.is_nested(dtype) and isinstance(value, list):
        return [_decoded(item, dtype.field(0).type) for item in value]
    return value


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60


def shown(value: object, longest: int = 200) -> str | None:
    """A value as text for an error: whole when short, else its beginning and its length."""
    if value is None:
        return None
    if type(value) is str and len(value) <= longest:
        return _writable(value)
    if isinstance(value, (bytes, bytearray)):
        text = "\\x" + bytes(value[:longest]).hex()
        return text[:longest] + f"… ({len(value):,} bytes)" if len(value) * 2 + 2 > longest else text
    if isinstance(value, str) and len(value) > longest:
        return _writable(value[:longest]) + f"… ({len(value):,} characters)"
    text = _BRIEF.repr(value) if isinstance(value, (list, tuple, dict, set)) else str(value)
    return _writable(text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)")


def _writable(text: str) -> str:
    # Errors are stored in PostgreSQL text and in Arrow: neither takes NUL or half a surrogate pair.
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\x00", "\\x00")
