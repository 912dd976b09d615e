"""Rows sent to an API: nothing is created twice, whatever is lost or killed; against a CRM over real sockets."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from emulators.crm import TOKEN
from emulators.running import Emulator
from ferry.components import FerryResource
from ferry.components.delivery import delivery
from ferry.components.entity import asset_keys, entity_assets
from ferry.declaration import migration_in
from ferry.deliver import Delivered, deliver, deliver_all, read_back
from ferry.errors import DeclarationError, PermanentError
from ferry.pipeline import LOADED
from ferry.plan import MigrationPlan
from ferry.replay import replay
from ferry.rollback import roll_back
from ferry.settings import Settings
from small import Small

KEYED: dict[str, Any] = {"idempotency_header": "Idempotency-Key"}
FOUND: dict[str, Any] = {"find": {"param": "external_id", "field": "external_id", "records": "data"}}
IN_BULK: dict[str, Any] = {**KEYED, "bulk": {"path": "/people/batch", "size": 20}}


@pytest.fixture
def crm() -> Iterator[Emulator]:
    """An empty CRM."""
    with Emulator("crm") as running:
        yield running


PROGRAM = """
import os, signal, sys
from pathlib import Path
from ferry.declaration import read_migration
from ferry.deliver import deliver_all
from ferry.plan import plan_migration
from ferry.sending import Delivery
from ferry.settings import read_settings
from ferry.targets.rest import RestTargetApi

settings = read_settings()
plans = plan_migration(read_migration(Path(sys.argv[1])), settings)

def deliver(*names):
    deliver_all(plans, settings, only=names)

def die(owner, name, times, after=False):
    \"\"\"Be killed when a method is called for the n-th time: before it does anything, or after it has done it.\"\"\"
    had, calls = getattr(owner, name), []
    def dying(*given):
        calls.append(had(*given) if after else None)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return calls[-1] if after else had(*given)
    setattr(owner, name, dying)
"""
# At which moments a delivery is killed: a request is journalled and not sent; it is answered and the answer is not
# journalled; and, of the row that goes first, the answer is journalled.
MOMENTS = (("_call", 2, False), ("_record", 3, False), ("_record", 1, True))


class Sending:
    """People who refer each other, and their orders, on the way into the CRM."""

    def __init__(self, small: Small, crm: Emulator, rest: dict[str, Any]) -> None:
        self.small, self.crm = small, crm
        small.source(
            "create table people (id int primary key, name text, email text, credit numeric(12, 2), boss int)",
            "insert into people select n, 'Person ' || n, 'p' || n || '@example.org', n * 1.25, nullif(n % 7, 0)"
            " from generate_series(1, 60) n",
            "create table orders (id int primary key, person int, note text)",
            "insert into orders select n, 1 + n % 60, 'order ' || n from generate_series(1, 90) n",
        )
        small.target(
            "create table people (ferry_id uuid primary key, name text, email text, credit numeric(12, 2),"
            " boss_id uuid)",
            "create table orders (ferry_id uuid primary key, person_id uuid not null, note text)",
        )
        slow = {"first_wait": 0.01, "longest_wait": 0.05, "attempts": 40}
        for name, path in (("people", "/people"), ("orders", "/orders")):
            own = {**rest, "path": path, "retries": slow}
            if "bulk" in own and name == "orders":
                own["bulk"] = {"path": "/orders/batch", "size": 20}
            self.declare(name, own)

    def declare(self, name: str, rest: dict[str, Any]) -> None:
        """Write one entity with its API."""
        people = name == "people"
        parent = {"column": "boss" if people else "person", "to": "people"}
        into = "boss_id" if people else "person_id"
        fields = (
            "id: int; name: str; email: str; credit: decimal.Decimal; boss: int | None"
            if people
            else "id: int; person: int; note: str"
        )
        self.small.declare(
            name,
            fields,
            key="id",
            target_key={"column": "ferry_id", "from": "uuid5"},
            references=[{**parent, "into": into, "on_missing": "set_null" if people else "reject"}],
        )
        file = self.small.migrating.folder / name / "defs.yaml"
        document = json.loads(file.read_text())
        document["attributes"]["target"]["api"] = {"connection": "crm_api", "rest": rest}
        file.write_text(json.dumps(document))

    @property
    def settings(self) -> Settings:
        """The migration's settings with the CRM's connection."""
        settings = self.small.migrating.settings
        api = {"url": f"{self.crm.url}/v1", "auth": {"kind": "bearer", "token": TOKEN}}
        connections = {k: v.get_secret_value() for k, v in settings.connections.items()}
        return Settings.model_validate(
            {**settings.model_dump(), "connections": {**connections, "crm_api": json.dumps(api)}}
        )

    @property
    def plans(self) -> MigrationPlan:
        """The plan."""
        return self.small.migrating.plans()

    def send(self) -> dict[str, Delivered]:
        """Load the journal and deliver it."""
        self.small.migrating.load_all()
        return {one.entity: one for one in deliver_all(self.plans, self.settings)}

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a program in a process of its own, with this migration's settings; `deliver` sends what it is told to."""
        values = {name: value.get_secret_value() for name, value in self.settings.connections.items()}
        variables = {f"FERRY_CONNECTIONS__{name.upper()}": value for name, value in values.items()}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM + program, str(self.small.migrating.folder), *arguments],
            env={**os.environ, **self.small.migrating.environment, **variables},
        )

    def there(self, resource: str) -> list[dict[str, Any]]:
        """What the CRM holds."""
        return list(self.crm.tell()["rows"].get(resource, {}).values())

    def is_whole(self) -> None:
        """Every person and order is there once, each with the right parent."""
        people, orders = self.there("people"), self.there("orders")
        assert len(people) == 60
        assert len(orders) == 90
        numbers = {row["email"]: row["id"] for row in people}
        assert len(numbers) == 60
        for row in people:
            boss = int(row["email"][1:].split("@")[0]) % 7
            wanted = numbers[f"p{boss}@example.org"] if boss else None
            assert str(row.get("boss_id")) == str(wanted)
        for row in orders:
            person = 1 + int(row["note"].split()[1]) % 60
            assert str(row["person_id"]) == str(numbers[f"p{person}@example.org"])


