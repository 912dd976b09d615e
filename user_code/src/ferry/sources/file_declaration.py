"""What can be declared of files: their formats, their columns, and where they lie."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr

from ferry.sources.declared import Declared, FieldSpec, PlainUrl, checked
from ferry.sources.file_bytes import LINE_BYTES


class CsvFormat(Declared):
    """CSV and its relatives.

    Attributes:
        delimiter, quote: one character each; `quote: ""` for files that have no quoting.
        escape: character that takes the next one literally; by default quotes are doubled (RFC 4180).
        encoding: of the text.
        header: whether the first line has the names. Without, the declared fields are the columns, in order.
        null: texts that mean null when they are not quoted.
        skip: lines before the header.
    """

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', max_length=1)
    escape: str = Field(default="", max_length=1)
    encoding: str = "utf-8"
    header: bool = True
    null: tuple[str, ...] = ("",)
    skip: int = 0


class JsonlFormat(Declared):
    """One JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"
    encoding: str = "utf-8"


class ParquetFormat(Declared):
    """Parquet; values keep the types that the file has."""

    kind: Literal["parquet"] = "parquet"


class ExcelFormat(Declared):
    """One sheet of a workbook (`.xlsx`), the first by default; `skip` lines before the header."""

    kind: Literal["excel"] = "excel"
    sheet: str | None = None
    skip: int = 0


class FixedWidthFormat(Declared):
    """Lines with columns at fixed places: `columns` is name to [first, last], counted from 1, both inside."""

    kind: Literal["fixed"] = "fixed"
    columns: dict[str, tuple[int, int]]
    encoding: str = "utf-8"
    strip: bool = True
    skip: int = 0


class FileKind(Declared):
    """What files of one kind are: everything that may stand in a declaration.

    Attributes:
        compression: `gzip`, `zstd`, `none`, or `auto` by the name's ending.
        format: what the files are; by the name's ending when left out.
        fields, ignore, unfit: as for REST; text is parsed only where `parse: true` says so.
        max_line_bytes: a longer record is refused.
        max_expansion: how many times its size a compressed file may unfold to.
    """

    compression: Literal["auto", "none", "gzip", "zstd"] = "auto"
    format: CsvFormat | JsonlFormat | ParquetFormat | ExcelFormat | FixedWidthFormat | None = Field(
        default=None, discriminator="kind"
    )
    fields: dict[str, FieldSpec | str] | None = None
    ignore: tuple[str, ...] = ()
    unfit: Literal["fail", "carry"] = "fail"
    max_line_bytes: int = LINE_BYTES
    max_expansion: int = 200


class FileStore(Declared):
    """Where files lie: everything that a connection has.

    Attributes:
        url: a path or URL; in a `FileDeclaration` with `*` and `**` for many: `/data/orders-*.csv.gz`,
            `s3://bucket/orders/*.parquet`, `sftp://host/out/*.csv`.
        options, secrets: for the file system (`endpoint_url`, `key`, `secret`, `username`, `password`, …).
    """

    url: PlainUrl
    options: dict[str, Any] = Field(default={})
    secrets: dict[str, SecretStr] = Field(default={})


class FileDeclaration(FileStore, FileKind):
    """Files of one kind, and where they lie."""

    @classmethod
    def parse(cls, given: dict[str, Any], where: str = "source") -> FileDeclaration:
        """From a declaration's mapping; raises `DeclarationError` with each fault and its place."""
        return checked(cls, given, where)
