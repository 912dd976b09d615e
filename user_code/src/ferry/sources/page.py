"""What every source hands on: pages of rows, each with the place to go on from, and a fact about
completeness.

A source offers `preflight()`, `read(window, checkpoint)` and, once `read` is exhausted, `completeness`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

import pyarrow as pa
import simplejson

from ferry.errors import DeclarationError, PermanentError, TransientError

# A page is what travels at once through extract and stage; this bound is what keeps a run's memory flat.
PAGE_BYTES = 16 * 1024 * 1024

# Seconds for which a change may be on its way: into the index that an API searches, or into the second that it shows.
LATE = 120

Edge = datetime | date | int | str


@dataclass(frozen=True)
class Window:
    """The half-open range `start <= key < end` of a source; an edge that is None is open.

    A window over files has the key ``file`` and paths as its edges.
    """

    key: str
    start: Edge | None = None
    end: Edge | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable; datetimes and dates as ISO text."""
        edges = (e.isoformat() if isinstance(e, date) else e for e in (self.start, self.end))
        return dict(zip(("key", "start", "end"), (self.key, *edges), strict=True))

    def __str__(self) -> str:
        """As messages name it: `created_at 2021-03-01 to 2021-04-01`."""
        asked = self.as_dict()
        return f"{self.key} {asked['start'] or 'the beginning'} to {asked['end'] or 'now'}"


@dataclass(frozen=True)
class Page:
    """Some rows and the place to go on from.

    Attributes:
        batch: the rows, at most about `PAGE_BYTES`; 0 rows when only the checkpoint has moved (a bulk
            operation was accepted, say): such a page's checkpoint must be kept like any other.
        checkpoint: JSON-serialisable; handed to `read`, the next page is the one after this.
        requests: calls sent to the source since the page before, retries among them.
        replaces: keys (each a list of values, as in the rows) of which an earlier page of this window had an
            older version: the source changed while it was read, and the row in this page is the one to keep.
        objects: for each row, what it is a part of, as `named` writes its key; empty when nothing is replaced in
            this reading.
    """

    batch: pa.RecordBatch
    checkpoint: dict[str, Any]
    requests: int = 0
    replaces: tuple[list[Any], ...] = ()
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completeness:
    """What the source said that it has against what arrived.

    Attributes:
        stated: objects that the source counted in the window; None when it offers no count that proves
            anything.
        arrived: distinct objects that arrived.
        hash: order-independent hash of them (hex): equal for two reads that brought the same rows.
        notes: what could not be proved, or was noticed on the way, in words.
    """

    stated: int | None
    arrived: int
    hash: str
    notes: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether the source's own count says that nothing is missing."""
        return self.stated is not None and self.stated == self.arrived


@dataclass(frozen=True)
class Glance:
    """What a source says of a window before its rows are asked for.

    Attributes:
        text: another one when the rows are others.
        rows: how many there are; None if it does not say.
        is_settled: whether it is sure to be another one after a change from now on. A time of the last change that
            lies moments back is not: the next change may have the same.
    """

    text: str
    rows: int | None = None
    is_settled: bool = True


class WindowIncomplete(TransientError):  # noqa: N818 - the fact is its name
    """What arrived is not what the source said: read the window again, from its beginning, without
    checkpoint.
    """


class PagesInDoubt(PermanentError):  # noqa: N818 - the fact is its name
    """The pages do not end: trying again changes nothing, and what has arrived is not to be gone on from."""


class OtherCheckpoint(DeclarationError):  # noqa: N818 - the fact is its name
    """A checkpoint of another declaration or window: the window has to be read from its beginning."""


def refuse_other(checkpoint: dict[str, Any], of: str) -> None:
    """Raise `OtherCheckpoint` unless the checkpoint was made by the same declaration and window."""
    if checkpoint.get("of") != of:
        raise OtherCheckpoint(
            "this checkpoint belongs to another declaration or window",
            next="Read the window from its beginning",
        )


class Pages(Protocol):
    """What `ferry.sources.paged` calls: a source that hands on pages."""

    @property
    def completeness(self) -> Completeness | None:
        """The fact about the last `read`, once it is exhausted; None before."""
        ...

    def preflight(self) -> None:
        """Raise a `FerryError` if reading cannot succeed: credentials, scopes, version, declaration."""
        ...

    def read(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Pages of the window after the checkpoint; raises `WindowIncomplete` if the counts do not agree."""
        ...

    def glance(self, window: Window | None, before: str | None) -> Glance | None:
        """What the source says of the window at little cost; None if nothing would show every change.

        Args:
            window: as for `read`.
            before: the text of an earlier glance, for a source that answers only whether it still holds.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def canonical(value: Any) -> str:
    """JSON with sorted keys and numbers as they were written, for hashes and for columns of type `json`."""
    text = simplejson.dumps(value, sort_keys=True, use_decimal=True, ensure_ascii=False, default=str)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and no other text can
        return simplejson.dumps(value, sort_keys=True, use_decimal=True, default=str)
    return text


def named(key: Any) -> str:
    """An object's key as text, the same for a single value and for a list of one."""
    return canonical(key if isinstance(key, list) else [key])


def frozen(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of a checkpoint as JSON will have it; later changes of the original do not reach it."""
    return json.loads(json.dumps(state, default=str))


def digest(value: Any) -> str:
    """A short hash of any JSON value (16 hex digits)."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=8).hexdigest()


def fingerprint(record: Any) -> str:
    """The hash of one record by content (32 hex digits)."""
    return hashlib.blake2b(canonical(record).encode(), digest_size=16).hexdigest()


@dataclass
class Tally:
    """A running count and order-independent hash of records; it travels in the checkpoint."""

    arrived: int = 0
    total: int = field(default=0)

    def add(self, content: str) -> None:
        """Count one record, given its fingerprint."""
        self.arrived += 1
        self.swap("0", content)

    def swap(self, old: str, new: str) -> None:
        """A newer version of a record took the place of an older one."""
        self.total = (self.total + int(new, 16) - int(old, 16)) % (1 << 128)

    @property
    def hash(self) -> str:
        """The sum of all records' fingerprints, modulo 2**128, in hex."""
        return f"{self.total:032x}"

    def as_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"arrived": self.arrived, "hash": self.hash}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Tally:
        """From the checkpoint."""
        return cls(saved["arrived"], int(saved["hash"], 16))