@pytest.fixture(params=["keyed", "found", "bulk"])
def sending(
    request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path: Path, crm: Emulator
) -> Sending:
    """The same rows, sent with a key a request, by looking before a repetition, and many at a time."""
    return Sending(
        Small(new_database, tmp_path), crm, {"keyed": KEYED, "found": FOUND, "bulk": IN_BULK}[request.param]
    )


@pytest.fixture
def keyed(new_database: Callable[..., str], tmp_path: Path, crm: Emulator) -> Sending:
    """Rows that are sent with a key a request."""
    return Sending(Small(new_database, tmp_path), crm, KEYED)


def test_lost_requests_and_lost_answers_create_nothing_twice(sending: Sending) -> None:
    """A third of the writes goes astray, before or after it took effect: each row is there once, with its parent."""
    sending.crm.control(lose_requests=0.15, lose_answers=0.2)
    done = sending.send()
    assert sending.crm.tell()["lost"] > 3
    sending.is_whole()
    assert (done["people"].created, done["orders"].created) == (60, 90)
    assert not done["people"].refused + done["orders"].refused + done["orders"].waiting
    again = sending.send()
    assert [(one.created, one.updated, one.unchanged) for one in again.values()] == [(0, 0, 60), (0, 0, 90)]
    assert read_back(sending.plans, "people", sending.settings) == (60, [])


def test_a_killed_delivery_is_finished_by_the_next(sending: Sending) -> None:
    """SIGKILL at each moment of a request, one delivery after the other: at the end every row is there once."""
    sending.small.migrating.load_all()
    sending.crm.control(lose_answers=0.1)
    for name, times, after in MOMENTS:
        process = sending.start(f"die(Delivery, {name!r}, {times}, {after})\ndeliver()")
        assert process.wait() == -signal.SIGKILL
    deliver_all(sending.plans, sending.settings)
    sending.is_whole()
    left = sending.small.rows("select count(*) from ferry.deliveries where state <> 'sent'")
    assert left == [(0,)]


