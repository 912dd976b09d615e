"""Secrets stay where they were put: those of a real migration, half of which fails, are searched for everywhere."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlsplit

import dagster as dg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from asking import free_port
from conftest import create_database
from emulators.hostile_rest import SECRETS
from emulators.running import Emulator
from ferry.components import FerryResource, alert_sensors
from serving import INSTANCE, Served, serving
from shop.demo.server import EmbeddedServer
from small import Small

# Whatever any library logs, at its most talkative, goes into the runs' event logs.
TALKATIVE = f"{INSTANCE}python_logs: {{managed_python_loggers: [root], python_log_level: DEBUG}}\n"
PLANTED = {
    name: f"planted-{name}-0f8fad5b"
    for name in ("wrong", "gone", "half", "other", "bearer", "sftp", "slack", "webhook", "mail", "port")
}
EVENTS = """
query($id: ID!) { runOrError(runId: $id) { ... on Run { runConfigYaml tags { key value } } }
  logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
    ... on MessageEvent { message }
    ... on ErrorEvent { error { message stack errorChain { error { message stack } } } }
    ... on StepEvent { stepKey }
    ... on DisplayableEvent { label description metadataEntries { label description
      ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr }
      ... on PathMetadataEntry { path } ... on UrlMetadataEntry { url }
      ... on TableMetadataEntry { table { records } } } } } } } }
