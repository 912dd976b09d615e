"""Shopify's client against a shop that enforces Shopify's rules over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from emulators import reader
from emulators.running import Emulator
from ferry.errors import FerryError, PermanentError, TransientError
from ferry.sources.calls import Patience
from ferry.sources.page import Completeness, Window, WindowIncomplete
from ferry.sources.shopify import ENTITIES, Shop, ShopifySource
from ferry.sources.shopify_bulk import ShopifyBulkSource
from ferry.sources.shopify_rest import shopify_rest

TOKEN = "shpat_emulated"
QUICK = Patience(attempts=4, seconds=20, first_wait=0.02, longest_wait=0.2, timeout=5)
WIDE = ("--points", "20000", "--points-per-second", "10000")


@pytest.fixture(scope="module")
def shop_server() -> Iterator[Emulator]:
    """A shop with 1,500 orders and points in plenty, for all tests of this module."""
    with Emulator("shopify", "--orders", "1500", *WIDE) as emulator:
        yield emulator


@pytest.fixture
def emulator(shop_server: Emulator) -> Emulator:
    """The same, as new."""
    shop_server.control(reset=True)
    return shop_server


def connect(emulator: Emulator, state_dir: Path, **given: Any) -> Shop:
    """A client of the emulator, with little patience."""
    return Shop(emulator.url, given.pop("token", TOKEN), state_dir, patience=QUICK, **given)


def paged(emulator: Emulator, state_dir: Path, entity: str = "orders", **given: Any) -> ShopifySource:
    """An entity, page by page."""
    return ShopifySource(connect(emulator, state_dir), ENTITIES[entity], work_dir=state_dir, **given)


def bulk(emulator: Emulator, state_dir: Path, entity: str = "line_items", **given: Any) -> ShopifyBulkSource:
    """An entity, in bulk."""
    shop = connect(emulator, state_dir)
    return ShopifyBulkSource(shop, ENTITIES[entity], work_dir=state_dir, poll=(0.05, 0.2), **given)


def ids(pages: list[Any]) -> list[str]:
    """The ids on the pages, in order."""
    return [i for page in pages for i in page.batch.column("id").to_pylist()]


@pytest.mark.parametrize("entity", ["customers", "orders", "products", "variants"])
def test_every_object_arrives_once_and_the_count_proves_it(
    emulator: Emulator, tmp_path: Path, entity: str
) -> None:
    """Pages bring each object exactly once, and Shopify's own count agrees with what arrived."""
    source = paged(emulator, tmp_path, entity)
    pages = list(source.read(None, None))
    there = emulator.tell()["rows"][ENTITIES[entity].root]
    assert len(ids(pages)) == len(set(ids(pages))) == there
    assert source.completeness is not None
    assert source.completeness.proven
    assert source.completeness.stated == there


def test_values_come_as_they_are(emulator: Emulator, tmp_path: Path) -> None:
    """Ids beyond 2**53 keep every digit, money every cent, times their zone; an absent customer is null."""
    page = next(iter(paged(emulator, tmp_path, "customers").read(None, None)))
    assert page.batch.column("id")[1].as_py() == "gid://shopify/Customer/9007199254740994"
    order = next(iter(paged(emulator, tmp_path).read(None, None))).batch.slice(0, 1).to_pylist()[0]
    assert isinstance(order["total"], Decimal)
    assert order["created_at"] == datetime(2021, 1, 1, tzinfo=UTC)
    assert order["customer_id"] is None


def test_a_window_is_half_open(emulator: Emulator, tmp_path: Path) -> None:
    """Two windows that meet share no order and miss none."""
    middle = datetime(2022, 6, 1, tzinfo=UTC)
    first = ids(list(paged(emulator, tmp_path).read(Window("created_at", None, middle), None)))
    second = ids(list(paged(emulator, tmp_path).read(Window("created_at", middle, None), None)))
    assert not set(first) & set(second)
    assert len(first) + len(second) == 1500


def test_a_window_near_the_cap_is_split(tmp_path: Path) -> None:
    """With a cap of 300 objects a query, 1,500 orders arrive all the same, each once, and proven."""
    with Emulator("shopify", "--orders", "1500", "--cap", "300", *WIDE) as emulator:
        source = paged(emulator, tmp_path, cap=300)
        arrived = ids(list(source.read(None, None)))
    assert len(arrived) == len(set(arrived)) == 1500
    assert source.completeness is not None
    assert source.completeness.proven