@pytest.mark.parametrize("sending", ["keyed", "bulk"], indirect=True)
def test_what_the_api_refuses_is_kept_with_its_words_and_sent_again_when_mended(sending: Sending) -> None:
    """Alone or in a request with others, one address is refused: the others go on, this person's orders do not."""
    sending.small.source("update people set email = 'nowhere' where id = 13")
    done = sending.send()
    assert done["people"].refused == 1
    assert "email: 'nowhere' is no address" in next(iter(done["people"].problems.values()))
    theirs = [n for n in range(1, 91) if 1 + n % 60 == 13]
    assert (done["orders"].held, done["orders"].waiting) == (len(theirs), 0)
    sending.small.source("update people set email = 'p13@example.org' where id = 13")
    done = sending.send()
    assert (done["people"].refused, done["orders"].held) == (0, 0)
    sending.is_whole()
    assert sending.small.rejected("people") | sending.small.rejected("orders") == {}


def test_what_the_api_refuses_is_a_rejected_row_that_can_be_replayed(keyed: Sending) -> None:
    """In `ferry rejects` with the API's words, counted as rejected by the ledger, sent again by `ferry replay`."""
    keyed.small.source("update people set email = 'nowhere' where id in (13, 14)")
    keyed.send()
    theirs = {str(n) for n in range(1, 91) if 1 + n % 60 in (13, 14)}
    assert keyed.small.rejected("people") == {"13": "api_refused", "14": "api_refused"}
    assert keyed.small.rejected("orders") == dict.fromkeys(theirs, "parent_refused")
    assert keyed.small.outcomes("people") == {"extracted": 60, "inserted": 58, "rejected": 2}
    assert keyed.small.outcomes("orders") == {
        "extracted": 90,
        "inserted": 90 - len(theirs),
        "rejected": len(theirs),
    }
    variable = {"FERRY_CONNECTIONS__CRM_API": keyed.settings.connections["crm_api"].get_secret_value()}
    shown = json.loads(keyed.small.migrating.ferry("rejects", "people", "--json", **variable).stdout)["rows"]
    assert {one["row"]["email"] for one in shown} == {"nowhere"}
    assert all(
        'HTTP 422: {"error": "email: \'nowhere\' is no address"}' in one["errors"][0]["message"]
        for one in shown
    )
    # The target is as staged, as far as its rows are accounted for as loaded.
    assert keyed.small.migrating.load("people").different == 0
    # As long as nobody asks, they are not sent again; one that is asked for is, and may be refused once more.
    before = keyed.crm.tell()["requests"]["POST /v1/people"]
    keyed.send()
    assert keyed.crm.tell()["requests"]["POST /v1/people"] == before
    keyed.crm.control(any_address=True)
    said = keyed.small.migrating.ferry("replay", "people", "--key", "13", "--json", **variable)
    assert said.returncode == 0, said.stderr
    (people,) = json.loads(said.stdout)
    assert (people["tried"], people["loaded"], people["delivered"]["created"]) == (1, 1, 1)
    assert keyed.crm.tell()["requests"]["POST /v1/people"] == before + 1
    assert keyed.small.rejected("people") == {"14": "api_refused"}
    assert set(keyed.small.rejected("orders")) == {str(n) for n in range(1, 91) if 1 + n % 60 == 14}
    keyed.crm.control(any_address=False)
    said = keyed.small.migrating.ferry("replay", "--reason", "api_refused", "--json", **variable)
    assert keyed.small.rows("select attempts, reason from ferry.rejected_rows where entity = 'people'") == [
        (2, "api_refused")
    ]
    assert keyed.small.outcomes("people")["rejected"] == 1
    roll_back(keyed.plans, keyed.settings)
    deliver_all(keyed.plans, keyed.settings)
    assert keyed.there("people") + keyed.there("orders") == []
    assert keyed.small.rejected("people") | keyed.small.rejected("orders") == {}


