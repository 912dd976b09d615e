"""Bytes of a file as bounded blocks of whole lines: unpacked, decoded, and counted.

A block never grows beyond what one record may have, and what a compressed file unfolds to is held to a
multiple of
its size: neither a line of 10 GB nor a decompression bomb reaches memory or disk.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ferry.errors import PermanentError
from ferry.sources.page import WindowIncomplete

BLOCK_BYTES = 4 * 1024 * 1024
LINE_BYTES = 64 * 1024 * 1024
# Below this a high ratio is no attack: a small file of zeros is a small file.
_FREE_EXPANSION = 64 * 1024 * 1024
_ENDINGS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}


@dataclass(frozen=True)
class Block:
    """Whole lines: their bytes (UTF-8), the number of the first, and the offset after the last."""

    text: bytes
    first_line: int
    end: int
    is_last: bool


@dataclass(frozen=True)
class OpenedFile:
    """How one file is to be read.

    Attributes:
        name: for messages.
        open: gives the raw bytes, from their beginning.
        size: bytes that the store says it has; -1 when it does not say.
        compression: `none`, `gzip` or `zstd`.
        encoding: of its text; offsets count the bytes after decoding to UTF-8.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int
    compression: str = "none"
    encoding: str = "utf-8"
    max_line_bytes: int = LINE_BYTES
    max_expansion: int = 200
    block_bytes: int = BLOCK_BYTES

    def chunks(self, offset: int) -> Iterator[bytes]:
        """Decoded bytes from an offset on.

        Raises:
            PermanentError: not the declared encoding or compression, or it unfolds beyond all measure.
            WindowIncomplete: it ends before its end.
        """
        with self.open() as raw:
            is_plain = self.compression == "none" and self._is_utf8
            if is_plain:
                raw.seek(offset)
                yield from self._plain(raw, offset)
                return
            skip = offset
            for chunk in self._recoded(self._unpacked(raw)):
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                yield chunk[skip:]
                skip = 0

    def blocks(self, offset: int, line: int, boundary: Callable[[bytes, int, bool], int]) -> Iterator[Block]:
        """Blocks of whole records from an offset, which is the start of a line, on.

        Args:
            offset: bytes before.
            line: number of the line there, from 1.
            boundary: given bytes, the number of their first line and whether they end the file, the position
                after the last whole record; 0 if there is none.
        """
        rest, chunks = b"", self.chunks(offset)
        done = False
        while not done:
            chunk = next(chunks, b"")
            done = not chunk
            if offset == 0 and not rest and chunk.startswith(codecs.BOM_UTF8):
                chunk, offset = chunk[3:], 3
            rest += chunk
            if not done and len(rest) < self.block_bytes:
                continue
            cut = boundary(rest, line, done) if rest else 0
            if cut:
                text, rest = rest[:cut], rest[cut:]
                offset += cut
                yield Block(text, line, offset, done and not rest)
                line += text.count(b"\n")
            if len(rest) > self.max_line_bytes:
                raise PermanentError(
                    f"a record is longer than {self.max_line_bytes:,} bytes",
                    where=f"{self.name}, line {line}",
                    why="its line does not end, or a quote in it is not closed",
                    next="Correct the file, or raise max_line_bytes if such records are right",
                )
            if done and rest:
                raise WindowIncomplete(
                    "the file ends inside a record",
                    where=f"{self.name}, line {line}",
                    next="Deliver the file again",
                )

    @property
    def _is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "ascii", "utf-8-sig")

    def _plain(self, raw: BinaryIO, offset: int) -> Iterator[bytes]:
        while chunk := raw.read(1 << 20):
            offset += len(chunk)
            yield chunk
        if self.size >= 0 and offset != self.size:
            raise WindowIncomplete(
                f"it has {offset:,} bytes, and the store says {self.size:,}", where=self.name
            )

    def _unpacked(self, raw: BinaryIO) -> Iterator[bytes]:
        if self.compression == "none":
            yield from self._plain(raw, 0)
            return
        most = max(_FREE_EXPANSION, self.size * self.max_expansion) if self.size >= 0 else None
        got = 0
        try:
            stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), self.compression)
            while chunk := stream.read(1 << 20):
                got += len(chunk)
                if most is not None and got > most:
                    raise PermanentError(
                        f"it unfolds to more than {self.max_expansion} times its size",
                        where=self.name,
                        next="Raise max_expansion if the file is right",
                    )
                yield chunk
        except (pa.ArrowException, OSError) as error:
            raise WindowIncomplete(
                f"the {self.compression} data is damaged or ends early", where=self.name, why=str(error)[:200]
            ) from None

    def _recoded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if self._is_utf8:
            yield from chunks
            return
        decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        line = 1
        try:
            for chunk in chunks:
                text = decoder.decode(chunk).encode()
                line += text.count(b"\n")
                yield text
            yield decoder.decode(b"", final=True).encode()
        except UnicodeDecodeError as error:
            raise PermanentError(
                f"it is not {self.encoding}: {error.reason}",
                where=f"{self.name}, line {line} or soon after",
                next="Declare the file's encoding",
            ) from None


def compression_of(name: str, declared: str) -> str:
    """The compression that was declared, or that the name's ending tells."""
    if declared != "auto":
        return declared
    return next((kind for ending, kind in _ENDINGS.items() if name.lower().endswith(ending)), "none")


def line_end(text: bytes, line: int, is_end: bool) -> int:  # noqa: ARG001 - as `OpenedFile.blocks` asks
    """After the last newline; at the end of a file its last line needs none."""
    return len(text) if is_end else text.rfind(b"\n") + 1


def check_utf8(text: bytes, name: str, line: int) -> str:
    """The text; raises `PermanentError` with the line and column of a byte that is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        before = text[: error.start]
        raise PermanentError(
            f"byte {text[error.start]:#04x} is not UTF-8",
            where=f"{name}, line {line + before.count(10)}, byte {error.start - before.rfind(10)}",
            next="Declare the file's encoding (cp1252 and latin-1 are common)",
        ) from None


def as_bytes(text: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes as numbers, without a copy."""
    return np.frombuffer(text, np.uint8)
