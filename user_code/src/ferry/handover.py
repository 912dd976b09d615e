"""What passes between the thread that reads and the one that loads, and the events that come of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ferry.errors import FerryError
from ferry.ledger import Outcomes
from ferry.load import Seen, load_part
from ferry.loader import Loader
from ferry.reconcile import Reconciliation
from ferry.row_hashes import SourceHashes
from ferry.stage import Manifest, Part
from ferry.verdict import PartVerdict, Tally

RAW, VALIDATED, LOADED = "raw", "validated", "loaded"
STAGES = (RAW, VALIDATED, LOADED)


@dataclass(frozen=True)
class Progress:
    """A part went through: what a progress bar needs to know."""

    entity: str
    partition: str
    rows: int
    stage: str


@dataclass(frozen=True)
class Staged:
    """A partition lies whole in the staging area."""

    partition: str
    manifest: Manifest
    seconds: float
    sample: pa.Table | None = None
    drift: str = ""
    """How its columns differ from those with which it, or the partition before it, was staged the last time."""


@dataclass(frozen=True)
class Judged:
    """The verdict over a partition is complete."""

    partition: str
    manifest: Manifest
    tally: Tally
    seconds: float


@dataclass(frozen=True)
class LoadedPartition:
    """A partition is in the target and its row is in the ledger."""

    partition: str
    manifest: Manifest
    outcomes: Outcomes
    skipped_chunks: int
    rejections: dict[str, int]
    seconds: float
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """`rejected` and `waiting` → the first old keys, each with its reason or the parents that it lacks."""


@dataclass(frozen=True)
class PartitionFailed:
    """A partition did not make it; `stage` says how far it came."""

    partition: str
    error: FerryError
    stage: str


Event = Progress | Staged | Judged | LoadedPartition | Reconciliation | PartitionFailed


@dataclass(frozen=True)
class Begin:
    """A partition begins; its rows follow."""

    partition: str


@dataclass(frozen=True)
class Chunk:
    """What became of one part when it was loaded."""

    partition: str
    rows: int
    outcomes: Outcomes
    skipped: bool


@dataclass(frozen=True)
class Rows:
    """The rows of one part with their verdict, which of them are as they were in the stage before, and hashes."""

    partition: str
    stage_id: str
    part: Part
    table: pa.Table
    verdict: PartVerdict
    seen: Seen | None = None
    hashes: SourceHashes | None = None

    def load(self, before: dict[int, dict[str, Any]]) -> Callable[[Loader], Chunk]:
        """What a loader has to do with them; `before` is what the ledger says of the partition's chunks."""

        def by(loader: Loader) -> Chunk:
            outcomes, skipped = load_part(
                loader, self.stage_id, self.partition, self.part, self.table, self.verdict, before, self.seen,
                self.hashes,
            )  # fmt: skip
            return Chunk(self.partition, self.part.rows, outcomes, skipped)

        return by


@dataclass(frozen=True)
class Kept:
    """A partition that was not read again, because the source says that nothing changed."""

    partition: str
    manifest: Manifest


@dataclass(frozen=True)
class End:
    """A partition is staged whole; nothing of it follows."""

    partition: str
    manifest: Manifest


class Channel:
    """What the reading thread hands over; only rows take room in memory, so only they wait for a place."""

    def __init__(self, places: int) -> None:
        self._items: queue.Queue[Any] = queue.Queue()
        self._places = threading.Semaphore(places)

    def put(self, item: Any) -> bool:
        """Hand an item over; False if there was no place for its rows within a moment."""
        if isinstance(item, Rows) and not self._places.acquire(timeout=0.2):
            return False
        self._items.put(item)
        return True

    def get(self, *, wait: bool = True) -> Any:
        """The next item; raises `queue.Empty` if there is none and `wait` is false."""
        item = self._items.get(block=wait)
        if isinstance(item, Rows):
            self._places.release()
        return item

    def drain(self) -> None:
        """Let go of all that nobody will take any more."""
        try:
            while True:
                self.get(wait=False)
        except queue.Empty:
            return