def test_a_refused_change_is_rejected_and_what_is_over_there_stays(keyed: Sending) -> None:
    """The old address stays in the CRM and the row is a reject, whose words hide what belongs to a person."""
    contract = keyed.small.migrating.folder / "people" / "contract.py"
    mark = "from ferry.contract import Contract, Personal\n"
    contract.write_text(
        contract.read_text()
        .replace("from ferry.contract import Contract\n", mark)
        .replace("email: str", "email: Annotated[str, Personal()]")
    )
    keyed.send()
    keyed.small.source("update people set email = 'nowhere' where id = 13")
    done = keyed.send()["people"]
    assert (done.refused, done.unchanged, done.held) == (1, 59, 0)
    assert "email: '***' is no address" in next(iter(done.problems.values()))
    assert {row["email"] for row in keyed.there("people")} == {f"p{n}@example.org" for n in range(1, 61)}
    assert keyed.small.rejected("people") == {"13": "api_refused"}
    assert keyed.small.outcomes("people")["rejected"] == 1
    assert keyed.small.rejected("orders") == {}
    # Without the stage the row cannot be kept as it came; it can be asked for again all the same.
    keyed.small.source("update people set email = 'elsewhere' where id = 14")
    keyed.small.migrating.load_all()
    shutil.rmtree(keyed.small.migrating.stage / "people")
    deliver_all(keyed.plans, keyed.settings)
    assert keyed.small.rejected("people") == {"13": "api_refused", "14": "api_refused"}
    keyed.crm.control(any_address=True)
    (people, _) = replay(keyed.plans, keyed.settings)
    assert (people.tried, people.loaded) == (2, 2)
    assert deliver(keyed.plans, "people", keyed.settings).updated == 2
    assert keyed.small.rejected("people") == {}
    assert "rejected" not in keyed.small.outcomes("people")


def test_a_change_is_one_update_and_the_new_ids_are_in_the_map(keyed: Sending) -> None:
    """The id of the answer is beside the old key; a changed row is patched, the others are left alone."""
    keyed.send()
    pairs = dict(keyed.small.rows("select old_id, remote_id from ferry.api_map_people"))
    numbers = {row["email"]: str(row["id"]) for row in keyed.there("people")}
    assert pairs == {n: numbers[f"p{n}@example.org"] for n in range(1, 61)}
    keyed.small.source("update people set credit = 99.90 where id = 4")
    done = keyed.send()["people"]
    assert (done.created, done.updated, done.unchanged) == (0, 1, 59)
    changed = next(row for row in keyed.there("people") if row["email"] == "p4@example.org")
    assert (changed["credit"], str(changed["id"])) == ("99.90", pairs[4])


def test_a_rollback_takes_back_over_there_and_a_reload_sends_again(keyed: Sending) -> None:
    """What was rolled back in the journal is deleted by the next delivery, killed in the middle; nothing else is."""
    keyed.send()
    keyed.crm.control(lose_answers=0.2)
    roll_back(keyed.plans, keyed.settings, ("orders",))
    killed = keyed.start("die(RestTargetApi, 'delete', 40, after=True)\ndeliver('orders')")
    assert killed.wait() == -signal.SIGKILL
    assert len(keyed.there("orders")) == 50
    # The fortieth was deleted and is still in the journal: deleting what is gone is no fault.
    assert deliver(keyed.plans, "orders", keyed.settings).removed == 51
    assert (len(keyed.there("orders")), len(keyed.there("people"))) == (0, 60)
    keyed.send()
    keyed.is_whole()


def test_reading_back_finds_what_somebody_changed_over_there(keyed: Sending) -> None:
    """A row that was changed and one that was deleted are named with their keys."""
    keyed.send()
    rows = sorted(keyed.there("people"), key=lambda row: row["id"])
    _write(keyed.crm, "PATCH", f"/v1/people/{rows[0]['id']}", {"credit": "0.01"})
    _write(keyed.crm, "DELETE", f"/v1/people/{rows[1]['id']}", {})
    compared, differences = read_back(keyed.plans, "people", keyed.settings)
    assert compared == 60
    assert len(differences) == 2
    assert any("credit is '0.01', should be" in one for one in differences)
    assert any("is not there any more" in one for one in differences)


