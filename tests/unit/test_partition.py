"""Partitions: every value belongs to exactly one window, and the keys are those that Dagster makes."""

import datetime
import re
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ferry.components.partitions import partitions_of, show_keys, tags_of_runs
from ferry.contract import Contract
from ferry.declaration import Entity, EntityDeclaration, Migration
from ferry.errors import DeclarationError
from ferry.partition import OTHERS, WHOLE, Scheme, Window, floor, may_be_key, scheme_of

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
    """The keys of the windows of a scheme of one cut that hold a value."""
    return [window.key for window in scheme.cuts[0].windows if inside(window, value)]


def inside(window: Window, value: object) -> bool:
    """Whether a window holds a value, by the rule in the class's own words."""
    if value is None:
        return window.or_null
    if window.value is not None or window.others:
        return value == window.value if window.value is not None else value not in window.others
    return (window.low is None or window.low <= value) and (window.high is None or value < window.high)  # type: ignore[operator]


def test_an_entity_without_partition_is_one() -> None:
    """Its only key is `all`, and there is no condition in it."""
    scheme = scheme_of(migration(things={}), "things")
    assert scheme.keys == (WHOLE,)
    assert scheme.cuts == ()
    assert scheme.window(WHOLE, "things") == ()


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
    if value is not None and len(scheme.keys) > 1 and start <= value <= start + length:
        (window,) = scheme.window(found[0], "things")
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


@given(value=st.none() | st.sampled_from(["north", "south", "east", "", "(others)"]) | st.text())
def test_every_value_belongs_to_exactly_one_partition_of_a_list(value: str | None) -> None:
    """Listed, what is not there comes with the first, and so does NULL; discovered, with the others."""
    listed = cut(by="region", values=["north", "south", 3])
    assert listed.keys == ("north", "south", "3")
    assert holder(listed, value) == [value if value in ("south", "3") else "north"]
    found = scheme_of(discovering("south", "north"), "things")
    assert found.keys == (OTHERS, "south", "north")
    assert holder(found, value) == [value if value in ("south", "north") else OTHERS]


def discovering(*known: str, **second: object) -> Migration:
    """An entity that is cut by the regions it holds, of which some are known, and perhaps by another column."""
    partition = {"by": "region", "values": "discovered", **({"and": second} if second else {})}
    return replace(migration(things={"partition": partition}), known={("things", "region"): known})


MONTHS = {"by": "at", "every": "month", "start": datetime.date(2021, 1, 1)}


@given(moment=st.none() | st.datetimes(), region=st.none() | st.sampled_from(["north", "south", "west"]))
def test_every_row_belongs_to_exactly_one_partition_of_two_columns(
    moment: datetime.datetime | None, region: str | None
) -> None:
    """Month and region: each pair of values is in one partition, whose parts are those that hold each alone."""
    starts = datetime.datetime(2021, 1, 1)
    scheme = cut(by="region", values=["north", "south"], **{"and": MONTHS | {"start": starts}})
    assert len(scheme.keys) == 3 * 2
    found = [
        key
        for key in scheme.keys
        for month, place in [scheme.window(key, "things")]
        if inside(month, moment) and inside(place, region)
    ]
    assert len(found) == 1
    assert found[0].endswith("|south" if region == "south" else "|north")


