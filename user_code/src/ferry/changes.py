"""Which partitions of a source have changed since somebody last looked: nothing skipped, nothing asked for twice.

A row counts from when its transaction ends, and bears the time at which that wrote it, which may be minutes earlier.
So each look goes back behind the newest change and compares what it finds there with what was found the last time.
"""

import datetime
import json
from dataclasses import dataclass

from ferry.extract import Source

OVERLAP = datetime.timedelta(minutes=10)
"""How far a look goes back behind the newest change that is known: no transaction should be open for longer."""


@dataclass(frozen=True)
class Look:
    """What a look found: partition → what tells its changes from those of another look, and how to go on from here."""

    changed: dict[str, str]
    cursor: str | None


def look(source: Source, entity: str, cursor: str | None) -> Look:
    """Compare the source with the last look.

    Args:
        source: where the entity is read from.
        entity: its name.
        cursor: of the last look; None for the first, which finds no change and begins to watch.
    """
    mark = source.high_water_mark(entity)
    if mark is None:
        return Look({}, cursor)
    since, known = _read(cursor)
    following = _behind(mark)
    # The new window is read before the old one: what changes in between is found now or, at worst, again.
    ahead = source.changes(entity, following) if following != since else None
    found = source.changes(entity, since) if since is not None else {}
    changed = {key: told for key, told in found.items() if known.get(key) != told}
    return Look(changed, json.dumps({"since": following, "known": found if ahead is None else ahead}))


def _read(cursor: str | None) -> tuple[str | None, dict[str, str]]:
    if cursor is None:
        return None, {}
    try:
        told = json.loads(cursor)
        return told["since"], told["known"]
    except (ValueError, TypeError, KeyError):
        # The mark alone, as it was kept once: whatever is behind it counts as new.
        return _behind(cursor), {}


def _behind(mark: str) -> str:
    """The beginning of the window that a mark is in: a moment that stays the same for a while; a number itself."""
    if "-" not in mark[1:]:
        return mark
    moment = datetime.datetime.fromisoformat(mark) - OVERLAP
    return moment.replace(minute=moment.minute // 10 * 10, second=0, microsecond=0).isoformat(" ")