def test_after_a_kill_only_what_is_missing_is_asked_for(emulator: Emulator, tmp_path: Path) -> None:
    """Killed after any page, the next process asks for the remaining pages and for no other."""
    given = {"url": emulator.url, "token": TOKEN, "entity": "orders", "page_size": 125}
    spec = {"kind": "shopify", "given": given}
    reader.read(spec, tmp_path / "whole")
    needed = emulator.tell()["total"]
    for die_after in (1, 3, 12):
        emulator.control(reset=True)
        cut = tmp_path / f"cut-{die_after}"
        assert reader.run(spec, cut, die_after).returncode == -9
        reader.read(spec, cut)
        assert emulator.tell()["total"] == needed
        assert reader.rows(cut) == reader.rows(tmp_path / "whole")
        assert (cut / "said.json").read_text() == (tmp_path / "whole/said.json").read_text()


@pytest.mark.parametrize(
    "fault",
    [
        {"throttle_next": 6},
        {"error_next": 3},
        {"half_next": 3},
        {"error_every": 3},
        {"throttle_next": 3, "half_next": 2},
    ],
)
def test_faults_are_waited_out(emulator: Emulator, tmp_path: Path, fault: dict[str, Any]) -> None:
    """A storm of throttling, errors and half answers costs time and nothing else."""
    emulator.control(**fault)
    source = paged(emulator, tmp_path)
    arrived = ids(list(source.read(None, None)))
    assert len(arrived) == len(set(arrived)) == 1500
    assert source.completeness is not None
    assert source.completeness.proven


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"drop_row": 100}, r"1,4\d\d objects arrived, and the source says that it has 1,500"),
        ({"repeat_page": 3}, "the same page"),
        ({"repeat_cursor": True}, "the source's cursor repeats"),
    ],
)
def test_pages_that_lie_fail_the_window(
    emulator: Emulator, tmp_path: Path, fault: dict[str, Any], message: str
) -> None:
    """A missing row, a repeated page or a repeated cursor is no success."""
    emulator.control(**fault)
    source = paged(emulator, tmp_path)
    with pytest.raises(WindowIncomplete, match=message):
        list(source.read(None, None))
    assert source.completeness is None


def test_what_changes_while_it_is_read_is_caught_up_with(tmp_path: Path) -> None:
    """An order that appears behind the cursor and one that changes after it was read both arrive.

    A look at the shop shows that something changed, and that so young a change may hide another one.
    """
    with Emulator("shopify", "--orders", "1500", *WIDE) as own:
        source, inside = paged(own, tmp_path), bulk(own, tmp_path)
        before = source.glance(None)
        assert before == source.glance(None) == inside.glance(None)
        assert before is not None
        assert before.is_settled
        assert bulk(own, tmp_path, "order_metafields").glance(None) is None
        own.control(mutate_after=own.tell()["pages"] + 4)
        pages = list(source.read(None, None))
        after = source.glance(None)
        assert after is not None
        assert (before.rows, after.rows, after.is_settled) == (1500, 1501, False)
    arrived = ids(pages)
    assert len(set(arrived)) == 1501
    assert "gid://shopify/Order/1" in arrived
    replaced = [key for page in pages for key in page.replaces]
    assert replaced == [["gid://shopify/Order/5500000000000"]]
    assert source.completeness is not None
    assert source.completeness.stated == 1501


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"scopes": ["read_orders", "read_customers"]}, "last 60 days"),
        ({"scopes": ["read_products"]}, "read_orders"),
        ({"versions": ["2026-04"]}, "2026-04, not 2026-01"),
    ],
)
def test_preflight_refuses(emulator: Emulator, tmp_path: Path, fault: dict[str, Any], message: str) -> None:
    """A missing scope or an unsupported version stops before anything is read."""
    emulator.control(**fault)
    with pytest.raises(PermanentError, match=message):
        paged(emulator, tmp_path).preflight()
    assert emulator.tell()["pages"] == 0


def test_a_wrong_token_is_said_without_showing_it(emulator: Emulator, tmp_path: Path) -> None:
    """The message has the request, the status and what to do, and not the token."""
    source = ShopifySource(connect(emulator, tmp_path, token="shpat_wrong_secret"), ENTITIES["orders"])
    with pytest.raises(PermanentError) as raised:
        source.preflight()
    assert "HTTP 401" in str(raised.value)
    assert "credentials" in str(raised.value)
    assert "shpat_wrong_secret" not in str(raised.value)


def test_a_decompression_bomb_is_not_unfolded(emulator: Emulator, tmp_path: Path) -> None:
    """100 MB that arrive as half a megabyte are refused at the limit for answers."""
    emulator.control(bomb=True)
    with pytest.raises(PermanentError, match="larger than 67,108,864 bytes once decompressed"):
        list(paged(emulator, tmp_path).read(None, None))


