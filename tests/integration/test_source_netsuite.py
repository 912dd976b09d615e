"""NetSuite's client against an account that enforces SuiteQL's rules over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from emulators import reader
from emulators.netsuite import ACCOUNT, CERTIFICATE, CLIENT, TBA
from emulators.running import Emulator
from ferry.errors import DeclarationError, PermanentError
from ferry.sources.netsuite import NetSuiteSource
from ferry.sources.netsuite import source as declared_source
from ferry.sources.page import Glance, Window, WindowIncomplete

ROWS = 2500
COLUMNS = {
    "id": {"type": "decimal(20,0)"}, "tranid": "text", "entity": "int", "trandate": "date",
    "total": {"type": "decimal(15,2)", "sql": "foreigntotal"}, "memo": "text", "posting": "bool",
    "lastmodifieddate": "datetime",
}  # fmt: skip


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the emulator writes the private key that it accepts."""
    return tmp_path_factory.mktemp("key") / "key.pem"


@pytest.fixture(scope="module")
def server(key_file: Path) -> Iterator[Emulator]:
    """One emulator for all tests of this module."""
    with Emulator("netsuite", "--rows", str(ROWS), "--key-file", str(key_file)) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    """The same, as new."""
    server.control(reset=True)
    return server


def certificate(key_file: Path, **given: str) -> dict[str, str]:
    """The right proof by certificate, with changes."""
    auth = {"kind": "certificate", "client_id": CLIENT, "certificate_id": CERTIFICATE}
    return auth | {"private_key": key_file.read_text()} | given


def declare(emulator: Emulator, auth: dict[str, str], *, cap: int = 100_000, **query: Any) -> dict[str, Any]:
    """A declaration that is right for the emulator, with changes."""
    account = {"account": ACCOUNT, "auth": auth, "url": emulator.url, "concurrency": 3}
    quick = {"patience": 20, "attempts": 4, "first_wait": 0.02, "longest_wait": 0.1}
    asked = {"table": "transaction", "where": "type = 'SalesOrd'", "columns": COLUMNS} | query
    return {"account": account | quick, "query": asked, "cap": cap, "page_size": 500}


def connect(
    emulator: Emulator, key_file: Path, tmp_path: Path, *, auth: dict[str, str] | None = None, **given: Any
) -> NetSuiteSource:
    """A client of the emulator, with little patience."""
    declared = declare(emulator, auth or certificate(key_file), **given)
    return declared_source(declared, state_dir=tmp_path, work_dir=tmp_path)


def rows(pages: list[Any]) -> list[dict[str, Any]]:
    """The rows on the pages, in order."""
    return [row for page in pages for row in page.batch.to_pylist()]


@pytest.mark.parametrize("paging", ["keyset", "offset"])
@pytest.mark.parametrize("auth", ["certificate", "tba"])
def test_every_row_arrives_once_in_its_type(
    emulator: Emulator, key_file: Path, tmp_path: Path, paging: str, auth: str
) -> None:
    """By either proof and either paging: each row once, parsed as declared, nulls as nulls, and counted."""
    proof = certificate(key_file) if auth == "certificate" else {"kind": "tba", **TBA}
    one = connect(emulator, key_file, tmp_path, auth=proof, paging=paging)
    one.preflight()
    arrived = rows(list(one.read(None, None)))
    assert len(arrived) == len({r["id"] for r in arrived}) == ROWS
    first = min(arrived, key=lambda r: r["id"])
    assert first == {
        "id": Decimal(9_007_199_254_740_993), "tranid": "SO0", "entity": 0, "trandate": date(2022, 1, 1),
        "total": Decimal("0.00"), "memo": "memo ü 0", "posting": False, "lastmodifieddate": datetime(2022, 1, 1),
    }  # fmt: skip
    assert one.completeness is not None
    assert one.completeness.stated == ROWS
    assert one.completeness.proven


def test_windows_meet_without_gap_or_overlap(emulator: Emulator, key_file: Path, tmp_path: Path) -> None:
    """Two windows on the time of change share no row and miss none; naive edges are the account's wall time."""
    middle = datetime(2022, 1, 2, 12, 0)
    parts = []
    for window in (Window("lastmodifieddate", None, middle), Window("lastmodifieddate", middle, None)):
        one = connect(emulator, key_file, tmp_path)
        parts.append({r["id"] for r in rows(list(one.read(window, None)))})
        assert one.completeness is not None
        assert one.completeness.proven
    assert not parts[0] & parts[1]
    assert len(parts[0]) + len(parts[1]) == ROWS


