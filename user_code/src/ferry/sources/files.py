"""Files as a source: CSV, JSONL, Parquet, Excel and fixed width, local, on S3-like stores and over SFTP.

Files are read in bounded parts, whatever their size; gzip and Zstandard are unpacked on the way. A fault
names the file and the line. The checkpoint after each page is a place in a file together with the file's size
and version, so a file that changed in between is noticed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

import numpy as np
import polars as pl
import pyarrow as pa
from upath import UPath

from ferry.errors import DeclarationError, FerryError, PermanentError
from ferry.sources.declared import columns_of
from ferry.sources.file_bytes import BLOCK_BYTES, OpenedFile, compression_of
from ferry.sources.file_csv import read_csv
from ferry.sources.file_declaration import (
    CsvFormat,
    ExcelFormat,
    FileDeclaration,
    FixedWidthFormat,
    JsonlFormat,
    ParquetFormat,
)
from ferry.sources.file_formats import Part, read_excel, read_fixed_width, read_jsonl, read_parquet
from ferry.sources.file_systems import Sftp, store_fault
from ferry.sources.page import (
    Completeness,
    Glance,
    Page,
    Tally,
    Window,
    WindowIncomplete,
    digest,
    frozen,
    refuse_other,
)
from ferry.sources.shape import Shape

_FORMATS = {
    ".csv": CsvFormat(), ".tsv": CsvFormat(delimiter="\t"), ".jsonl": JsonlFormat(), ".ndjson": JsonlFormat(),
    ".parquet": ParquetFormat(), ".xlsx": ExcelFormat(),
}  # fmt: skip
# Seconds: a server over SFTP knows a file's time to the second, and not always by our clock.
_COARSEST_CLOCK = 3
_KNOWN = ("name", "size", "ETag", "etag", "LastModified", "mtime", "modified")


@dataclass(frozen=True)
class FoundFile:
    """One file that the URL matches.

    Attributes:
        name: its path below the folder of the URL.
        path: as the file system knows it.
        size: bytes, -1 if unknown.
        version: what tells a change: its tag, or else its time.
        places: what stands in its name for each `{place}` of the URL; `file` is the whole name.
        is_settled: whether a later change is sure to change size or version; a time of this second is not.
    """

    name: str
    path: str
    size: int
    version: str
    places: dict[str, str]
    is_settled: bool = True


class Listing:
    """What lies below one folder, listed once for all sources that share it, until one finds that it changed."""

    def __init__(self) -> None:
        self._listed: list[tuple[str, dict[str, Any]]] | None = None

    def files(self, find: Callable[[], Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """Each path with what is known of it; `find` lists them when nobody has."""
        if self._listed is None:
            # There may be hundreds of thousands: no more of each is held than is asked for.
            self._listed = [
                (path, {k: info[k] for k in _KNOWN if k in info}) for path, info in find().items()
            ]
        return self._listed

    def forget(self) -> None:
        """List anew when somebody asks."""
        self._listed = None


class FileSource:
    """Files that a URL matches, in the order of their names.

    A window over files has as its key a place of the URL (`month` of `orders-{month}.csv`), or `file` for the whole
    name, and text as its edges; `partition_window` makes the one of a single value.

    Args:
        declaration: where the files lie and what they are; or its keys by name.
        others: place → values: without the files that have one of these there. There may be none then.
        listing: shared by sources of the same folder; without, it is listed whenever `files` is asked.
    """

    def __init__(
        self,
        declaration: FileDeclaration | None = None,
        *,
        others: Mapping[str, frozenset[str]] | None = None,
        listing: Listing | None = None,
        block_bytes: int = BLOCK_BYTES,
        **given: Any,
    ) -> None:
        self._others = others or {}
        self.declared = declaration or FileDeclaration.parse(given)
        self.completeness: Completeness | None = None
        self._block_bytes = block_bytes
        options = self.declared.options | {k: v.get_secret_value() for k, v in self.declared.secrets.items()}
        base, self._pattern = _split(self.declared.url)
        self._listing = listing
        try:
            self._base = UPath(base, **cast(Any, options))
            self._fs = self._base.fs
        except (ImportError, ValueError, TypeError) as error:
            raise DeclarationError(
                "this URL cannot be opened", where=self.declared.url, why=str(error)
            ) from None
        except FerryError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise store_fault(error, self.declared.url) from None

    def preflight(self) -> None:
        """Raise a `FerryError` unless at least one file is there and the first can be opened and begun."""
        found = self.files()
        if not found and self._others:
            return
        if not found:
            raise PermanentError(
                "no file matches",
                where=self.declared.url,
                next="Check the path, the pattern and the permissions",
            )
        next(self._parts(found[0], None), None)

    def close(self) -> None:
        """Let go of a connection that is held."""
        if isinstance(self._fs, Sftp):
            self._fs.close()

    def files(self) -> list[FoundFile]:
        """The files there are now, by name."""
        path = self._base.path.rstrip("/") or self._base.path
        try:
            if not self._pattern:
                self._fs.invalidate_cache()
                return [_found(self._base.name, self._fs.info(path), {})]
            listed = (self._listing or Listing()).files(lambda: self._find(path))
        except FileNotFoundError:
            return []
        except Exception as error:  # each file system has errors of its own
            raise store_fault(error, self.declared.url) from None
        found, folder = [], f"{path.rstrip('/')}/"
        for whole, info in listed:
            name = whole.removeprefix(folder)
            if match := self._pattern.fullmatch(name):
                found.append(_found(name, info, match.groupdict()))
        for place, known in self._others.items():
            found = [file for file in found if _at(place, file) not in known]
        return sorted(found, key=lambda f: f.name)

    def values(self, place: str = "file") -> list[str]:
        """What there is now at a place of the URL, in order: the partitions by it."""
        return sorted({_at(place, file) for file in self.files()})

    def partition_window(self, value: str, place: str = "file") -> Window:
        """The window of the files that have a value at a place: by default the one file of that name."""
        return Window(place, value, value + "\0")

    def glance(self, window: Window | None, before: str | None = None) -> Glance | None:  # noqa: ARG002
        """Names, sizes and versions of the window's files."""
        files = [f for f in self.files() if _is_inside(f, window)]
        told = digest([[f.name, f.size, f.version] for f in files])
        return Glance(told, is_settled=all(f.is_settled for f in files))

    def read(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Pages of the window's files.

        Raises:
            WindowIncomplete: a file is truncated or damaged, or changed since the checkpoint.
            PermanentError: a file is not what was declared; the message has the line.
        """
        self.completeness = None
        declared = self.declared.model_dump(mode="json", exclude={"options", "secrets"})
        of = digest([declared, window.as_dict() if window else None])
        if checkpoint is not None:
            refuse_other(checkpoint, of)
        state = frozen(checkpoint) if checkpoint else _begin(of)
        shape = Shape(columns_of(self.declared.fields), self.declared.ignore, unfit=self.declared.unfit)
        shape.restore(state["shape"])
        tally = Tally.from_dict(state["tally"])
        try:
            yield from self._read([f for f in self.files() if _is_inside(f, window)], state, shape, tally)
        except FerryError:
            if self._listing:
                self._listing.forget()
            raise

    def _read(
        self, files: list[FoundFile], state: dict[str, Any], shape: Shape, tally: Tally
    ) -> Iterator[Page]:
        self._refuse_changed({f.name: [f.size, f.version] for f in files}, state)
        for file in files:
            if file.name in state["done"]:
                continue
            place = state["place"] if state["file"] and state["file"][0] == file.name else None
            for part in self._parts(file, place):
                batch = _batch(shape, part)
                if 0 <= part.rows != batch.num_rows:
                    raise WindowIncomplete(f"{batch.num_rows} rows came of {part.rows}", where=part.where)
                tally.swap("0", _content(batch))
                tally.arrived += batch.num_rows
                state["counted"] = state["counted"] and part.rows >= 0
                state |= {"file": [file.name, file.size, file.version], "place": part.place}
                if part.place is None:
                    state["done"][file.name] = [file.size, file.version]
                state |= {"tally": tally.as_dict(), "shape": shape.as_dict()}
                yield Page(batch, frozen(state), 1)
        self._refuse_changed(self._as_now(files), state)
        stated = tally.arrived if state["counted"] else None
        self.completeness = Completeness(stated, tally.arrived, tally.hash)

    def _find(self, folder: str) -> dict[str, Any]:
        self._fs.invalidate_cache()
        return cast(dict[str, Any], self._fs.find(folder, detail=True))

    def _as_now(self, files: list[FoundFile]) -> dict[str, list[Any]]:
        """Size and version of those files that are still there, asked one by one."""
        there = {}
        self._fs.invalidate_cache()
        for file in files:
            try:
                now = _found(file.name, self._fs.info(file.path), {})
            except FileNotFoundError:
                continue
            except Exception as error:  # each file system has errors of its own
                raise store_fault(error, file.name) from None
            there[file.name] = [now.size, now.version]
        return there

    def _refuse_changed(self, there: dict[str, list[Any]], state: dict[str, Any]) -> None:
        begun = dict(state["done"])
        if state["file"]:
            begun[state["file"][0]] = state["file"][1:]
        for name, was in begun.items():
            if there.get(name) != was:
                what = "changed" if name in there else "is gone"
                raise WindowIncomplete(
                    f"the file {what} since the reading began",
                    where=name,
                    next="Read the window from its beginning",
                )

    def _parts(self, file: FoundFile, place: Any) -> Iterator[Part]:
        form = self.declared.format or _format_of(file.name)
        opened = OpenedFile(
            name=file.name,
            open=lambda: cast(BinaryIO, self._fs.open(file.path, "rb", block_size=self._block_bytes)),
            size=file.size,
            compression=compression_of(file.name, self.declared.compression),
            encoding=getattr(form, "encoding", "utf-8"),
            max_line_bytes=self.declared.max_line_bytes,
            max_expansion=self.declared.max_expansion,
            block_bytes=self._block_bytes,
        )
        try:
            match form:
                case CsvFormat():
                    names = list(self.declared.fields) if self.declared.fields and not form.header else None
                    yield from read_csv(opened, form, names, place)
                case JsonlFormat():
                    yield from read_jsonl(opened, place)
                case FixedWidthFormat():
                    yield from read_fixed_width(opened, form, place)
                case ExcelFormat():
                    yield from read_excel(opened, form, place)
                case ParquetFormat():
                    yield from read_parquet(opened, place)
        except (FerryError, GeneratorExit):
            raise
        except LookupError as error:
            raise DeclarationError("there is no such encoding", where=file.name, why=str(error)) from None
        except Exception as error:  # each file system has errors of its own
            raise store_fault(error, file.name) from error


def _begin(of: str) -> dict[str, Any]:
    return {
        "of": of, "file": None, "place": None, "done": {}, "counted": True, "tally": Tally().as_dict(),
        "shape": Shape().as_dict(),
    }  # fmt: skip


def _batch(shape: Shape, part: Part) -> pa.RecordBatch:
    if part.batch is not None:
        return shape.typed(part.batch, part.where)
    if part.columns is not None:
        return shape.columns(part.columns, part.where)
    return shape.batch(part.records or [], part.where)


def _content(batch: pa.RecordBatch) -> str:
    """A hash of the rows that does not depend on their order, nor on how they were parted."""
    if not batch.num_rows or not batch.num_columns:
        return "0"
    hashes = cast(pl.DataFrame, pl.from_arrow(batch)).hash_rows(seed=7).to_numpy()
    return f"{int(hashes.sum(dtype=np.uint64)):x}"


def _split(url: str) -> tuple[str, re.Pattern[str] | None]:
    """The folder before the first wildcard or place, and the pattern of names below it."""
    at = re.search(r"[*?\[]|\{\w+\}", url)
    if not at:
        return url, None
    cut = url.rfind("/", 0, at.start()) + 1
    parts, places = [], set[str]()
    for token in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\]|\{[A-Za-z_]\w*\})", url[cut:]):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token)
        if token[:1] == "{" and token[-1:] == "}":
            name = token[1:-1]
            known = f"(?P={name})" if name in places else f"(?P<{name}>[^/]+?)"
            places.add(name)
        is_class = token[:1] == "[" and token[-1:] == "]"
        parts.append(known or (token.replace("[[", r"[\[") if is_class else re.escape(token)))
    return url[:cut] or ".", re.compile("".join(parts))


def folder_of(url: str) -> str:
    """The folder below which names are told, with its slash."""
    base, pattern = _split(url)
    return base if pattern else base[: base.rfind("/") + 1]


def literally(text: str) -> str:
    """A text as a pattern that matches it and nothing else."""
    return re.sub(r"[*?\[{]", r"[\g<0>]", text)


def _found(name: str, info: dict[str, Any], places: dict[str, str]) -> FoundFile:
    size = info.get("size")
    tag = next((info[k] for k in ("ETag", "etag") if info.get(k)), None)
    at = next((info[k] for k in ("LastModified", "mtime", "modified") if info.get(k) is not None), None)
    moment = at.timestamp() if isinstance(at, datetime) else at
    is_settled = tag is not None or (
        isinstance(moment, int | float) and abs(time.time() - moment) > _COARSEST_CLOCK
    )
    version = str(at if tag is None else tag) if (tag or at) is not None else ""
    return FoundFile(
        name, info["name"], -1 if size is None else int(size), version, {"file": name} | places, is_settled
    )


def _at(place: str, file: FoundFile) -> str:
    if place not in file.places:
        raise DeclarationError(
            f"the names of the files have no place {{{place}}}",
            where=file.name,
            next=f"They have: {', '.join(file.places)}. `file` is the whole name",
        )
    return file.places[place]


def _is_inside(file: FoundFile, window: Window | None) -> bool:
    if window is None:
        return True
    value, low, high = _at(window.key, file), window.start, window.end
    return (low is None or value >= str(low)) and (high is None or value < str(high))


def _format_of(name: str) -> Any:
    bare = re.sub(r"\.(gz|gzip|zst|zstd)$", "", name.lower())
    found = next((form for ending, form in _FORMATS.items() if bare.endswith(ending)), None)
    if found is None:
        known = ", ".join(_FORMATS)
        raise DeclarationError(
            "the name's ending tells no format", where=name, next=f"Declare format (known: {known})"
        )
    return found