def test_dagster_makes_the_same_keys_of_two_columns_and_of_discovered_values() -> None:
    """The parts stand in the columns' alphabetical order, whichever is declared first; keys and their order agree."""
    by_month = {"every": "month", "start": datetime.date(2021, 1, 1), "end": datetime.date(2021, 2, 1)}
    early = cut(by="placed_at", **by_month, **{"and": {"by": "area", "values": ["north", "south"]}})
    late = cut(by="region", values=["north", "south"], **{"and": {"by": "placed_at", **by_month}})
    assert early.keys == ("north|2021-01", "north|2021-02", "south|2021-01", "south|2021-02")
    assert late.keys == ("2021-01|north", "2021-01|south", "2021-02|north", "2021-02|south")
    with dg.DagsterInstance.ephemeral() as instance:
        for known in (("south",), ("south", "east")):
            both = discovering(*known, by="placed_at", **by_month)
            show_keys(both, instance)
            found = scheme_of(both, "things")
            for scheme in (early, late, found):
                definition = partitions_of(scheme)
                assert definition is not None
                made = definition.get_partition_keys(dynamic_partitions_store=instance)
                assert tuple(made) == scheme.keys
        # What lies apart in Dagster's order needs a run for each piece, a rectangle needs one.
        definition = partitions_of(found)
        assert definition is not None
        corner = ("2021-01|(others)", "2021-01|south", "2021-02|(others)", "2021-02|south")
        assert found.keys[:2] + found.keys[3:5] == corner
        assert len(tags_of_runs(definition, found.keys, instance)) == 1
        assert len(tags_of_runs(definition, corner, instance)) == 1
        assert len(tags_of_runs(definition, found.keys[1:], instance)) == 2


@pytest.mark.parametrize("value", ["", " north", "a...b", "a\nb", "(others)", "x" * 201])
def test_a_value_that_can_be_no_partition_stays_with_the_others(value: str) -> None:
    """Dagster refuses such keys, or they could not be told apart; a part of a key of two has fewer characters."""
    assert not may_be_key(value, of_two=False)
    assert may_be_key("Côte d'Ivoire / Nord", of_two=True)
    assert may_be_key("a|b", of_two=False)
    assert not may_be_key("a|b", of_two=True)


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
    both = cut(by="at", every="year", start=datetime.date(1992, 1, 1), end=datetime.date(1994, 1, 1),
               **{"and": {"by": "of", "values": ["a:b", "b", "c"]}})  # fmt: skip
    assert both.chosen("1993|b:1994|c", "orders") == ("1993|b", "1993|c", "1994|b", "1994|c")
    assert both.chosen("1993|a:b", "orders") == ("1993|a:b",)
    assert both.chosen("1992|a:b:1993|a:b", "orders") == ("1992|a:b", "1993|a:b")


@pytest.mark.parametrize(
    "partition",
    [
        {"by": "at", "every": "hour", "start": datetime.date(1900, 1, 1)},
        {"by": "at", "every": "month", "start": datetime.date(2021, 1, 1), "end": datetime.date(2020, 1, 1)},
        {"by": "id", "every": 10, "start": 100, "end": 100},
        {"by": "id", "every": 1, "start": 0, "end": 10**9},
        {
            "by": "at",
            "every": "day",
            "start": datetime.date(1900, 1, 1),
            "and": {"by": "id", "every": 1, "start": 0, "end": 99},
        },
    ],
)
def test_ranges_that_make_none_or_far_too_many_are_refused(partition: dict[str, object]) -> None:
    """The message names the file and the key `partition`."""
    with pytest.raises(DeclarationError, match=r"things/defs\.yaml: partition"):
        cut(**partition)


@pytest.mark.parametrize(
    ("partition", "told"),
    [
        ({"by": "region", "values": ["north", "north"]}, "each value once"),
        ({"by": "region", "values": []}, "at least one"),
        ({"by": "region", "values": ["a...b"]}, "Dagster takes no partition"),
        ({"by": "region", "values": ["NO", False]}, "valid string"),
        ({"by": "region", "values": ["a|b"], "and": MONTHS}, "no `|`"),
        ({"by": "at", "values": ["a"], "and": MONTHS}, "another column"),
        ({"through": "orders", "and": MONTHS}, "no other key beside it"),
        ({"by": "region", "values": ["a"], "end": 3}, "allows no `every`, `start` or `end`"),
        ({"every": "month", "start": datetime.date(2021, 1, 1)}, "needs `by`"),
    ],
)
def test_what_cannot_be_a_partition_is_refused_in_words(partition: dict[str, object], told: str) -> None:
    """A list that YAML read otherwise, keys that Dagster refuses, two columns that are one."""
    with pytest.raises(ValidationError, match=re.escape(told)):
        cut(**partition)
