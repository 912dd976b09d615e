"""REST by declaration, against an API that has every kind of paging and every kind of fault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from emulators import reader
from emulators.hostile_rest import SECRETS
from emulators.running import Emulator
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.sources.page import Window, WindowIncomplete
from ferry.sources.rest import RestSource
from ferry.sources.rest_declaration import RestDeclaration

PAGINGS: dict[str, dict[str, Any]] = {
    "link": {"by": "link"},
    "next_url": {"by": "next_url", "next": "meta.next"},
    "cursor": {"by": "cursor", "param": "cursor", "next": "meta.next"},
    "offset": {"by": "offset", "param": "offset", "total": "meta.total"},
    "number": {"by": "number", "param": "page", "total": "header:X-Total-Count"},
    "keyset": {"by": "keyset", "param": "since_id", "key": "id"},
    "single": {"by": "none", "total": "meta.total"},
}
FIELDS = {
    "id": {"type": "decimal(20,0)"}, "name": "text", "email": "text", "amount": "decimal(12,2)", "active": "bool",
    "created_at": "timestamp", "updated_at": "timestamp", "made": "int",
    "owner_id": {"type": "int", "path": "owner.id"}, "lines": "json",
}  # fmt: skip
QUICK = {"attempts": 4, "patience": 20, "first_wait": 0.02, "longest_wait": 0.2, "timeout": 3}
WINDOW = {"start": "created_min", "end": "created_before"}


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """One emulator for all tests of this module."""
    with Emulator("hostile_rest", "--items", "1000") as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    """The same, as new."""
    server.control(reset=True)
    return server


def declare(emulator: Emulator, way: str = "cursor", **given: Any) -> dict[str, Any]:
    """A declaration that is right for the emulator, with changes."""
    path = f"/items/{way}" if "path" not in given else given.pop("path")
    paging = PAGINGS[way] | {"size": 100, "size_param": "limit"} | given.pop("paging", {})
    declared = {
        "url": emulator.url, "path": path, "records": "data.items", "key": "id", "version": "updated_at",
        "paging": paging, "fields": FIELDS, "count": {"path": "/count", "value": "data.count"}, "retries": QUICK,
    }  # fmt: skip
    return {k: v for k, v in (declared | given).items() if v is not None}


def source(emulator: Emulator, tmp_path: Path, way: str = "cursor", **given: Any) -> RestSource:
    """The source of such a declaration."""
    declared = RestDeclaration.parse(declare(emulator, way, **given))
    return RestSource(declared, state_dir=tmp_path, work_dir=tmp_path)


def rows(pages: list[Any]) -> list[dict[str, Any]]:
    """The rows on the pages, in order."""
    return [row for page in pages for row in page.batch.to_pylist()]


@pytest.mark.parametrize("way", sorted(PAGINGS))
def test_every_paging_brings_every_row_once(emulator: Emulator, tmp_path: Path, way: str) -> None:
    """Whatever the paging: each row once, in its exact values, and the count proves it."""
    one = source(emulator, tmp_path, way)
    arrived = rows(list(one.read(None, None)))
    assert [r["id"] for r in arrived] == [Decimal(9_007_199_254_740_993 + n) for n in range(1000)]
    assert arrived[12]["amount"] == Decimal("12.12")
    assert arrived[11]["email"] is None
    assert arrived[2]["lines"] == '[{"no": 1, "sku": "S0"}, {"no": 2, "sku": "S1"}]'
    assert one.completeness is not None
    assert one.completeness.proven


ENDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "HTTP 204": ("number", {"end_as": "204"}, {}),
    "HTTP 404, as declared": ("offset", {"end_as": "404"}, {"end": 404}),
    "null for the list": ("keyset", {"end_as": "null"}, {}),
    "false for the cursor": ("cursor", {"end_as": "false"}, {"more": "meta.more"}),
    "false for the URL": ("next_url", {"end_as": "false"}, {}),
    "another path of the same host": ("cursor", {"moved": "/v2"}, {}),
}


@pytest.mark.parametrize("end", ENDS)
def test_apis_end_and_move_in_ways_of_their_own(emulator: Emulator, tmp_path: Path, end: str) -> None:
    """Nothing, null or false mean that there are no more; who has moved on the same host is followed."""
    way, behaviour, paging = ENDS[end]
    emulator.control(**behaviour)
    one = source(emulator, tmp_path, way, paging=paging | {"total": ""})
    assert len(rows(list(one.read(None, None)))) == 1000
    assert one.completeness is not None
    assert one.completeness.proven


def test_a_page_that_is_not_there_is_no_end_unless_it_is_declared(emulator: Emulator, tmp_path: Path) -> None:
    """HTTP 404 may be a fault as well; the message says what to declare. A host elsewhere gets no credentials."""
    emulator.control(end_as="404")
    with pytest.raises(PermanentError, match=r"paging: \{end: 404\}"):
        list(source(emulator, tmp_path, "offset", paging={"total": ""}).read(None, None))
    emulator.control(moved="http://127.0.0.1:9")
    with pytest.raises(PermanentError, match="another host"):
        source(emulator, tmp_path).preflight()


@pytest.mark.parametrize("way", ["link", "next_url", "cursor", "offset", "number", "keyset"])
def test_after_a_kill_only_the_missing_pages_are_asked_for(
    emulator: Emulator, tmp_path: Path, way: str
) -> None:
    """Killed after the fourth page by SIGKILL, the next process asks for six more pages and no other."""
    spec = {"kind": "rest", "given": declare(emulator, way)}
    assert reader.run(spec, tmp_path / "cut", 4).returncode == -9
    before = emulator.tell()["requests"]
    reader.read(spec, tmp_path / "cut")
    after = emulator.tell()["requests"]
    ends_with_empty_page = way == "keyset"
    assert before["page"] == 4
    assert after["page"] == 10 + ends_with_empty_page
    arrived = [r["id"] for r in reader.rows(tmp_path / "cut")]
    assert len(arrived) == len(set(arrived)) == 1000


AUTHS: dict[str, tuple[str, dict[str, Any]]] = {
    "bearer": ("bearer", {"kind": "bearer", "token": SECRETS["bearer"]}),
    "basic": ("basic", {"kind": "basic", "user": SECRETS["user"], "password": SECRETS["password"]}),
    "key_header": ("key_header", {"kind": "api_key", "name": "X-Api-Key", "value": SECRETS["key"]}),
    "key_query": ("key_query", {"kind": "api_key", "name": "key", "value": SECRETS["key"], "place": "query"}),
    "oauth1": ("oauth1", {
        "kind": "oauth1", "consumer_key": SECRETS["consumer"], "consumer_secret": SECRETS["consumer_secret"],
        "token": SECRETS["token"], "token_secret": SECRETS["token_secret"]}),
    "oauth2": ("oauth2", {
        "kind": "oauth2", "token_url": "{url}/token", "client_id": SECRETS["client"],
        "client_secret": SECRETS["secret"]}),
    "refresh": ("refresh", {
        "kind": "oauth2", "token_url": "{url}/token", "client_id": SECRETS["client"],
        "client_secret": SECRETS["secret"], "refresh_token": SECRETS["refresh"]}),
}  # fmt: skip


def guarded(emulator: Emulator, name: str, way: str = "link", **given: Any) -> dict[str, Any]:
    """What to change in a declaration for a resource that is guarded so."""
    place, auth = AUTHS[name]
    auth = {k: v.replace("{url}", emulator.url) for k, v in auth.items()}
    return {"path": f"/as/{place}/items/{way}", "auth": auth, "count": None, **given}


@pytest.mark.parametrize("name", sorted(AUTHS))
def test_every_way_to_prove_who_calls(emulator: Emulator, tmp_path: Path, name: str) -> None:
    """Each kind of auth is taken by a server that checks it, on first and on following pages."""
    one = source(emulator, tmp_path, "link", **guarded(emulator, name))
    one.preflight()
    assert len(rows(list(one.read(None, None)))) == 1000


@pytest.mark.parametrize("name", sorted(AUTHS))
def test_wrong_credentials_are_named_and_not_shown(emulator: Emulator, tmp_path: Path, name: str) -> None:
    """The message says what was asked, the status and what to do; the secret, which the server echoes, is
    masked.
    """
    given = guarded(emulator, name)
    wrong = dict.fromkeys(("token", "password", "value", "client_secret", "token_secret"), "wrong-s3cret")
    given["auth"] |= {k: v for k, v in wrong.items() if k in given["auth"]}
    with pytest.raises(PermanentError) as raised:
        source(emulator, tmp_path, "link", **given).preflight()
    assert "HTTP 401" in str(raised.value)
    assert "Check" in raised.value.next
    assert "wrong-s3cret" not in str(raised.value.as_dict())


def test_a_token_that_expires_is_renewed_between_pages(emulator: Emulator, tmp_path: Path) -> None:
    """Tokens refused in the middle are got anew and the page is asked for again; no row is lost."""
    one = source(emulator, tmp_path, "link", **guarded(emulator, "oauth2"))
    arrived = 0
    for number, page in enumerate(one.read(None, None)):
        arrived += page.batch.num_rows
        if number in (2, 5):
            emulator.control(forget_tokens=True)
    assert arrived == 1000
    assert emulator.tell()["granted"] == 3


def test_a_refresh_token_that_changes_is_kept_for_the_next_run(emulator: Emulator, tmp_path: Path) -> None:
    """The first run's new refresh token is what the second run uses; the file is its owner's only."""
    emulator.control(rotate_refresh=True)
    given = guarded(emulator, "refresh")
    list(source(emulator, tmp_path, "link", **given).read(None, None))
    emulator.control(forget_tokens=True)
    assert len(rows(list(source(emulator, tmp_path, "link", **given).read(None, None)))) == 1000
    assert emulator.tell()["granted"] == 2
    kept = list(tmp_path.glob("token-*.json"))
    assert [k.stat().st_mode & 0o777 for k in kept] == [0o600]


@pytest.mark.parametrize(
    "fault",
    [
        {"throttle_next": 8}, {"throttle_next": 3, "retry_after": "date"}, {"throttle_next": 3, "retry_after": ""},
        {"error_next": 3}, {"error_every": 2}, {"half_next": 3}, {"half_json_next": 3}, {"hang_next": 3.5},
    ],
)  # fmt: skip
def test_faults_are_waited_out(emulator: Emulator, tmp_path: Path, fault: dict[str, Any]) -> None:
    """Throttling, errors, half answers and hanging cost time and no row."""
    emulator.control(**fault)
    one = source(emulator, tmp_path)
    assert len(rows(list(one.read(None, None)))) == 1000
    assert one.completeness is not None
    assert one.completeness.proven


def test_throttling_with_another_status_is_throttling(emulator: Emulator, tmp_path: Path) -> None:
    """HTTP 400 with the declared word is waited out; without the declaration it is refused at once."""
    emulator.control(throttle_next=3, throttle_as=400)
    rule = [{"status": 400, "contains": "SSS_REQUEST_LIMIT_EXCEEDED"}]
    assert len(rows(list(source(emulator, tmp_path, throttled=rule).read(None, None)))) == 1000
    emulator.control(throttle_next=3, throttle_as=400)
    with pytest.raises(PermanentError, match="HTTP 400"):
        list(source(emulator, tmp_path).read(None, None))


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        ("number", {"short_page": 4}), ("offset", {"skip_page": 3}), ("cursor", {"skip_page": 3}),
        ("link", {"short_page": 4}), ("number", {"repeat_page": 5}), ("cursor", {"repeat_page": 5}),
        ("cursor", {"repeat_cursor_after": 4}), ("keyset", {"skip_page": 1}),
    ],
)  # fmt: skip
def test_pages_that_lie_fail_the_window(
    emulator: Emulator, tmp_path: Path, way: str, fault: dict[str, Any]
) -> None:
    """A short, missing or repeated page, or a cursor that goes in circles, is no success."""
    emulator.control(**fault)
    one = source(emulator, tmp_path, way)
    with pytest.raises(WindowIncomplete):
        list(one.read(None, None))
    assert one.completeness is None


@pytest.mark.parametrize(
    ("fault", "given", "message"),
    [
        ({"repeat_page": 5}, {"key": None}, "the same page of 100 rows twice"),
        ({"repeat_page": 5, "repeat_reversed": True}, {}, "a whole page of 100 rows came a second time"),
        ({"repeat_cursor_after": 4}, {"key": None}, "the same page of 100 rows twice"),
    ],
)
def test_a_repetition_is_seen_without_any_count(
    emulator: Emulator, tmp_path: Path, fault: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    """By the page itself when there is no key, by the keys when the page looks different."""
    emulator.control(**fault)
    with pytest.raises(WindowIncomplete, match=message):
        list(source(emulator, tmp_path, "cursor", count=None, **given).read(None, None))


def test_a_short_page_by_offset_is_completed(emulator: Emulator, tmp_path: Path) -> None:
    """The next page begins where the short one ended, so its other half arrives."""
    emulator.control(short_page=4)
    one = source(emulator, tmp_path, "offset")
    arrived = [r["id"] for r in rows(list(one.read(None, None)))]
    assert len(arrived) == len(set(arrived)) == 1000


def test_without_a_count_nothing_is_called_proven(emulator: Emulator, tmp_path: Path) -> None:
    """No count and no total: what arrived is handed on, and completeness is not claimed."""
    one = source(emulator, tmp_path, "cursor", count=None)
    list(one.read(None, None))
    assert one.completeness is not None
    assert one.completeness.stated is None
    assert not one.completeness.proven
    assert one.completeness.arrived == 1000


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"endless": True}, "do not end"), ({"endless_empty": True}, "empty pages in a row")],
)
def test_endless_pages_end(emulator: Emulator, tmp_path: Path, fault: dict[str, Any], message: str) -> None:
    """A source that always has a next page is left, with what it said and what came."""
    emulator.control(**fault)
    with pytest.raises(PermanentError, match=message):
        list(source(emulator, tmp_path, paging={"size": 200}).read(None, None))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"rename_after": 3}, "undeclared fields: mail"),
        ({"add_after": 3}, "undeclared fields: surprise"),
        ({"other_host": True}, "another host: http://127.0.0.1:9"),
        ({"error_with_200": True}, "no list at data.items"),
        ({"not_json": "<html>bad gateway</html>"}, "not whole JSON"),
        ({"not_json": '{"data": {"items": [{"id": NaN}]}}'}, "NaN"),
        ({"not_json": '{"data": {"items": ["\xff"]}}'}, "not UTF-8"),
        ({"not_json": '{"data": {"items": [7]}}'}, "record 1 is no object but int"),
        ({"not_json": "[" * 100_000}, "nested too deeply"),
        ({"bomb": True}, "once decompressed"),
        ({"long_line": 10_000_000_000}, "larger than 67,108,864 bytes"),
    ],
)
def test_bad_answers_say_what_they_are(
    emulator: Emulator, tmp_path: Path, fault: dict[str, Any], message: str
) -> None:
    """The message has the request and the fault, and no row of a bad page is handed on."""
    emulator.control(**fault)
    with pytest.raises(FerryError, match=message) as raised:
        list(source(emulator, tmp_path, "link", count=None).read(None, None))
    assert emulator.url in str(raised.value)


def test_a_field_that_disappears_is_not_taken_for_null(emulator: Emulator, tmp_path: Path) -> None:
    """With `ignore: *` a renamed field is not unknown, but its old name is missed."""
    emulator.control(rename_after=3)
    with pytest.raises(PermanentError, match="fields are gone from the rows: email"):
        list(source(emulator, tmp_path, ignore=["*"]).read(None, None))


def test_types_taken_from_rows_lose_nothing(emulator: Emulator, tmp_path: Path) -> None:
    """Without declared fields numbers keep their text, ids their digits, and lists are JSON."""
    pages = list(source(emulator, tmp_path, fields=None).read(None, None))
    schema = {f.name: str(f.type) for f in pages[0].batch.schema}
    assert schema["id"] == "int64"
    assert schema["amount"] == "string"
    row = rows(pages)[101]
    assert (row["id"], row["amount"]) == (9_007_199_254_741_094, "101.01")
    assert row["owner"] == '{"id": 10, "name": "Ünï"}'


def test_a_value_of_another_type_stops_with_its_place(emulator: Emulator, tmp_path: Path) -> None:
    """Declared int, and the source sends text: record, column, value and what to do."""
    fields = FIELDS | {"name": {"type": "int"}}
    with pytest.raises(PermanentError, match='record 1: name is "item 0", which is not int') as raised:
        list(source(emulator, tmp_path, fields=fields).read(None, None))
    assert "parse: true" in raised.value.next


def test_lists_inside_rows_unfold_with_their_parents(emulator: Emulator, tmp_path: Path) -> None:
    """`data.items[].lines[]`: the rows are the lines, `^id` their item; items without lines bring none."""
    fields = {"item_id": {"type": "int", "path": "^id"}, "no": "int", "sku": "text"}
    one = source(emulator, tmp_path, records="data.items[].lines[]", fields=fields, ignore=["*"])
    arrived = rows(list(one.read(None, None)))
    assert len(arrived) == sum(n % 3 for n in range(1000))
    assert arrived[0] == {"item_id": 9_007_199_254_740_994, "no": 1, "sku": "S0"}
    assert one.completeness is not None
    assert one.completeness.stated == 1000


def test_windows_meet_without_gap_or_overlap(emulator: Emulator, tmp_path: Path) -> None:
    """Exclusive and inclusive ends give the same half-open windows, and each is proven."""
    middle = datetime(2023, 1, 2, 23, 57, tzinfo=UTC)  # a row's own time: 7 minutes x 411
    edges = [(None, middle), (middle, None)]
    inclusive = {"start": "created_min", "end": "created_max", "end_is": "inclusive", "field": "created_at"}
    for window in (WINDOW, inclusive):
        parts = []
        for start, end in edges:
            one = source(emulator, tmp_path, window=window)
            parts.append([r["id"] for r in rows(list(one.read(Window("created_at", start, end), None)))])
            assert one.completeness is not None
            assert one.completeness.proven
        assert [len(p) for p in parts] == [411, 589]
        assert len({*parts[0], *parts[1]}) == 1000


def test_a_window_near_the_cap_is_split(emulator: Emulator, tmp_path: Path) -> None:
    """A cap of 300 with 1,000 rows in the window: four parts, each row once."""
    one = source(emulator, tmp_path, window=WINDOW, cap=300)
    window = Window("created_at", datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 2, 1, tzinfo=UTC))
    arrived = [r["id"] for r in rows(list(one.read(window, None)))]
    assert len(arrived) == len(set(arrived)) == 1000
    assert one.completeness is not None
    assert one.completeness.stated == 1000


def test_rows_that_shift_while_they_are_read(emulator: Emulator, tmp_path: Path) -> None:
    """A row put before all others shifts offsets by one: the repeated row is dropped and the new one caught."""
    emulator.control(shift_after=4)
    one = source(emulator, tmp_path, "offset", changes={"since": "updated_min"})
    arrived = [r["id"] for r in rows(list(one.read(None, None)))]
    assert len(arrived) == len(set(arrived)) == 1001
    assert Decimal(5) in arrived
    assert one.completeness is not None
    assert one.completeness.stated == 1001


def test_a_server_in_another_time_is_followed(emulator: Emulator, tmp_path: Path) -> None:
    """OAuth 1.0a is signed by the server's clock, here two hours ahead."""
    emulator.control(skew=7200)
    one = source(emulator, tmp_path, "link", **guarded(emulator, "oauth1"))
    assert len(rows(list(one.read(None, None)))) == 1000