def test_runs_share_the_rate_that_is_declared(keyed: Sending) -> None:
    """Two processes that send at once stay within the limit that both declare, and so does a delivery after another."""
    keyed.crm.control(per_second=400, throttle_next=2)
    rate = {"requests": 350, "seconds": 1, "burst": 20}
    for name in ("people", "orders"):
        keyed.declare(name, {**KEYED, "path": f"/{name}", "rate": rate})
    keyed.send()
    keyed.is_whole()
    keyed.small.source("update people set name = name || '!'", "update orders set note = note || ' !'")
    keyed.small.migrating.load_all()
    both = [keyed.start("deliver(sys.argv[2])", name) for name in ("people", "orders")]
    assert [one.wait() for one in both] == [0, 0]
    assert {one["note"][-1] for one in keyed.there("orders")} == {"!"}
    assert {one["name"][-1] for one in keyed.there("people")} == {"!"}
    assert keyed.crm.tell()["over"] == 0


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"idempotency_header": ""}, "give `idempotency_header` or `find`"),
        ({"pathh": "/x"}, "there is no key 'pathh'. Did you mean 'path'?"),
    ],
)
def test_a_declaration_that_could_create_twice_is_refused(
    keyed: Sending, change: dict[str, Any], wanted: str
) -> None:
    """Without a way to know a repetition there is no delivery, and a slip is named."""
    keyed.declare("people", {**KEYED, "path": "/people", **change})
    with pytest.raises(DeclarationError, match=wanted):
        _ = keyed.plans


def test_wrong_credentials_stop_the_delivery_and_refuse_no_row(keyed: Sending) -> None:
    """A 401 is about all rows: nothing is marked as refused, and the token is not in the message."""
    keyed.small.migrating.load_all()
    settings = keyed.settings
    text = settings.connections["crm_api"].get_secret_value().replace(TOKEN, "wrong-token")
    wrong = Settings.model_validate(
        {**settings.model_dump(), "connections": {k: v.get_secret_value() for k, v in settings.connections.items()}
         | {"crm_api": text}}
    )  # fmt: skip
    with pytest.raises(PermanentError, match="the target API answers HTTP 401") as caught:
        deliver(keyed.plans, "people", wrong)
    assert "wrong-token" not in str(caught.value)
    assert keyed.small.rows("select distinct state from ferry.deliveries") == [("sending",)]
    deliver_all(keyed.plans, settings)
    keyed.is_whole()


def _write(crm: Emulator, method: str, path: str, body: dict[str, Any]) -> None:
    httpx.request(
        method, crm.url + path, json=body, headers={"Authorization": f"Bearer {TOKEN}"}
    ).raise_for_status()


def test_the_command_loads_delivers_and_reads_back(keyed: Sending) -> None:
    """`ferry run` delivers what it loaded; `ferry deliver --check` finds every row as it was sent."""
    api = keyed.settings.connections["crm_api"].get_secret_value()
    ran = keyed.small.migrating.ferry("run", "--json", FERRY_CONNECTIONS__CRM_API=api)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert [told["delivered"][name]["created"] for name in ("people", "orders")] == [60, 90]
    keyed.is_whole()
    checked = keyed.small.migrating.ferry("deliver", "--check", "--json", FERRY_CONNECTIONS__CRM_API=api)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["differences"] == []


def test_in_dagster_a_delivery_is_an_asset_with_a_check(
    keyed: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its journal and its parents' deliveries; the check says that every row is there as it was sent."""
    for name, value in keyed.small.migrating.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FERRY_CONNECTIONS__CRM_API", keyed.settings.connections["crm_api"].get_secret_value())
    migration = migration_in(keyed.small.migrating.folder)
    entities = list(migration.entities.values())
    loading = [entity_assets(migration, one) for one in entities]
    sending = [delivery(migration, one, lambda entity: asset_keys(entity)[LOADED]) for one in entities]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [*loading, *sending],
            instance=instance,
            resources={"ferry": FerryResource(), "id_map": dg.mem_io_manager},
        )
    checks = {one.asset_key.to_user_string(): one for one in result.get_asset_check_evaluations()}
    for name in ("delivered_people", "delivered_orders"):
        assert checks[name].passed
    rows = result.asset_materializations_for_node("delivered_orders")[0].metadata["dagster/row_count"].value
    assert rows == 90
    keyed.is_whole()