def test_a_time_without_zone_is_not_guessed(emulator: Emulator, tmp_path: Path) -> None:
    """It stops the read, with the record, the column, the value and what was declared."""
    emulator.control(no_zone=True)
    with pytest.raises(
        PermanentError, match='record 1: created_at is "2021-01-01T00:00:00", which is not timestamp'
    ):
        list(paged(emulator, tmp_path).read(None, None))


def test_a_row_without_id_is_handed_on(emulator: Emulator, tmp_path: Path) -> None:
    """It is the contract's to reject: the source neither drops it nor takes two of them for one."""
    emulator.control(null_id=True)
    arrived = ids(list(paged(emulator, tmp_path).read(None, None)))
    assert len(arrived) == 1500
    assert arrived.count(None) == 7


def test_a_value_that_does_not_fit_can_be_carried_to_the_contract(emulator: Emulator, tmp_path: Path) -> None:
    """With `unfit: carry` the row stays, its cell is null, and the value stands beside it."""
    emulator.control(no_zone=True)
    page = next(iter(paged(emulator, tmp_path, unfit="carry").read(None, None)))
    row = page.batch.slice(0, 1).to_pylist()[0]
    assert row["created_at"] is None
    assert row["_unfit"] == '{"created_at": "2021-01-01T00:00:00"}'


def test_the_limit_is_used_and_never_passed_by_several_runs(tmp_path: Path) -> None:
    """Four runs at once use at least 90 % of the points that flow, and not one query is throttled."""
    args = ("--orders", "3000", "--points", "2000", "--points-per-second", "1000")
    with Emulator("shopify", *args) as emulator:

        def run(number: int) -> int:
            source = ShopifySource(
                connect(emulator, tmp_path), ENTITIES["orders"], work_dir=tmp_path / str(number)
            )
            return len(ids(list(source.read(None, None))))

        ShopifySource(connect(emulator, tmp_path), ENTITIES["orders"]).preflight()
        began = monotonic()
        with ThreadPoolExecutor(4) as pool:
            arrived = list(pool.map(run, range(4)))
        seconds, told = monotonic() - began, emulator.tell()
    assert arrived == [3000] * 4
    assert told["overdrawn"] == 0
    use = (told["spent"] - 2000) / (seconds * 1000)
    assert use >= 0.9, f"{use:.1%} of the limit in {seconds:.1f} s"


@pytest.mark.parametrize("entity", sorted(ENTITIES))
def test_bulk_brings_every_entity(emulator: Emulator, tmp_path: Path, entity: str) -> None:
    """Each ready declaration is a query that the schema takes, and its rows are counted; a line that is empty is none.

    A window without objects has no file, and is proved empty.
    """
    emulator.control(bulk_tail="\n")
    if "created_at" in ENTITIES[entity].windows:
        empty = bulk(emulator, tmp_path, entity)
        late = Window("created_at", datetime(2040, 1, 1, tzinfo=UTC), None)
        assert ids(list(empty.read(late, None))) == []
        assert empty.completeness == Completeness(0, 0, "0" * 32)
    source = bulk(emulator, tmp_path, entity)
    source.preflight()
    arrived = ids(list(source.read(None, None)))
    assert len(arrived) == len(set(arrived)) > 0
    assert source.completeness is not None
    assert source.completeness.proven


def test_children_find_their_parents_in_any_order(emulator: Emulator, tmp_path: Path) -> None:
    """Line items that come before, after and far from their order have its id and its time."""
    pages = list(bulk(emulator, tmp_path, page_bytes=100_000).read(None, None))
    assert len(pages) > 5
    for row in (r for page in pages for r in page.batch.to_pylist()):
        order = int(row["order_id"].rsplit("/", 1)[1])
        assert int(row["id"].rsplit("/", 1)[1]) // 1000 == order
        assert row["order_created_at"] is not None


def test_pages_and_bulk_bring_the_same(emulator: Emulator, tmp_path: Path) -> None:
    """The same orders have the same hash by either way."""
    by_pages, by_bulk = paged(emulator, tmp_path), bulk(emulator, tmp_path, "orders")
    list(by_pages.read(None, None))
    list(by_bulk.read(None, None))
    assert by_pages.completeness == by_bulk.completeness