def test_a_big_page_is_handed_on_in_bounded_parts(emulator: Emulator, tmp_path: Path) -> None:
    """An answer larger than a page's bound comes as several, and a kill between them repeats that answer
    only.
    """
    declared = RestDeclaration.parse(declare(emulator, "single"))
    one = RestSource(declared, state_dir=tmp_path, work_dir=tmp_path)
    one._reading._page_bytes = 50_000
    reading = one.read(None, None)
    first, second = next(reading), next(reading)
    assert 0 < first.batch.num_rows < 500
    reading.close()
    two = RestSource(declared, state_dir=tmp_path, work_dir=tmp_path)
    rest = rows(list(two.read(None, second.checkpoint)))
    arrived = rows([first, second]) + rest
    assert [r["id"] for r in arrived] == [Decimal(9_007_199_254_740_993 + n) for n in range(1000)]
    assert emulator.tell()["requests"]["page"] == 2


def test_a_checkpoint_of_another_declaration_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    """Changed fields or another window do not go on from an old place."""
    page = next(iter(source(emulator, tmp_path).read(None, None)))
    with pytest.raises(DeclarationError, match="another declaration or window"):
        next(iter(source(emulator, tmp_path, params={"x": 1}).read(None, page.checkpoint)))


def test_a_faulty_declaration_names_the_place() -> None:
    """An unknown word and a wrong kind are both named."""
    with pytest.raises(DeclarationError, match=r"paging\.by") as raised:
        RestDeclaration.parse({"url": "http://x", "path": "/", "paging": {"by": "scroll"}, "pageing": 1})
    assert "pageing" in str(raised.value)


