"""Cutover: catching up, the source that has to stand still, and the record that later runs respect."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferry.cutover import CutOver, Terms, cut_over
from ferry.errors import FerryError, PermanentError
from ferry.rollback import roll_back
from migrating import Migrating, declarations_by_year
from shop.demo.databases import create_database, drop_database
from shop.demo.server import EmbeddedServer

HISTORY = ("legacy_history", "new_shop_history")


@pytest.fixture(scope="module")
def history(
    server: EmbeddedServer, shop_templates: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Migrating]:
    """A migration whose history is in the target, loaded once and copied for each test."""
    for name, template in zip(HISTORY, shop_templates, strict=True):
        create_database(server, name, template)
    place = tmp_path_factory.mktemp("history")
    folder = declarations_by_year(place / "defs")
    migrating = Migrating(*map(server.url, HISTORY), folder, place / "stage")
    migrating.load_all()
    yield migrating
    for name in HISTORY:
        drop_database(server, name)


@pytest.fixture
def loaded(server: EmbeddedServer, history: Migrating, tmp_path: Path) -> Iterator[Migrating]:
    """The same for this test alone: both databases and the stage."""
    names = [f"{name}_copy" for name in HISTORY]
    for name, template in zip(names, HISTORY, strict=True):
        create_database(server, name, template)
    shutil.copytree(history.stage, tmp_path / "stage")
    yield Migrating(*map(server.url, names), history.folder, tmp_path / "stage")
    for name in names:
        drop_database(server, name)


def cut(migrating: Migrating, **terms: object) -> CutOver:
    """Cut it over, on terms that a test can wait for."""
    given = {"by": "Ada", "small": 5, "quiet_seconds": 0.1, **terms}
    return cut_over(migrating.plans(), migrating.settings, Terms(**given), "run-1")  # type: ignore[arg-type]


def change(migrating: Migrating, rows: int) -> None:
    """Change some orders in the old shop."""
    with migrating.source() as source:
        source.execute(
            "update orders set comment = 'changed before the cutover' where id in (select id from orders"
            " where extract(year from placed_at) = 1995 and comment is distinct from 'changed before the cutover'"
            " order by id limit %s)",
            (rows,),
        )


def records(migrating: Migrating) -> list[str]:
    """The entities that are signed off."""
    with migrating.target() as target:
        if target.execute("select to_regclass('ferry.signed_off')").fetchone() == (None,):
            return []
        return [row[0] for row in target.execute("select entity from ferry.signed_off order by 1")]


def test_it_catches_up_until_little_is_missing_and_signs(loaded: Migrating) -> None:
    """Forty changed orders: one pass brings them, the next finds none, the last reads everything and finds none; the
    record has the ledger's counts and who signed."""
    change(loaded, 40)
    done = cut(loaded)
    assert [(one.name, one.changed > 5) for one in done.passes] == [
        ("pass 1", True), ("pass 2", False), ("last pass", False)]  # fmt: skip
    assert done.passes[1].partitions < done.passes[2].partitions == 3 + 2 * 7
    assert done.compared > 2000
    with loaded.target() as target:
        rows = target.execute(
            "select s.entity, signed_by, s.run_id, (document->'outcomes'->>'extracted')::int, sum(l.extracted)::int,"
            " (select sum((value->>0)::int) from jsonb_each(document->'source'))::int"
            " from ferry.signed_off s join ferry.ledger l using (entity) group by s.entity"
        ).fetchall()
    assert len(rows) == 5
    for _, by, run_id, signed, ledger, source in rows:
        assert (by, run_id) == ("Ada", "run-1")
        assert signed == ledger == source


def test_what_is_signed_is_changed_by_nothing_but_with_the_flag(loaded: Migrating) -> None:
    """A load, settling and a rollback are refused with name and date, and change no row; with the flag a load goes."""
    cut(loaded)
    before = loaded.row_versions("public")
    change(loaded, 3)
    went = loaded.load("orders", ["1995"])
    assert went.failed["1995"].startswith(
        "orders: it was cut over, and nothing is changed after that. Ada signed"
    )
    assert "FERRY_CHANGE_AFTER_CUTOVER=true" in went.failed["1995"]
    with pytest.raises(PermanentError, match="it was cut over"):
        loaded.settle()
    with pytest.raises(PermanentError, match="it was cut over"):
        roll_back(loaded.plans(), loaded.settings)
    assert loaded.row_versions("public") == before
    assert loaded.ferry("reconcile").returncode == 0

    allowed = loaded.ferry("run", "orders", "--partition", "1995", FERRY_CHANGE_AFTER_CUTOVER="true")
    assert allowed.returncode == 0, allowed.stderr
    assert loaded.row_versions("public") != before


@contextmanager
def busy(migrating: Migrating) -> Iterator[None]:
    """Somebody who goes on changing one order of the old shop."""
    ended = threading.Event()

    def work() -> None:
        with migrating.source() as source:
            while not ended.wait(0.02):
                source.execute("update orders set comment = clock_timestamp()::text where id = 1")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_source_that_does_not_stand_still_is_not_signed(loaded: Migrating) -> None:
    """While one order keeps changing the cutover ends before its last pass and names the partition."""
    with (
        busy(loaded),
        pytest.raises(PermanentError, match=r"does not stand still.*it changed in orders, \d{4}"),
    ):
        cut(loaded, quiet_seconds=0.3)
    assert records(loaded) == []
    assert len(cut(loaded).passes) == 2
    assert len(records(loaded)) == 5


def test_a_delta_that_stays_large_is_given_up(loaded: Migrating) -> None:
    """Forty rows in the only pass that is allowed, where five would do."""
    change(loaded, 40)
    with pytest.raises(
        FerryError, match=r"the delta does not become small: \d+ rows in the last of 1 passes"
    ):
        cut(loaded, most_passes=1)
    assert records(loaded) == []


def test_a_target_that_is_not_as_staged_is_not_signed(loaded: Migrating) -> None:
    """One flipped amount in the target: the message has the key, and nothing is signed."""
    with loaded.target() as target:
        target.execute(
            "update orders set total_amount = total_amount + 1 where order_id ="
            " (select max(new_order_id) from ferry.id_map_orders where status = 'inserted')"
        )
    with pytest.raises(PermanentError, match=r"rows of the target are not as staged.*total_amount is"):
        cut(loaded)
    assert records(loaded) == []


def test_a_change_that_left_updated_at_alone_is_found_by_the_last_pass(loaded: Migrating) -> None:
    """The passes by `updated_at` miss it; the last one reads everything."""
    with loaded.source() as source:
        source.execute("alter table orders disable trigger user")
        source.execute("update orders set comment = 'silently' where id = (select max(id) from orders)")
        source.execute("alter table orders enable trigger user")
    done = cut(loaded)
    assert [one.changed for one in done.passes] == [0, 1]


def test_the_command_signs_and_says_what_it_did(loaded: Migrating) -> None:
    """`ferry cutover` prints a line a step and ends with status 0."""
    done = loaded.ferry("cutover", "--by", "Ada", "--quiet", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("pass 1: 0 rows changed")
    assert done.stdout.splitlines()[-1] == "signed off by Ada"
    assert len(records(loaded)) == 5
