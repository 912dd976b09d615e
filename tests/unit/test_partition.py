"""Partitions: every value belongs to exactly one window, and the keys are those that Dagster makes."""

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.components.partitions import partitions_of
from ferry.contract import Contract
from ferry.declaration import Entity, EntityDeclaration, Migration
from ferry.errors import DeclarationError
from ferry.partition import WHOLE, Scheme, Window, floor, scheme_of

NOW = datetime.datetime(2021, 3, 17, 12, 34, 56)


class Anything(Contract):
    """A contract that these tests never ask."""


def migration(**entities: dict[str, object]) -> Migration:
    """Entities by name, each with the keys that its partitions depend on."""
    made = {}
    for name, keys in entities.items():
        attributes = {
            "name": name,
            "source": {"connection": "old", "table": name, "key": "id"},
            "contract": "Anything",
            "target": {"connection": "new", "table": name, "key": {"column": "id"}},
            **keys,
        }
        made[name] = Entity(EntityDeclaration.model_validate(attributes), Anything, Path(f"{name}/defs.yaml"))
    return Migration(made)


def cut(**partition: object) -> Scheme:
    """The scheme of one entity that is cut in this way."""
    return scheme_of(migration(things={"partition": partition}), "things", NOW)


def holder(scheme: Scheme, value: object) -> list[str]:
    """The keys of the windows that hold a value, by the rule in the class's own words."""

    def inside(window: Window) -> bool:
        if value is None:
            return window.or_null
        return (window.low is None or window.low <= value) and (window.high is None or value < window.high)  # type: ignore[operator]

    return [window.key for window in scheme.windows if inside(window)]


def test_an_entity_without_partition_is_one() -> None:
    """Its only key is `all`, and there is no condition in it."""
    scheme = scheme_of(migration(things={}), "things")
    assert scheme.keys == (WHOLE,)
    assert scheme.by is None


@pytest.mark.parametrize(
    ("every", "start", "end", "first", "last", "count"),
    [
        ("hour", datetime.datetime(2021, 3, 17, 9, 30), None, "2021-03-17-09", "2021-03-17-12", 4),
        ("day", datetime.date(2021, 2, 27), datetime.date(2021, 3, 1), "2021-02-27", "2021-03-01", 3),
        ("week", datetime.date(2021, 3, 3), None, "2021-02-28", "2021-03-14", 3),
        ("month", datetime.date(2019, 11, 15), datetime.date(2020, 2, 1), "2019-11", "2020-02", 4),
        ("year", datetime.date(1992, 1, 1), datetime.date(1998, 12, 31), "1992", "1998", 7),
    ],
)
def test_keys_reach_from_the_start_to_the_end_or_to_now(
    every: str, start: object, end: object, first: str, last: str, count: int
) -> None:
    """Both ends are included; without an end, the window that is still open is the last."""
    keys = cut(by="at", every=every, start=start, end=end).keys
    assert (keys[0], keys[-1], len(keys)) == (first, last, count)


@given(
    every=st.sampled_from(["hour", "day", "week", "month", "year"]),
    start=st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2000, 1, 1)),
    length=st.timedeltas(datetime.timedelta(0), datetime.timedelta(days=40)),
    value=st.none() | st.datetimes(),
)
def test_every_value_belongs_to_exactly_one_window(
    every: str, start: datetime.datetime, length: datetime.timedelta, value: datetime.datetime | None
) -> None:
    """NULL, values before the start and after the end too; one inside the range is in the window that has its name."""
    scheme = cut(by="at", every=every, start=start, end=start + length)
    found = holder(scheme, value)
    assert len(found) == 1
    if value is not None and scheme.windows[0].high is not None and start <= value <= start + length:
        window = scheme.window(found[0], "things")
        assert window.low is None or window.low == floor(value, every)


@given(
    start=st.integers(-(10**12), 10**12), width=st.integers(1, 10**6), count=st.integers(1, 30),
    value=st.none() | st.integers(),
)  # fmt: skip
def test_every_number_belongs_to_exactly_one_range(
    start: int, width: int, count: int, value: int | None
) -> None:
    """Ranges of whole numbers are open at both ends of the list, and NULL goes with the first."""
    scheme = cut(by="id", every=width, start=start, end=start + width * count)
    assert len(scheme.keys) == count
    assert len(holder(scheme, value)) == 1


@pytest.mark.parametrize("every", ["hour", "day", "week", "month", "year"])
@pytest.mark.parametrize(
    "end", [datetime.date(2021, 2, 3), datetime.date(2021, 3, 17), datetime.date(2027, 1, 1), None]
)
def test_dagster_makes_the_same_keys(every: str, end: datetime.date | None) -> None:
    """What the engine calls a partition is what the UI calls it, up to the one that is open now."""
    scheme = cut(by="at", every=every, start=datetime.date(2021, 1, 5), end=end)
    definition = partitions_of(scheme)
    assert definition is not None
    assert tuple(definition.get_partition_keys(current_time=NOW.replace(tzinfo=datetime.UTC))) == scheme.keys


def test_through_takes_the_parents_windows() -> None:
    """A grandchild is cut as the entity at the end of the chain, and a circle is refused with its way."""
    by_month = {"partition": {"by": "at", "every": "month", "start": datetime.date(2021, 1, 1)}}
    chain = migration(
        orders=by_month,
        lines={"partition": {"through": "orders"}},
        parcels={"partition": {"through": "lines"}},
    )
    assert scheme_of(chain, "parcels", NOW) == scheme_of(chain, "orders", NOW)
    circle = migration(a={"partition": {"through": "b"}}, b={"partition": {"through": "a"}})
    with pytest.raises(DeclarationError, match="a → b → a"):
        scheme_of(circle, "a")


def test_listed_values_are_partitions_and_others_go_with_the_first() -> None:
    """The first value's window takes NULL."""
    scheme = cut(by="region", values=["north", "south"])
    assert scheme.keys == ("north", "south")
    assert [window.or_null for window in scheme.windows] == [True, False]


def test_a_key_that_is_none_names_the_range_and_the_nearest() -> None:
    """`1992-13` is a slip, and the message says what the range is."""
    scheme = cut(by="at", every="month", start=datetime.date(1992, 1, 1), end=datetime.date(1992, 12, 31))
    with pytest.raises(DeclarationError) as error:
        scheme.window("1992-13", "orders")
    assert "1992-01 … 1992-12" in str(error.value)
    assert "Did you mean '1992-1" in str(error.value)


def test_a_range_of_keys_includes_both_ends() -> None:
    """`1992-03:1992-05` is three months; a first after the last is a slip, not an empty range."""
    scheme = cut(by="at", every="month", start=datetime.date(1992, 1, 1), end=datetime.date(1992, 12, 31))
    assert scheme.between("1992-03", "1992-05", "orders") == ("1992-03", "1992-04", "1992-05")
    with pytest.raises(DeclarationError, match="lies after"):
        scheme.between("1992-05", "1992-03", "orders")


@pytest.mark.parametrize(
    "partition",
    [
        {"by": "at", "every": "hour", "start": datetime.date(1900, 1, 1)},
        {"by": "at", "every": "month", "start": datetime.date(2021, 1, 1), "end": datetime.date(2020, 1, 1)},
        {"by": "id", "every": 10, "start": 100, "end": 100},
        {"by": "id", "every": 1, "start": 0, "end": 10**9},
    ],
)
def test_ranges_that_make_none_or_far_too_many_are_refused(partition: dict[str, object]) -> None:
    """The message names the file and the key `partition`."""
    with pytest.raises(DeclarationError, match=r"things/defs\.yaml: partition"):
        cut(**partition)
