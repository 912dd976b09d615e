"""Partitions: the windows into which a large table is cut, without Dagster.

A scheme gives the ordered keys and, for each key, the half-open window of the partition column. The first window
is open below (and takes NULL), the last is open above, so that every row belongs to exactly one partition.
"""

import datetime
from dataclasses import dataclass
from typing import Any

from ferry.declaration import Entity, Migration, nearest
from ferry.errors import DeclarationError

WHOLE = "all"
"""The key of the only partition of an entity that is not partitioned."""

FORMATS = {"hour": "%Y-%m-%d-%H", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}

# A list that long is a mistake in `every`, and Dagster's UI does not cope with more.
MOST_PARTITIONS = 100_000
_FOREVER = datetime.datetime.max


@dataclass(frozen=True)
class Window:
    """One partition: `low <= column < high`; None is open; `or_null` when NULL belongs here too."""

    key: str
    low: Any = None
    high: Any = None
    or_null: bool = False
    value: str | None = None


@dataclass(frozen=True)
class Scheme:
    """The windows of an entity, in order, and the column that they cut."""

    by: str | None
    windows: tuple[Window, ...]
    every: str | int | None = None
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """All partition keys, in order."""
        return tuple(window.key for window in self.windows)

    def window(self, key: str, entity: str) -> Window:
        """The window of a key, or a `DeclarationError` that names the range."""
        for window in self.windows:
            if window.key == key:
                return window
        raise DeclarationError(
            f"there is no partition {key!r}",
            where=entity,
            why=f"its partitions are {self.keys[0]} … {self.keys[-1]}" if len(self.keys) > 1 else "",
            next=nearest(key, self.keys, "The partitions are") if len(self.keys) < 50 else "",
        )

    def between(self, first: str, last: str, entity: str) -> tuple[str, ...]:
        """The keys from `first` to `last`, both included."""
        keys = self.keys
        low, high = (keys.index(self.window(key, entity).key) for key in (first, last))
        if low > high:
            raise DeclarationError(
                f"the partition {first!r} lies after {last!r}", where=entity, next=f"Write {last}:{first}"
            )
        return keys[low : high + 1]


def scheme_of(migration: Migration, name: str, now: datetime.datetime | None = None) -> Scheme:
    """The partitions of an entity; `through` is followed to the parent that declares them.

    Args:
        migration: all entities.
        name: the entity.
        now: the moment up to which a scheme reaches that has not come to its `end` (UTC; default: this moment).
    """
    entity, seen = _cut_by(migration, name), now or datetime.datetime.now(datetime.UTC)
    partition = entity.declaration.partition
    if partition is None:
        return Scheme(None, (Window(WHOLE),))
    if partition.values is not None:
        windows = [
            Window(value, value=value, or_null=position == 0)
            for position, value in enumerate(partition.values)
        ]
        return Scheme(partition.by, tuple(windows))
    if isinstance(partition.every, int):
        start, end = partition.start, partition.end
        if not isinstance(start, int) or not isinstance(end, int):
            raise _wrong(entity, "`start` and `end` have to be whole numbers")
        steps = range(start, end, partition.every)
        if len(steps) > MOST_PARTITIONS:
            raise _wrong(entity, f"`every: {partition.every}` makes more than {MOST_PARTITIONS} partitions")
        bounds: list[Any] = list(steps)
        keys = [str(bound) for bound in bounds]
        return Scheme(partition.by, _windows(entity, keys, bounds), every=partition.every)
    start = _moment(partition.start)
    end = _moment(partition.end) if partition.end is not None else None
    if start is None or (end is not None and end < start):
        raise _wrong(entity, "`end` lies before `start`")
    # A window that has not begun yet is no partition: nothing could be loaded, and children would wait for it.
    until = min(end or _FOREVER, seen.astimezone(datetime.UTC).replace(tzinfo=None) if seen.tzinfo else seen)
    moments = [floor(start, str(partition.every))]
    while (after := following(moments[-1], str(partition.every))) <= until:
        moments.append(after)
        if len(moments) > MOST_PARTITIONS:
            raise _wrong(entity, f"`every: {partition.every}` makes more than {MOST_PARTITIONS} partitions")
    keys = [moment.strftime(FORMATS[str(partition.every)]) for moment in moments]
    dates = isinstance(partition.start, datetime.date) and not isinstance(partition.start, datetime.datetime)
    bounds = [moment.date() for moment in moments] if dates and partition.every != "hour" else moments
    return Scheme(partition.by, _windows(entity, keys, bounds), str(partition.every), moments[0], end)


def through_path(migration: Migration, name: str) -> tuple[str, ...]:
    """The entities from a child up to the one whose column cuts it: `(order_lines, orders)`; one name if its own."""
    path = [name]
    while (partition := migration[path[-1]].declaration.partition) and partition.through:
        if partition.through in path:
            raise DeclarationError(
                f"`through` runs in a circle: {' → '.join([*path, partition.through])}",
                where=f"{migration[name].path}: partition.through",
            )
        path.append(partition.through)
    return tuple(path)


def _cut_by(migration: Migration, name: str) -> Entity:
    return migration[through_path(migration, name)[-1]]


def _windows(entity: Entity, keys: list[str], bounds: list[Any]) -> tuple[Window, ...]:
    if not keys:
        raise _wrong(entity, "it makes no partition at all")
    last = len(keys) - 1
    return tuple(
        Window(
            key,
            low=None if position == 0 else bounds[position],
            high=None if position == last else bounds[position + 1],
            or_null=position == 0,
        )
        for position, key in enumerate(keys)
    )


def _moment(value: Any) -> datetime.datetime | None:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    return None


def floor(moment: datetime.datetime, every: str) -> datetime.datetime:
    """The start of the partition that a moment falls into."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match every:
        case "hour":
            return moment.replace(minute=0, second=0, microsecond=0)
        case "week":
            # Dagster's weekly partitions begin on Sunday.
            return day - datetime.timedelta(days=(day.weekday() + 1) % 7)
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)
        case _:
            return day


def following(moment: datetime.datetime, every: str) -> datetime.datetime:
    """The start of the next partition, given the start of one."""
    match every:
        case "hour":
            return moment + datetime.timedelta(hours=1)
        case "day":
            return moment + datetime.timedelta(days=1)
        case "week":
            return moment + datetime.timedelta(days=7)
        case "month":
            return moment.replace(year=moment.year + moment.month // 12, month=moment.month % 12 + 1)
        case _:
            return moment.replace(year=moment.year + 1)


def _wrong(entity: Entity, why: str) -> DeclarationError:
    return DeclarationError("the partitions cannot be made", where=f"{entity.path}: partition", why=why)