@pytest.fixture(scope="module")
def deep_server() -> Iterator[Emulator]:
    """A shop with 700 lines in one of its 45 orders, and 700 metafields on some of its objects."""
    args = ("--orders", "45", "--customers", "50", "--products", "50", "--most", "700")
    with Emulator("shopify", *args, "--points", "2000", "--points-per-second", "4000") as emulator:
        yield emulator


@pytest.mark.parametrize("entity", [name for name, one in ENTITIES.items() if one.child])
def test_children_are_read_to_their_end_page_by_page(
    deep_server: Emulator, tmp_path: Path, entity: str
) -> None:
    """What an object has more of than comes with it is asked for until it ends: row for row what bulk brings.

    The objects are counted by Shopify, and no query is throttled.
    """
    deep_server.control(reset=True)
    by_pages, by_bulk = paged(deep_server, tmp_path, entity), bulk(deep_server, tmp_path, entity)
    found = [
        sorted(
            (row for page in one.read(None, None) for row in page.batch.to_pylist()),
            key=lambda row: row["id"],
        )
        for one in (by_pages, by_bulk)
    ]
    assert len(found[0]) > 700
    assert found[0] == found[1]
    assert by_pages.completeness is not None
    assert by_pages.completeness.proven
    assert by_pages.completeness.stated == deep_server.tell()["rows"][ENTITIES[entity].root]
    assert deep_server.tell()["overdrawn"] == 0
    assert not list(tmp_path.glob("inside-*"))


def test_a_kill_among_the_children_of_one_page_repeats_only_the_call_under_way(
    deep_server: Emulator, tmp_path: Path
) -> None:
    """Killed while it waits for the third page of one order's lines, the next process asks for that one first."""
    deep_server.control(reset=True)
    spec = {"kind": "shopify", "given": {"url": deep_server.url, "token": TOKEN, "entity": "line_items"}}
    assert reader.run(spec, tmp_path / "whole").returncode == 0
    needed = deep_server.tell()["total"]
    # A count, the first objects, then the lines: the fifth call is in the midst of them.
    deep_server.control(reset=True)
    deep_server.control(silent_from=5)
    process = reader.start(spec, tmp_path / "cut")
    while deep_server.tell()["total"] < 5:
        assert process.poll() is None, process.communicate()
        sleep(0.02)
    process.kill()
    process.communicate()
    deep_server.control(silent_from=0)
    again = reader.run(spec, tmp_path / "cut")
    assert again.returncode == 0, again.stderr
    assert deep_server.tell()["total"] == needed + 1
    assert reader.rows(tmp_path / "cut") == reader.rows(tmp_path / "whole")
    assert (tmp_path / "cut/said.json").read_text() == (tmp_path / "whole/said.json").read_text()


def test_a_cursor_that_repeats_inside_an_object_fails_the_window(
    deep_server: Emulator, tmp_path: Path
) -> None:
    """The message has the object; the window read again begins at its beginning and is whole."""
    deep_server.control(reset=True)
    deep_server.control(inside_repeats=True)
    source = paged(deep_server, tmp_path, "line_items")
    with pytest.raises(WindowIncomplete, match=r"lineItems of gid://shopify/Order/5500000000000 repeats"):
        list(source.read(None, None))
    deep_server.control(inside_repeats=False)
    assert len(ids(list(source.read(None, None)))) > 700


def test_lines_of_an_order_that_changes_are_replaced(tmp_path: Path) -> None:
    """An order that changes after it was read is read again with its lines, and those that came before are stale."""
    with Emulator("shopify", "--orders", "60", *WIDE) as own:
        own.control(mutate_after=3)
        pages = list(paged(own, tmp_path, "line_items").read(None, None))
    first = "gid://shopify/Order/5500000000000"
    assert [key for page in pages for key in page.replaces] == [[first]]
    assert [page.objects for page in pages if page.replaces] == [(f'["{first}"]',)]


@pytest.mark.parametrize("die_after", [1, 2, 5])
def test_a_bulk_operation_is_taken_up_again(emulator: Emulator, tmp_path: Path, die_after: int) -> None:
    """Killed after it was accepted, or between pages, the operation is not started again, nor fetched twice."""
    given = {
        "url": emulator.url,
        "token": TOKEN,
        "entity": "line_items",
        "page_bytes": 100_000,
        "poll": [0.05, 0.2],
    }
    spec = {"kind": "shopify_bulk", "given": given}
    assert reader.run(spec, tmp_path / "cut", die_after).returncode == -9
    reader.read(spec, tmp_path / "cut")
    told = emulator.tell()
    assert told["operations"] == 1
    assert told["requests"]["download"] == 1
    arrived = [row["id"] for row in reader.rows(tmp_path / "cut")]
    assert len(arrived) == len(set(arrived)) == told["rows"]["lines"]


