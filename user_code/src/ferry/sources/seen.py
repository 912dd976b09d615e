"""Which keys have arrived in a read, on disk, so that a repeated row is known without holding keys in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import simplejson

from ferry.sources.page import canonical


@dataclass(frozen=True)
class Arrival:
    """What an arriving record is, seen from those before it.

    Attributes:
        is_new: its key has not been here.
        supersedes: fingerprint of the older version that it takes the place of. A record that is neither
            new nor supersedes anything is a repetition, or an older version of what is here.
    """

    is_new: bool = False
    supersedes: str | None = None


_NEW, _REPEATED = Arrival(is_new=True), Arrival()


class SeenKeys:
    """Keys with version and content, each with the page that brought it.

    The file belongs to one read; a kill leaves it at most one page ahead of the checkpoint, and `back_to`
    drops that.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        # It can be made again by reading again, so it need not survive a power cut; it must survive a kill.
        for pragma in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-16000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS seen (key TEXT, page INT, version TEXT, content TEXT,"
            " PRIMARY KEY (key, page)) WITHOUT ROWID"
        )

    def back_to(self, page: int) -> int:
        """Forget what came after that page; gives how many keys remain."""
        self._db.execute("DELETE FROM seen WHERE page > ?", (page,))
        return self._db.execute("SELECT count(DISTINCT key) FROM seen").fetchone()[0]

    def judge(self, page: int, arrivals: Iterable[tuple[Any, Any, str]]) -> list[Arrival]:
        """Note (key, version, fingerprint) of a page's records and say what each is; a null key is always
        new.

        Without a version, different content counts as newer: what the source says last is what holds.
        """
        self._db.execute("BEGIN")
        verdicts = [self._judge(page, *arrival) for arrival in arrivals]
        self._db.execute("COMMIT")
        return verdicts

    def _judge(self, page: int, key: Any, version: Any, content: str) -> Arrival:
        if key is None or (isinstance(key, list) and None in key):
            return _NEW
        name = canonical(key)
        row = self._db.execute(
            "SELECT version, content FROM seen WHERE key = ? ORDER BY page DESC LIMIT 1", (name,)
        ).fetchone()
        if row and (row[1] == content or _is_older(version, simplejson.loads(row[0], use_decimal=True))):
            return _REPEATED
        self._db.execute(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (name, page, canonical(version), content)
        )
        return Arrival(supersedes=row[1]) if row else _NEW

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def remove(self) -> None:
        """The read is over: close and delete."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def _is_older(one: Any, than: Any) -> bool:
    for kinds in (str, int | Decimal):
        if isinstance(one, kinds) and isinstance(than, kinds):
            return one < than
    return False