READ = """
import sys, json
from pathlib import Path
import pyarrow as pa
from ferry.sources.rest import RestSource
pa.array(["x"])  # the first array makes pyarrow import pandas, which is no use of the limit
from ferry.sources.rest_declaration import RestDeclaration
declared = RestDeclaration.parse(json.loads(sys.argv[1]))
source = RestSource(declared, state_dir=Path(sys.argv[2]), work_dir=Path(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
print(sum(p.batch.num_rows for p in source.read(None, None)))
"""


def run_together(
    declared: RestDeclaration, tmp_path: Path, count: int, start: Callable[[], Any] = lambda: None
) -> tuple[list[str], float]:
    """So many processes reading at once: what each brought, and the seconds from the start of all to the
    last.
    """
    command = [sys.executable, "-c", READ, declared.model_dump_json(exclude_none=True), str(tmp_path)]
    running = [
        subprocess.Popen(
            [*command, str(tmp_path / str(n))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start()
    began = monotonic()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [p.communicate(timeout=60)[0].strip() for p in running], monotonic() - began


@pytest.mark.parametrize("header", [{}, {"used_header": "X-Calls"}])
def test_a_rate_is_used_and_never_passed_by_several_processes(tmp_path: Path, header: dict[str, str]) -> None:
    """Three processes share 6 calls a second: at least 90 % of them are made, and none is refused."""
    with Emulator("hostile_rest", "--items", "350", "--rate", "6", "--burst", "40") as emulator:
        rate = {"requests": 6, "seconds": 1, "burst": 40, **header}
        given = declare(emulator, "link", paging={"size": 10}, rate=rate, count=None)
        # The bucket is empty at the start, so that its first fill does not count as use.
        start = partial(emulator.control, drain=True)
        brought, _ = run_together(RestDeclaration.parse(given), tmp_path, 3, start)
        told = emulator.tell()
    assert brought == ["350"] * 3
    assert told["refused"] == 0
    use = (told["allowed"] - 1) / (told["busy"] * 6)
    assert use >= 0.9, f"{use:.1%} of the limit in {told['busy']:.1f} s"


def test_concurrency_is_shared_by_processes(tmp_path: Path) -> None:
    """Four processes with two places between them: the server never sees three calls at a time."""
    with Emulator("hostile_rest", "--items", "400") as emulator:
        emulator.control(latency=0.05)
        given = declare(emulator, "link", paging={"size": 20}, rate={"concurrency": 2}, count=None)
        brought, _ = run_together(RestDeclaration.parse(given), tmp_path, 4)
        assert brought == ["400"] * 4
        assert emulator.tell()["most_in_flight"] == 2


def test_a_server_that_stays_down_says_what_was_asked(emulator: Emulator, tmp_path: Path) -> None:
    """When patience ends the error can be retried and has request, status and excerpt."""
    emulator.control(error_next=1000)
    with pytest.raises(TransientError, match=r"GET .*/count.*HTTP 500.*internal"):
        list(source(emulator, tmp_path).read(None, None))
