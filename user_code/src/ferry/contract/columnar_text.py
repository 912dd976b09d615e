"""Vectorised doubt about text and bytes: lengths, patterns, e-mail addresses, NUL.

Lengths come from the offsets alone wherever bytes settle the question of characters. Patterns run in Polars,
whose regular expressions are the same Rust engine as Pydantic's: linear in the text, whatever the pattern.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ferry.arrow import constant, numbers_of
from ferry.contract.columnar_check import Doubt, Doubter, Node, NotColumnar
from ferry.contract.columnar_numbers import either

FREE_OF_NUL = r"^[^\x00]*$"


def offsets_of(array: pa.Array) -> np.ndarray:
    """Where each value begins in the data buffer, and where the last one ends."""
    wide = pt.is_large_string(array.type) or pt.is_large_binary(array.type)
    return np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)[array.offset :][: len(array) + 1]


def texts(node: Node, _dtype: pa.DataType, config: Node) -> Doubter:
    """Text with a length and a pattern, after trimming where the contract trims."""
    pattern = node.get("pattern")
    if pattern == FREE_OF_NUL:
        return _with_nul
    shortest = node.get("min_length", config.get("str_min_length") or None)
    longest = node.get("max_length", config.get("str_max_length"))
    trims = node.get("strip_whitespace", config.get("str_strip_whitespace", False))
    matches = _matcher(pattern, node.get("regex_engine", config.get("regex_engine", "rust-regex")))

    def doubt(array: pa.Array) -> Doubt:
        if trims:
            import polars as pl

            array = pl.Series(array).str.strip_chars().to_arrow().cast(pa.large_string())
        doubted = _wrong_length(array, shortest, longest)
        return either(doubted, matches(array)) if matches else doubted

    return doubt


def _matcher(pattern: object, engine: str) -> Doubter | None:
    if pattern is None:
        return None
    if not isinstance(pattern, str) or engine != "rust-regex":
        raise NotColumnar("the pattern needs Python's regular expressions")
    import polars as pl

    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError:
        raise NotColumnar("Polars does not take this pattern") from None

    def unmatched(array: pa.Array) -> Doubt:
        found = pl.Series(array).str.contains(pattern)
        return None if found.all() else ~found.fill_null(value=True).to_numpy()

    return unmatched


def _wrong_length(array: pa.Array, shortest: int | None, longest: int | None) -> Doubt:
    if shortest is None and longest is None:
        return None
    sizes = np.diff(offsets_of(array))
    # A character is one to four bytes, so bytes decide most lengths without reading the text.
    short = shortest is not None and sizes.min() < 4 * shortest - 3
    long = longest is not None and sizes.max() > longest
    if not short and not long:
        return None
    import pyarrow.compute as pc

    lengths = numbers_of(pc.fill_null(pc.call_function("utf8_length", [array]), constant(0, pa.int32())))
    doubted = np.zeros(len(array), bool)
    if shortest is not None:
        doubted |= lengths < shortest
    if longest is not None:
        doubted |= lengths > longest
    return doubted if doubted.any() else None


def _with_nul(array: pa.Array) -> Doubt:
    offsets = offsets_of(array)
    data = array.buffers()[2]
    if data is None:
        return None
    data = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    if data.all():
        return None
    places = np.flatnonzero(data == 0) + offsets[0]
    doubted = np.zeros(len(array), bool)
    doubted[np.searchsorted(offsets, places, side="right") - 1] = True
    return doubted


def binaries(node: Node, dtype: pa.DataType, _: Node) -> Doubter:
    """Bytes with a length, counted in bytes."""
    shortest, longest = node.get("min_length", 0), node.get("max_length", 2**62)
    fixed = dtype.byte_width if pt.is_fixed_size_binary(dtype) else None

    def doubt(array: pa.Array) -> Doubt:
        sizes = np.full(len(array), fixed) if fixed is not None else np.diff(offsets_of(array))
        doubted = (sizes < shortest) | (sizes > longest)
        return doubted if doubted.any() else None

    return doubt


def emails() -> Doubter:
    """Addresses of the everyday kind: an ASCII dot-atom at a domain of labels with single hyphens.

    That is a subset of what `EmailStr` accepts; every other address (display names, quotes, international
    domains, special-use domains) is Pydantic's to judge, once a distinct value.
    """
    from email_validator import SPECIAL_USE_DOMAIN_NAMES

    atom = r"[A-Za-z0-9_+-]+"
    label = r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*"
    everyday = rf"^{atom}(\.{atom})*@({label}\.)+[A-Za-z]{{2,60}}$"
    special = r"(?i)[@.](" + "|".join(name.replace(".", r"\.") for name in SPECIAL_USE_DOMAIN_NAMES) + ")$"

    def doubt(array: pa.Array) -> Doubt:
        import polars as pl

        text = pl.Series(array)
        # 63 bytes is the longest label and 64 the longest local part: a short address breaks neither.
        sure = text.str.contains(everyday) & (text.str.len_bytes() <= 63)
        sure &= ~text.str.contains(special)
        return None if sure.all() else ~sure.fill_null(value=True).to_numpy()

    return doubt