def test_times_are_the_accounts(emulator: Emulator, key_file: Path, tmp_path: Path) -> None:
    """An edge with a zone is asked for as the account's wall time; a time that is written otherwise is refused."""
    declared = declare(emulator, certificate(key_file))
    declared["account"]["timezone"] = "America/New_York"
    one = declared_source(declared, state_dir=tmp_path, work_dir=tmp_path)
    window = Window("lastmodifieddate", datetime(2022, 1, 2, 12, 0, tzinfo=UTC), None)
    arrived = [row["lastmodifieddate"] for row in rows(list(one.read(window, None)))]
    assert min(arrived) == datetime(2022, 1, 2, 7, 2)  # the next that is there
    glance = one.glance(window)
    assert glance is not None
    assert (glance.rows, glance.is_settled) == (len(arrived), True)
    nothing = Window("lastmodifieddate", datetime(2030, 1, 1), None)
    assert one.glance(nothing) == Glance("0 None", 0)
    emulator.control(times="%d.%m.%Y %H:%M")
    with pytest.raises(
        PermanentError, match=r"the account writes a time as '02\.01\.2022 .*YYYY-MM-DD HH24:MI:SS"
    ):
        one.glance(Window("lastmodifieddate", None, datetime(2022, 1, 2, 12)))


def test_windows_split_near_the_cap(key_file: Path, tmp_path: Path) -> None:
    """With 1,500 rows to a query 2,500 arrive, each once, in the total order of (time, id)."""
    key = tmp_path / "own.pem"
    with Emulator("netsuite", "--rows", str(ROWS), "--cap", "1500", "--key-file", str(key)) as emulator:
        one = connect(emulator, key, tmp_path, paging="offset", cap=1500)
        window = Window("lastmodifieddate", datetime(2022, 1, 1), datetime(2022, 2, 1))
        arrived = [r["id"] for r in rows(list(one.read(window, None)))]
        assert len(arrived) == len(set(arrived)) == ROWS
        assert one.completeness is not None
        assert one.completeness.proven


@pytest.mark.parametrize("paging", ["keyset", "offset"])
def test_after_a_kill_only_what_is_missing_is_asked_for(
    emulator: Emulator, key_file: Path, tmp_path: Path, paging: str
) -> None:
    """Killed after the fourth page, the next process makes the remaining calls and no other."""
    spec = {"kind": "netsuite", "given": declare(emulator, certificate(key_file), paging=paging)}
    reader.read(spec, tmp_path / "whole")
    needed = emulator.tell()["total"]
    emulator.control(reset=True)
    assert reader.run(spec, tmp_path / "cut", 4).returncode == -9
    reader.read(spec, tmp_path / "cut")
    assert emulator.tell()["total"] == needed
    assert reader.rows(tmp_path / "cut") == reader.rows(tmp_path / "whole")
    assert (tmp_path / "cut/said.json").read_text() == (tmp_path / "whole/said.json").read_text()


@pytest.mark.parametrize(
    "fault",
    [{"throttle_next": 8}, {"throttle_next": 8, "throttle_as": 400}, {"error_next": 3}, {"half_next": 3}],
)
def test_faults_are_waited_out(
    emulator: Emulator, key_file: Path, tmp_path: Path, fault: dict[str, Any]
) -> None:
    """Both kinds of throttling, errors and half answers cost time and no row."""
    emulator.control(**fault)
    one = connect(emulator, key_file, tmp_path)
    assert len(rows(list(one.read(None, None)))) == ROWS


def test_a_token_that_expires_is_renewed(emulator: Emulator, key_file: Path, tmp_path: Path) -> None:
    """Tokens forgotten by the server in the middle are got anew."""
    one = connect(emulator, key_file, tmp_path)
    for number, _ in enumerate(one.read(None, None)):
        if number in (1, 4):
            emulator.control(forget_tokens=True)
    assert emulator.tell()["granted"] == 3


