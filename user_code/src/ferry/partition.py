"""Partitions: the pieces into which a large table is cut, without Dagster.

A cut gives the ordered keys and, for each key, the window of one column; an entity is cut by one column or by two.
The first window is open below (and takes NULL), the last is open above; of a list the first takes whatever the others
do not. So every row belongs to exactly one partition.
"""

import datetime
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ferry.declaration import Cut as DeclaredCut
from ferry.declaration import Entity, Migration, nearest
from ferry.errors import DeclarationError

WHOLE = "all"
"""The key of the only partition of an entity that is not partitioned."""
OTHERS = "(others)"
"""The first piece of discovered values: NULL, and whatever is not known by a key of its own."""
BESIDE = "|"
"""What stands between the two parts of a key, as in Dagster."""

FORMATS = {"hour": "%Y-%m-%d-%H", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}

# A list that long is a mistake in `every`, and Dagster's UI does not cope with more.
MOST_PARTITIONS = 100_000
LONGEST_KEY = 200
_FOREVER = datetime.datetime.max


@dataclass(frozen=True)
class Window:
    """One piece of one column.

    `low <= column < high`, None being open; or the column as text is `value`; or it is none of `others`. NULL belongs
    here too with `or_null`, and nowhere else.
    """

    key: str
    low: Any = None
    high: Any = None
    or_null: bool = False
    value: str | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cut:
    """One column and the windows that cut it, in order; `listed` when they are values and not ranges."""

    by: str
    windows: tuple[Window, ...]
    every: str | int | None = None
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None
    discovered: bool = False

    @property
    def listed(self) -> bool:
        """Whether its windows are single values."""
        return self.every is None


@dataclass(frozen=True)
class Scheme:
    """How an entity is cut: by no column, by one, or by two, whose windows are combined each with each.

    `root` is the entity whose columns they are: another one when it is cut `through` a parent.
    """

    cuts: tuple[Cut, ...] = ()
    root: str = ""

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All partition keys, in order: those of the first column's first window first."""
        return tuple(self._windows)

    @cached_property
    def _windows(self) -> dict[str, tuple[Window, ...]]:
        each = [cut.windows for cut in self.cuts]
        return {BESIDE.join(w.key for w in one) or WHOLE: one for one in itertools.product(*each)}

    @property
    def discovers(self) -> bool:
        """Whether its keys depend on what the source holds."""
        return any(cut.discovered for cut in self.cuts)

    def window(self, key: str, entity: str) -> tuple[Window, ...]:
        """The windows of a key, one for each cut, or a `DeclarationError` that names the range."""
        if key in self._windows:
            return self._windows[key]
        keys = self.keys
        known = nearest(key, keys, "The partitions are") if len(keys) < 50 else ""
        raise DeclarationError(
            f"there is no partition {key!r}",
            where=entity,
            why=f"its partitions are {keys[0]} … {keys[-1]}"
            if len(keys) > 1
            else "it is loaded in one piece",
            next=f"ferry partitions {entity} --discover finds new ones" if self.discovers else known,
        )

    def chosen(self, text: str, entity: str) -> tuple[str, ...]:
        """The keys that `key` or `first:last` means; a key may have a colon in it."""
        if text in self._windows:
            return (text,)
        for colon in re.finditer(":", text):
            if (first := text[: colon.start()]) in self._windows and (
                last := text[colon.end() :]
            ) in self._windows:
                return self.between(first, last, entity)
        first, _, last = text.partition(":")
        return self.between(first, last or first, entity)

    def between(self, first: str, last: str, entity: str) -> tuple[str, ...]:
        """The keys from `first` to `last`, both included; of two columns, from and to in each of them."""
        chosen = []
        for cut, low, high in zip(
            self.cuts, self.window(first, entity), self.window(last, entity), strict=True
        ):
            start, end = cut.windows.index(low), cut.windows.index(high)
            if start > end:
                raise DeclarationError(
                    f"the partition {first!r} lies after {last!r}", where=entity, next=f"Write {last}:{first}"
                )
            chosen.append(cut.windows[start : end + 1])
        return Scheme(tuple(Cut(c.by, w) for c, w in zip(self.cuts, chosen, strict=True))).keys