def test_a_broken_download_goes_on_where_it_broke(emulator: Emulator, tmp_path: Path) -> None:
    """The second request asks for the bytes that are missing only."""
    emulator.control(cut_download=1)
    source = bulk(emulator, tmp_path)
    arrived = ids(list(source.read(None, None)))
    told = emulator.tell()
    assert told["requests"]["download"] == 2
    assert len(arrived) == told["rows"]["lines"]
    emulator.control(reset=True)
    list(bulk(emulator, tmp_path).read(None, None))
    assert emulator.tell()["bulk_bytes"] == told["bulk_bytes"]


@pytest.mark.parametrize(
    "fault",
    [{"truncate_bulk": 500}, {"drop_bulk_line": 77}, {"bulk_status": "FAILED"}, {"bulk_status": "CANCELED"}],
)
def test_a_bulk_result_that_is_not_whole_hands_on_no_row(
    emulator: Emulator, tmp_path: Path, fault: dict[str, Any]
) -> None:
    """A truncated file, a missing line or a failed operation fails the window before its first row."""
    emulator.control(**fault)
    source = bulk(emulator, tmp_path)
    pages = source.read(None, None)
    assert next(pages).batch.num_rows == 0  # the operation is accepted
    with pytest.raises(WindowIncomplete):
        next(pages)
    assert source.completeness is None


def test_a_bulk_result_without_children_is_counted_too(emulator: Emulator, tmp_path: Path) -> None:
    """One customer missing from a file that is whole JSON is noticed by Shopify's own count."""
    emulator.control(drop_bulk_line=77)
    with pytest.raises(WindowIncomplete, match="objectCount 199, and Shopify says 200"):
        list(bulk(emulator, tmp_path, "customers").read(None, None))


def test_more_operations_than_the_shop_allows_queue(emulator: Emulator, tmp_path: Path) -> None:
    """Seven at once, with places for five: two wait, and all succeed."""

    def run(number: int) -> bool:
        source = bulk(emulator, tmp_path / str(number), "customers")
        list(source.read(None, None))
        return source.completeness is not None and source.completeness.proven

    with ThreadPoolExecutor(7) as pool:
        assert all(pool.map(run, range(7)))


@pytest.mark.parametrize("entity", ["customers", "orders", "line_items", "products"])
def test_rest_brings_the_same_rows(tmp_path: Path, entity: str) -> None:
    """By REST every object comes once too, within its leaky bucket, and Shopify's count proves it."""
    with Emulator("shopify", "--orders", "1500", "--calls-per-second", "10") as emulator:
        source = shopify_rest(connect(emulator, tmp_path), entity, work_dir=tmp_path, calls_per_second=10)
        source.preflight()
        arrived = ids(list(source.read(None, None)))
        told = emulator.tell()
    rows = {"line_items": "lines"}.get(entity, entity)
    assert len(arrived) == len(set(arrived)) == told["rows"][rows]
    assert told["rest_overdrawn"] == 0
    assert source.completeness is not None
    assert source.completeness.proven


def test_rest_windows_share_no_order_and_miss_none(tmp_path: Path) -> None:
    """REST counts the end of a window as inside; the order that stands on it belongs to the next window only."""
    with Emulator("shopify", "--orders", "900", "--calls-per-second", "50") as emulator:
        first_day = ShopifySource(connect(emulator, tmp_path), ENTITIES["orders"], work_dir=tmp_path)
        page = next(iter(first_day.read(None, None))).batch
        edge = page.column("created_at")[300 % page.num_rows].as_py()
        parts = []
        for window in (Window("created_at", None, edge), Window("created_at", edge, None)):
            source = shopify_rest(
                connect(emulator, tmp_path), "orders", work_dir=tmp_path, calls_per_second=50
            )
            parts.append(ids(list(source.read(window, None))))
            assert source.completeness is not None
            assert source.completeness.proven
    assert not set(parts[0]) & set(parts[1])
    assert len(parts[0]) + len(parts[1]) == 900


def test_a_server_that_stays_down_is_said_so(emulator: Emulator, tmp_path: Path) -> None:
    """When patience ends the error can be retried, and says what was asked and what was answered."""
    emulator.control(error_next=1000)
    with pytest.raises(TransientError, match=r"POST .*graphql.json: the source answers HTTP 500") as raised:
        list(paged(emulator, tmp_path).read(None, None))
    assert isinstance(raised.value, FerryError)
    assert raised.value.retryable