@pytest.mark.parametrize("auth", ["certificate", "tba"])
def test_a_server_in_another_time_is_followed(
    emulator: Emulator, key_file: Path, tmp_path: Path, auth: str
) -> None:
    """Assertions and signatures are made by the server's clock, here an hour ahead."""
    emulator.control(skew=3600)
    proof = certificate(key_file) if auth == "certificate" else {"kind": "tba", **TBA}
    assert len(rows(list(connect(emulator, key_file, tmp_path, auth=proof).read(None, None)))) == ROWS


@pytest.mark.parametrize("auth", ["certificate", "tba"])
def test_wrong_credentials_are_named_and_not_shown(
    emulator: Emulator, key_file: Path, tmp_path: Path, auth: str
) -> None:
    """The message says where and what to do; neither key nor token is in it."""
    wrong = certificate(key_file, certificate_id="other") if auth == "certificate" else {"kind": "tba", **TBA}
    if auth == "tba":
        wrong["token_secret"] = "wrong-s3cret"
    with pytest.raises(PermanentError, match=r"HTTP 40[01]") as raised:
        connect(emulator, key_file, tmp_path, auth=wrong).preflight()
    text = str(raised.value)
    assert "Check" in text
    assert "wrong-s3cret" not in text
    assert "PRIVATE KEY" not in text


def test_a_missing_row_fails_the_window(emulator: Emulator, key_file: Path, tmp_path: Path) -> None:
    """One row in a hundred left out of its page is noticed by the count."""
    emulator.control(drop_row=100)
    one = connect(emulator, key_file, tmp_path)
    with pytest.raises(WindowIncomplete, match="2,500"):
        list(one.read(None, None))
    assert one.completeness is None


def test_a_row_that_changes_while_it_is_read_comes_again(
    emulator: Emulator, key_file: Path, tmp_path: Path
) -> None:
    """The counts do not tell, the second look does: the row's last version takes the place of the first."""
    one = connect(emulator, key_file, tmp_path)
    before = one.glance(None)
    assert before == one.glance(None) == Glance("2500 2022-01-02 17:39:00", ROWS)
    emulator.control(change_after=8)
    pages = list(one.read(None, None))
    after = one.glance(None)
    assert after is not None
    assert (after.rows, after.text == before.text, after.is_settled) == (ROWS, False, False)
    assert {r["id"]: r for r in rows(pages)}[Decimal(9_007_199_254_740_996)]["memo"] == "changed"
    assert [key for page in pages for key in page.replaces] == [["9007199254740996"]]
    assert one.completeness is not None
    assert one.completeness.arrived == one.completeness.stated == ROWS


def test_a_row_that_appears_behind_the_key_arrives(
    emulator: Emulator, key_file: Path, tmp_path: Path
) -> None:
    """A row with a smaller id than those already read is caught up with."""
    emulator.control(appear_after=6)
    one = connect(emulator, key_file, tmp_path)
    assert Decimal(7) in {r["id"] for r in rows(list(one.read(None, None)))}
    assert one.completeness is not None
    assert one.completeness.arrived == one.completeness.stated == ROWS + 1


def test_the_account_never_sees_more_calls_at_a_time_than_allowed(
    emulator: Emulator, key_file: Path, tmp_path: Path
) -> None:
    """Eight readers share three places: three are used at times, never a fourth, and nothing is throttled."""
    emulator.control(latency=0.02)

    def run(number: int) -> int:
        declared = declare(emulator, certificate(key_file))
        one = declared_source(declared, state_dir=tmp_path, work_dir=tmp_path / str(number))
        return len(rows(list(one.read(None, None))))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [ROWS] * 8
    told = emulator.tell()
    assert told["most_in_flight"] == 3
    assert told["refused"] == 0


def test_a_query_that_netsuite_refuses_says_its_words(
    emulator: Emulator, key_file: Path, tmp_path: Path
) -> None:
    """A column that does not exist stops in preflight, with what SuiteQL said."""
    one = connect(emulator, key_file, tmp_path, columns={"id": "int", "colour": "text"})
    with pytest.raises(PermanentError, match="no such column: colour"):
        one.preflight()


def test_a_faulty_declaration_names_the_place(emulator: Emulator, key_file: Path, tmp_path: Path) -> None:
    """A wrong word is named with its place; a column's name cannot carry SQL."""
    with pytest.raises(DeclarationError, match="paging"):
        connect(emulator, key_file, tmp_path, paging="pages")
    with pytest.raises(DeclarationError, match="no name for a column"):
        connect(emulator, key_file, tmp_path, columns={"id FROM x; --": "int"})