def scheme_of(migration: Migration, name: str, now: datetime.datetime | None = None) -> Scheme:
    """The partitions of an entity; `through` is followed to the parent that declares them.

    Args:
        migration: all entities, and the discovered keys that are known (`ferry.known_keys`).
        name: the entity.
        now: the moment up to which a scheme reaches that has not come to its `end` (UTC; default: this moment).
    """
    entity, seen = _cut_by(migration, name), now or datetime.datetime.now(datetime.UTC)
    partition = entity.declaration.partition
    if partition is None:
        return Scheme(root=entity.name)
    cuts = [
        _cut(entity, one, migration.known.get((entity.name, one.by or ""), ()), seen)
        for one in partition.cuts
    ]
    if len(cuts) > 1 and len(cuts[0].windows) * len(cuts[1].windows) > MOST_PARTITIONS:
        raise _wrong(
            entity, f"{' and '.join(c.by for c in cuts)} make more than {MOST_PARTITIONS} partitions"
        )
    return Scheme(tuple(cuts), entity.name)


def cut_columns(migration: Migration, name: str) -> tuple[str, ...]:
    """The columns of its own by which an entity is cut, in the order of `Scheme.cuts`; none if `through` a parent."""
    partition = migration[name].declaration.partition
    return tuple(cut.by or "" for cut in partition.cuts) if partition else ()


def may_be_key(value: str, *, of_two: bool) -> bool:
    """Whether a value can be the key of a partition; what cannot stays with the others.

    Args:
        value: the column's text.
        of_two: whether the key has another part beside it.
    """
    forbidden = "|,[]" if of_two else ""
    return (
        0 < len(value) <= LONGEST_KEY
        and value == value.strip()
        and value != OTHERS
        and "..." not in value
        and value.isprintable()
        and not set(value) & set(forbidden)
    )


def _cut(entity: Entity, cut: DeclaredCut, known: Sequence[str], seen: datetime.datetime) -> Cut:
    by = cut.by or ""
    if cut.values == "discovered":
        windows = [Window(OTHERS, or_null=True, others=tuple(known)), *(Window(v, value=v) for v in known)]
        return Cut(by, tuple(windows), discovered=True)
    if cut.values is not None:
        first, *rest = cut.values
        windows = [Window(first, or_null=True, others=tuple(rest)), *(Window(v, value=v) for v in rest)]
        return Cut(by, tuple(windows))
    if isinstance(cut.every, int):
        start, end = cut.start, cut.end
        if not isinstance(start, int) or not isinstance(end, int):
            raise _wrong(entity, "`start` and `end` have to be whole numbers")
        steps = range(start, end, cut.every)
        if len(steps) > MOST_PARTITIONS:
            raise _wrong(entity, f"`every: {cut.every}` makes more than {MOST_PARTITIONS} partitions")
        bounds: list[Any] = list(steps)
        keys = [str(bound) for bound in bounds]
        return Cut(by, _windows(entity, keys, bounds), every=cut.every)
    start = _moment(cut.start)
    end = _moment(cut.end) if cut.end is not None else None
    if start is None or (end is not None and end < start):
        raise _wrong(entity, "`end` lies before `start`")
    # A window that has not begun yet is no partition: nothing could be loaded, and children would wait for it.
    until = min(end or _FOREVER, seen.astimezone(datetime.UTC).replace(tzinfo=None) if seen.tzinfo else seen)
    moments = [floor(start, str(cut.every))]
    while (after := following(moments[-1], str(cut.every))) <= until:
        moments.append(after)
        if len(moments) > MOST_PARTITIONS:
            raise _wrong(entity, f"`every: {cut.every}` makes more than {MOST_PARTITIONS} partitions")
    keys = [moment.strftime(FORMATS[str(cut.every)]) for moment in moments]
    dates = isinstance(cut.start, datetime.date) and not isinstance(cut.start, datetime.datetime)
    bounds = [moment.date() for moment in moments] if dates and cut.every != "hour" else moments
    return Cut(by, _windows(entity, keys, bounds), str(cut.every), moments[0], end)


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
