"""Who is told when a run fails or rows wait: over real sockets, to a mail server and to webhooks of this test's own."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest
from aiosmtpd.controller import Controller

from asking import free_port
from ferry.components import FerryResource, alert_sensors
from ferry.components.entity import entity_assets
from ferry.declaration import migration_in
from migrating import Migrating


@dataclass
class Webhooks:
    """An HTTP server that keeps what it was sent by path, and answers what `status` says, 200 otherwise."""

    url: str = ""
    got: dict[str, list[Any]] = field(default_factory=dict)
    status: dict[str, list[int]] = field(default_factory=dict)


@pytest.fixture
def webhooks() -> Iterator[Webhooks]:
    """A server on a port of its own."""
    kept = Webhooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kept.got.setdefault(self.path, []).append(body)
            waiting = kept.status.get(self.path, [])
            self.send_response(waiting.pop(0) if waiting else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield kept
    server.shutdown()
    server.server_close()


class Mailbox:
    """Keeps what a mail server was sent; refuses it while `refuses` is set."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.tries = 0
        self.refuses = ""

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802, ARG002
        """Called by the server for each message."""
        self.tries += 1
        if self.refuses:
            return self.refuses
        self.messages.append(message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """A mail server on a port of its own, which the settings name."""
    box, port = Mailbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    monkeypatch.setenv("FERRY_ALERT_SMTP_URL", f"smtp://127.0.0.1:{port}")
    monkeypatch.setenv("FERRY_ALERT_EMAIL_TO", "night@example.org, day@example.org")
    yield box
    controller.stop()


@dataclass
class Watching:
    """A migration, an instance, and the sensors that watch both."""

    migrating: Migrating
    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    cursors: dict[str, str | None] = field(default_factory=dict)

    def run(self, name: str, first: str = "", last: str = "", **tags: str) -> dg.ExecuteInProcessResult:
        """Run an entity over a range of its partitions."""
        migration, given = migration_in(self.migrating.folder), dict(tags)
        if first:
            given |= {
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last or first,
            }
        return dg.materialize(
            [entity_assets(migration, migration[name])], instance=self.instance, tags=given, raise_on_error=False,
            resources={"ferry": FerryResource(), "id_map": dg.mem_io_manager},
        )  # fmt: skip

    def fail(self, **tags: str) -> dg.ExecuteInProcessResult:
        """Run three years of orders, the second of which cannot be staged."""
        self.migrating.break_stage("orders", "1994")
        result = self.run("orders", "1993", "1995", **tags)
        assert not result.success
        return result

    def tick(self, name: str) -> str:
        """Let a sensor look once, as the daemon does; what its tick says."""
        with dg.build_sensor_context(
            self.instance, cursor=self.cursors.get(name), repository_def=self.repository,
            resources={"ferry": FerryResource()},
        ) as context:  # fmt: skip
            data = self.repository.get_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = data.cursor
        return data.skip_message or ""


@pytest.fixture
def watching(by_year: Migrating, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watching]:
    """Both sensors over a migration of this test's own; the first tick has been."""
    for name, value in {**by_year.environment, "FERRY_RETRY_SECONDS": "0"}.items():
        monkeypatch.setenv(name, value)
    definitions = dg.Definitions.merge(
        alert_sensors(by_year.folder), dg.Definitions(resources={"ferry": FerryResource()})
    )
    with dg.DagsterInstance.ephemeral() as instance:
        made = Watching(by_year, instance, definitions.get_repository_def())
        made.tick("alert_on_failure")
        yield made


def test_a_failed_run_is_told_everywhere_with_partition_reason_and_link(
    watching: Watching, webhooks: Webhooks, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slack, a webhook and two people by e-mail hear of the one partition that failed, why, and where to look; once."""
    monkeypatch.setenv("FERRY_ALERT_SLACK_URL", f"{webhooks.url}/slack")
    monkeypatch.setenv("FERRY_ALERT_WEBHOOK_URL", f"{webhooks.url}/own")
    monkeypatch.setenv("FERRY_ALERT_LINK", "https://ferry.example.org/")
    run_id = watching.fail().run_id
    assert watching.tick("alert_on_failure") == "orders failed: told"
    assert watching.tick("alert_on_failure") == "Nothing to tell"

    link = f"https://ferry.example.org/runs/{run_id}"
    (own,) = webhooks.got["/own"]
    assert own["what"] == "orders failed"
    assert own["entity"] == "orders"
    assert own["partitions"] == ["1994"]
    assert own["reason"].startswith("orders, 1994: the staging area cannot be written or read")
    assert own["link"] == link
    (slack,) = webhooks.got["/slack"]
    (mail,) = mailbox.messages
    assert mail["Subject"] == "Ferry: orders failed"
    assert mail["To"] == "night@example.org, day@example.org"
    body = mail.get_payload(decode=True)
    assert isinstance(body, bytes)
    for text in (slack["text"], body.decode()):
        for word in ("orders failed", "orders, 1994: the staging area", "Partitions: 1994", link):
            assert word in text


def test_a_channel_that_does_not_answer_is_tried_again_and_the_others_are_told_once(
    watching: Watching, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that answers 503 for a whole tick gets the alert at the next; Slack does not get it twice; the run
    is as it was."""
    monkeypatch.setenv("FERRY_ALERT_SLACK_URL", f"{webhooks.url}/slack")
    monkeypatch.setenv("FERRY_ALERT_WEBHOOK_URL", f"{webhooks.url}/own")
    webhooks.status["/own"] = [503, 503, 503]
    run_id = watching.fail().run_id
    assert (
        watching.tick("alert_on_failure") == "orders failed: not told yet. webhook: the webhook answered 503."
    )
    assert watching.tick("alert_on_failure") == "orders failed: told"
    assert watching.tick("alert_on_failure") == "Nothing to tell"
    assert len(webhooks.got["/own"]) == 4
    assert len(webhooks.got["/slack"]) == 1
    run = watching.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.FAILURE


def test_what_no_retry_helps_is_reported_without_the_secret(
    watching: Watching, webhooks: Webhooks, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that is gone (404) and a mail server that refuses (550) are tried once a tick, and the tick names
    both, but not the webhook's address."""
    monkeypatch.setenv("FERRY_ALERT_SLACK_URL", f"{webhooks.url}/services/planted-secret")
    webhooks.status["/services/planted-secret"] = [404]
    mailbox.refuses = "550 no such user here"
    watching.fail()
    said = watching.tick("alert_on_failure")
    assert "slack: Slack's webhook answered 404" in said
    assert "email: the mail server answered 550. no such user here" in said
    assert "planted-secret" not in said
    assert len(webhooks.got["/services/planted-secret"]) == 1
    assert mailbox.tries == 1


def test_a_server_that_is_not_there_is_reported(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the address: the tick says so and the alert stays for the next."""
    monkeypatch.setenv("FERRY_ALERT_WEBHOOK_URL", f"http://127.0.0.1:{free_port()}/planted-secret")
    watching.fail()
    said = watching.tick("alert_on_failure")
    assert said == "orders failed: not told yet. webhook: the webhook cannot be reached. ConnectError."
    assert "not told yet" in watching.tick("alert_on_failure")


def test_a_run_that_is_retried_by_itself_wakes_nobody(
    watching: Watching, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster marks a run that it will start again; its failure is not told."""
    monkeypatch.setenv("FERRY_ALERT_WEBHOOK_URL", f"{webhooks.url}/own")
    watching.fail(**{"dagster/will_retry": "true"})
    assert watching.tick("alert_on_failure") == "Nothing to tell"
    assert webhooks.got == {}


def test_without_an_address_the_tick_says_which_settings_there_are(watching: Watching) -> None:
    """The sensor is on from the start; it says how to make it useful."""
    watching.fail()
    assert "set FERRY_ALERT_SLACK_URL" in watching.tick("alert_on_failure")


def test_rows_that_wait_too_long_are_told_once_a_day(
    watching: Watching, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that were loaded before their orders: after two days somebody hears for which parents they wait."""
    monkeypatch.setenv("FERRY_ALERT_WEBHOOK_URL", f"{webhooks.url}/own")
    watching.migrating.load("order_lines", ["1994"])
    assert watching.tick("alert_on_waiting") == "Nothing to tell"
    with watching.migrating.target() as target:
        rows = target.execute("update ferry.waiting_rows set since = since - interval '2 days'").rowcount
    assert watching.tick("alert_on_waiting") == f"order_lines: {rows:,} rows wait: told"
    assert watching.tick("alert_on_waiting") == "Nothing to tell"
    (told,) = webhooks.got["/own"]
    assert told["partitions"] == ["1994"]
    assert "for orders, products for more than 24 hours" in told["reason"]


def test_a_source_that_is_no_longer_observed_is_told_once_a_day(
    watching: Watching, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that was never observed is nobody's trouble; one that was, and has not been for too long, is told with
    the page to look at."""
    monkeypatch.setenv("FERRY_ALERT_WEBHOOK_URL", f"{webhooks.url}/own")
    assert watching.tick("alert_on_stale_observation") == "Nothing to tell"
    watching.instance.report_runless_asset_event(dg.AssetObservation(dg.AssetKey(["legacy", "orders"])))
    assert watching.tick("alert_on_stale_observation") == "Nothing to tell"
    monkeypatch.setenv("FERRY_ALERT_STALE_HOURS", "0.000000001")
    assert watching.tick("alert_on_stale_observation") == "legacy/orders is not observed: told"
    assert watching.tick("alert_on_stale_observation") == "Nothing to tell"
    (told,) = webhooks.got["/own"]
    assert told["entity"] == "orders"
    assert "observed last on" in told["reason"]
    assert told["link"].endswith("/assets/legacy/orders")