"""
SHOWN = """{ instance { info runLauncher { name } } workspaceOrError { ... on Workspace { locationEntries {
  displayMetadata { key value } locationOrLoadError { ... on RepositoryLocation { repositories {
    allTopLevelResourceDetails { name configuredValues { key value } configFields { name defaultValueAsJson } }
    assetNodes { assetKey { path } description metadataEntries { label ... on TextMetadataEntry { text } } }
  } } ... on PythonError { message stack } } } } } }"""


def echo(planted: str) -> Iterator[str]:
    """A webhook that knows nothing of its path, and repeats it in the page that says so; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(404)
            self.end_headers()
            self.wfile.write(f"The requested URL {self.path} was not found.".encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/services/{planted}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    """A REST API that repeats in its answers who calls, and in its links the key of the caller."""
    with Emulator("hostile_rest", "--items", "40") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def small(server: EmbeddedServer, api: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Two entities that work, and one for each way in which a connection fails."""

    def database() -> str:
        names.append(f"secrets_{len(names)}")
        create_database(server, names[-1])
        return server.url(names[-1])

    names: list[str] = []
    made = Small(lambda *_: database(), tmp_path_factory.mktemp("secrets"))
    right = made.migrating.source_url
    password = re.findall(r"//\w+:([^@]+)@", right)[0]
    patience = {"attempts": 1, "patience": 1, "first_wait": 0.01, "longest_wait": 0.01}
    made.migrating.connections |= {
        "wrong": right.replace(password, PLANTED["wrong"]),
        "gone": f"postgresql://shop:{PLANTED['gone']}@127.0.0.1:1/shop",
        "half": f"postgresql://shop:{PLANTED['half']}/with-a-slash@127.0.0.1:5432/shop",
        "other": f"postgresql://shop:with@{PLANTED['other']}@127.0.0.1:5432/shop",
        "api": {"url": api.url, "auth": {"kind": "api_key", "name": "key", "value": SECRETS["key"], "place": "query"}},
        "bearer": {"url": api.url, "auth": {"kind": "bearer", "token": PLANTED["bearer"]}},
        "sftp": f"sftp://reader:{PLANTED['sftp']}@127.0.0.1:1/out",
        "port": f"http://reader:{PLANTED['port']}/x@127.0.0.1:1",
    }  # fmt: skip
    tables = (
        "good",
        "source_wrong",
        "source_gone",
        "source_half",
        "source_other",
        "target_wrong",
        "target_gone",
    )
    made.source(*(f"create table {name} (id int primary key, note text)" for name in tables[:1] + tables[5:]))
    made.source("insert into good select n, 'note ' || n from generate_series(1, 5) n")
    made.target(
        *(f"create table {name} (new_id int generated always as identity primary key, note text)" for name in tables),
        "create table items (id bigint primary key, name text)",
    )  # fmt: skip
    for name in tables:
        side, _, kind = name.partition("_")
        source = {"connection": kind, "table": name, "key": "id"} if side == "source" else {}
        made.declare(name, "id: int; note: str | None", source=source)
        if side == "target":
            path = made.migrating.folder / name / "defs.yaml"
            path.write_text(path.read_text().replace('"connection": "crm"', f'"connection": "{kind}"'))
    rest = {
        "records": "data.items", "paging": {"by": "next_url", "next": "meta.next", "size": 10, "size_param": "limit"},
        "fields": {"id": "int", "name": "text"}, "ignore": ["*"], "retries": patience,
    }  # fmt: skip
    for name, connection, place in (
        ("items", "api", "key_query"), ("broken_off", "api", "key_query"), ("refused", "bearer", "bearer"),
        ("no_port", "port", "bearer"),
    ):  # fmt: skip
        made.declare(
            name, "id: int; name: str | None", made="natural", new_key="id", target="items", columns={"id": "id"},
            source={"connection": connection, "key": "id", "rest": {**rest, "path": f"/as/{place}/items/next_url"}},
        )  # fmt: skip
    made.declare("files", "id: int; name: str | None", made="natural", new_key="id", target="items",
                 columns={"id": "id"},
                 source={"connection": "sftp", "files": "*.csv", "key": "id",
                         "fields": {"id": {"type": "int", "parse": True}, "name": "text"}})  # fmt: skip
    return made


@pytest.fixture(scope="module")
def channels() -> Iterator[dict[str, str]]:
    """Settings of alerts: two webhooks that are gone, and a mail server that does not let this user in."""

    def refuse(server: object, session: object, envelope: object, mechanism: str, login: Any) -> AuthResult:
        return AuthResult(success=False, handled=False)

    controller = Controller(
        object(), hostname="127.0.0.1", port=free_port(), authenticator=refuse, auth_require_tls=False
    )
    controller.start()
    slack, webhook = echo(PLANTED["slack"]), echo(PLANTED["webhook"])
    yield {
        "FERRY_ALERT_SLACK_URL": next(slack),
        "FERRY_ALERT_WEBHOOK_URL": f"{next(webhook)}?token={PLANTED['webhook']}",
        "FERRY_ALERT_SMTP_URL": f"smtp://ada:{PLANTED['mail']}@127.0.0.1:{controller.port}",
        "FERRY_ALERT_EMAIL_TO": "night@example.org",
        "FERRY_RETRY_SECONDS": "0",
    }
    for one in (slack, webhook):
        next(one, None)
    controller.stop()


@pytest.fixture(scope="module")
def served(
    small: Small, channels: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The UI over it, with all that its libraries say."""
    home = tmp_path_factory.mktemp("planted") / "dagster"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**channels, **small.migrating.environment, "DAGSTER_HOME": str(home)}.items():
            patch.setenv(name, value)
        with serving(replace(small.migrating, code="planted"), home, instance=TALKATIVE) as running:
            yield running


def everything(small: Small, served: Served, api: Emulator) -> Iterator[tuple[str, str]]:
    """Place → what stands there: of runs, jobs, commands and ticks that succeed and that fail in every way."""
    names = {path.name for path in small.migrating.folder.iterdir()} - {"broken_off"}
    # One run for all of them: in a run that goes on past a failed entity each fails in its own way.
    assets = [f"{stage}_{name}" for name in sorted(names) for stage in ("raw", "validated", "loaded")]
    runs = [
        served.launch(*assets, "report", location=served.location),
        served.launch_job("plan", served.location),
    ]
    assert {served.finished(run, 300)["status"] for run in runs} == {"FAILURE"}
    # It stops in the middle of its pages: what has arrived, and how to go on, is kept in the stage.
    api.control(reset=True, error_every=4)
    runs.append(served.launch("raw_broken_off", location=served.location))
    assert served.finished(runs[-1], 300)["status"] == "FAILURE"
    for run in runs:
        yield f"GraphQL, run {run}", json.dumps(served.graphql(EVENTS, id=run))
    yield "GraphQL, instance and definitions", json.dumps(served.graphql(SHOWN))

    with dg.DagsterInstance.from_config(str(served.home)) as instance:
        repository = dg.Definitions.merge(
            alert_sensors(small.migrating.folder), dg.Definitions(resources={"ferry": FerryResource()})
        ).get_repository_def()
        cursor = json.dumps({"seen": None, "pending": []})
        with dg.build_sensor_context(
            instance, cursor=cursor, repository_def=repository, resources={"ferry": FerryResource()}
        ) as context:
            tick = repository.get_sensor_def("alert_on_failure").evaluate_tick(context)
        yield "alert_on_failure", f"{tick.skip_message} {tick.cursor}"

    for words in (("plan",), ("run", "--json", "source_wrong"), ("status",)):
        done = small.migrating.ferry(*words)
        yield f"ferry {' '.join(words)}", done.stdout + done.stderr

    with small.migrating.target() as target:
        for (table,) in target.execute(
            "select tablename from pg_tables where schemaname = 'ferry'"
        ).fetchall():
            for (row,) in target.execute(f'select t::text from ferry."{table}" t'.encode()).fetchall():
                yield f"ferry.{table}", row
    for folder in (served.home, small.migrating.stage):
        for path in sorted(folder.rglob("*")):
            yield f"the name of {path.name}", str(path)
            if path.is_file():
                yield f"{folder.name}: {path.relative_to(folder)}", path.read_bytes().decode("latin-1")


def test_no_secret_is_anywhere(small: Small, served: Served, api: Emulator) -> None:
    """Passwords, keys and tokens, right ones and wrong ones, of databases that refuse, are away or are misspelled, of
    an API that repeats them, of webhooks and a mail server: in no log, event, metadata, answer, output or table. That
    each of these places was searched is known by what is no secret and has to be there."""
    password = urlsplit(small.migrating.source_url).password or ""
    secrets = {"password": password, "key": SECRETS["key"], **PLANTED}
    forms = {
        f"{name}, {form}": written
        for name, secret in secrets.items()
        for form, written in (
            ("as it is", secret),
            ("quoted", quote(secret, safe="")),
            ("basic", base64.b64encode(f"shop:{secret}".encode()).decode()),
        )
    }
    found: list[str] = []
    said: dict[str, str] = {}
    for place, text in everything(small, served, api):
        said[place] = said.get(place, "") + text
        found += [f"{name} in {place}" for name, secret in forms.items() if secret in text]
    assert found == []

    looked_for = (
        ("GraphQL, run", "connection 'wrong' does not open"),
        ("GraphQL, run", "connection 'gone' does not open"),
        ("GraphQL, run", "the URL of connection 'half' cannot be read"),
        ("GraphQL, run", "the URL of connection 'other' cannot be read"),
        ("GraphQL, run", "answers HTTP 401"),
        ("GraphQL, run", "takes no password before its host"),
        ("GraphQL, instance", '"name": "wrong"'),
        ("alert_on_failure", "the mail server answered 535"),
        ("alert_on_failure", "The requested URL /***/*** was not found"),
        ("ferry run", "password authentication failed"),
        (r"ferry\.ledger", "good"),
        ("dagster: history/runs/", "connection 'wrong' does not open"),
        (r"dagster: storage/.*\.out", "report was made"),
        ("stage: good/", "note"),
        ("stage: broken_off/.*state", "/as/key_query/items/next_url?"),
    )
    missing = [
        f"{places}: {words}"
        for places, words in looked_for
        if not any(re.match(places, place) and words in text for place, text in said.items())
    ]
    assert missing == [], "\n".join([*missing, *said])
