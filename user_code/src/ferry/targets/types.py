"""Which source type goes into which target type without any change of a value."""

import pyarrow as pa

from ferry.catalogue import Column

_INTEGERS = {"int2": 2, "int4": 4, "int8": 8}
_TEXTS = ("text", "varchar", "bpchar")
_RANK = {"float4": 4, "float8": 8}

WIRE: dict[pa.DataType, str] = {
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.binary(): "bytea",
    pa.large_binary(): "bytea",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp",
    pa.timestamp("us", "UTC"): "timestamptz",
    pa.time64("us"): "time",
}


def wire_type(type_: pa.DataType) -> str:
    """The PostgreSQL type in which a column of this Arrow type arrives."""
    return "numeric" if pa.types.is_decimal(type_) else WIRE.get(type_, "text")


# Types that other objects of their own database stand behind; the name of such an object can be carried as text.
_NAMES = ("regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator", "regproc",
          "regprocedure", "regrole", "regtype")  # fmt: skip
REFUSED: dict[str, str] = {
    **dict.fromkeys(_NAMES, "it points to an object of its own database"),
    "aclitem": "it names roles of its own server",
    **dict.fromkeys(
        ("gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies", "pg_mcv_list",
         "pg_ndistinct", "pg_node_tree"),
        "PostgreSQL itself reads no value of it",
    ),
}  # fmt: skip
"""Types that are not carried, each with the reason."""


def comparable(type_: pa.DataType) -> str:
    """The kind of values that a column of this Arrow type can be equal to, once it has arrived."""
    if pa.types.is_integer(type_) or pa.types.is_decimal(type_) or pa.types.is_floating(type_):
        return "number"
    return wire_type(type_)


def carry(source: Column, target: Column) -> str | None:
    """The cast that carries values of `source` into `target` exactly, '' for none needed, None if there is none.

    A value may still be refused by the target (too long, out of range, not in the enum); it is never altered.
    """
    a, b = source.base_type, target.base_type
    if a in _NAMES and b in _TEXTS and b != "bpchar":
        return ""
    if a.removeprefix("_") in REFUSED:
        return None
    if a in _INTEGERS and b in _INTEGERS:
        return ""
    if a in _INTEGERS and b == "numeric":
        return "" if not target.scale or target.scale >= 0 else None
    if a == "numeric" and b == "numeric":
        if target.scale is None:
            return ""
        return "::numeric" if source.scale is not None and source.scale <= target.scale else None
    if a in _RANK and b in _RANK:
        return "" if _RANK[a] <= _RANK[b] else None
    if a in _TEXTS and b in _TEXTS:
        # A char(n) arrives as text with its padding: exact, and a char(n) of another length would cut or pad it.
        return "" if b != "bpchar" or (a == "bpchar" and source.length == target.length) else None
    if a in _TEXTS and target.category == "e":
        return f"::{_qualified(target)}"
    if a == b and a in ("timestamp", "timestamptz", "time"):
        return (
            ""
            if target.precision is None
            or (6 if source.precision is None else source.precision) <= target.precision
            else None
        )
    if a == b and (source.shape == target.shape if source.shape else source.type == target.type):
        return "" if a in _NATIVE else f"::{_qualified(target)}"
    if source.category == "e" and b in _TEXTS and b != "bpchar":
        return ""
    if source.category == "e" and target.category == "e":
        return f"::{_qualified(target)}"
    if a == "uuid" and b in _TEXTS and b != "bpchar":
        return ""
    # The other way round `jsonb` would sort keys and drop repeated ones: that has to be declared.
    return "::json" if (a, b) == ("jsonb", "json") else None


_NATIVE = ("bool", "text", "varchar", "bpchar", "bytea", "date", "timestamp", "timestamptz", "time", "float4",
           "float8", "int2", "int4", "int8", "numeric")  # fmt: skip


def _qualified(column: Column) -> str:
    """The type's name as `format_type` gives it, which is quoted and qualified where it has to be."""
    return column.type
