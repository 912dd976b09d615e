"""What an API should not answer, through `ferry run`: a message that helps, nothing lost, and the next run goes on."""

import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from scripted import Scripted, http
from small import Small

SECRET = "s3cret-0f-the-caller"
GIB = 2**30


def page(*rows: object, after: object = None) -> bytes:
    """An answer with rows and the cursor of the next page."""
    return http(json.dumps({"rows": rows, "next": after}))


def row(number: object, **others: object) -> dict[str, object]:
    """One row that is as declared, but for what is given."""
    return {"id": number, "count": 1, "at": "2024-01-01T00:00:00Z"} | others


def long_line() -> Iterable[bytes]:
    """10 GiB in one value, made as they are sent."""
    yield f"HTTP/1.1 200 OK\r\ncontent-length: {10 * GIB}\r\n\r\n".encode() + b'{"rows": [{"id": "'
    yield from itertools.repeat(b"x" * 2**20, 10 * 1024)


WHOLE = {name: page(row(2**53 + 1), row(2)) for name in (
    "wrong", "scope", "endless", "empty", "circle", "text", "without", "beyond", "zone", "line", "bomb", "html",
)}  # fmt: skip
BAD: dict[str, Callable[[str], bytes | Iterable[bytes]]] = {
    "wrong": lambda _: http(json.dumps({"error": f"unknown token {SECRET}"}), status="401 Unauthorized"),
    "scope": lambda _: http(json.dumps({"error": "it needs the scope read_items"}), status="403 Forbidden"),
    "endless": lambda at: page(*(row(int(at or 0) + n) for n in range(6_000)), after=int(at or 0) + 6_000),
    "empty": lambda at: page(after=int(at or 0) + 1),
    "circle": lambda at: page(row(next(NUMBERS)), after="b" if at == "a" else "a"),
    "text": lambda _: page(row(2**53 + 1), row(2, count="1")),
    "without": lambda _: page(row(2**53 + 1), row(None)),
    "beyond": lambda _: page(row(2**53 + 1), row(2**64)),
    "zone": lambda _: page(row(2**53 + 1), row(2, at="2024-01-01T00:00:00")),
    "line": lambda _: long_line(),
    "bomb": lambda _: http(BOMB, content_encoding="gzip"),
    "html": lambda _: http("<html>Please log in</html>", content_type="text/html"),
}
NUMBERS = itertools.count(1)
BOMB = gzip.compress(b'{"rows": [' + b" " * 300_000_000, 1)
FAILS = {
    "wrong": ("HTTP 401", r"unknown token \*\*\*", "Check the credentials"),
    "scope": ("HTTP 403", "read_items", "grant the scope"),
    "endless": ("the pages do not end", "12,000 rows so far", "Check the paging"),
    "empty": ("21 empty pages in a row", "Check the paging"),
    "circle": ("cursor repeats", "read again from its beginning"),
    "line": ("larger than 67,108,864 bytes", "smaller pages"),
    "bomb": ("larger than 67,108,864 bytes once decompressed", "smaller pages"),
    "html": ("not whole JSON", "Please log in"),
}
REJECTED = {"text": "count", "without": "id", "beyond": "id", "zone": "at"}


def test_what_is_wrong_is_told_and_the_next_run_is_whole(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    """One run over twelve resources, each bad in a way of its own, of which each is good the next time.

    The status is 1; each failed resource has a message with request, answer and what to do, and no secret; a row that
    is wrong is rejected alone; a line of 10 GiB and a bomb take no more than 512 MiB. After that the status is 0, and
    every id is there to the last digit.
    """
    small, is_bad = Small(new_database, tmp_path), True

    def answer(target: str, _number: int) -> bytes | Iterable[bytes]:
        parts = urlsplit(target)
        name, given = parts.path.strip("/"), dict(parse_qsl(parts.query))
        if name.endswith("/count"):
            return http('{"count": 2}')
        return BAD[name](given.get("after", "")) if is_bad and "probe" not in given else WHOLE[name]

    fields = {"id": "int", "count": "int", "at": "timestamp"}
    paging = {"by": "cursor", "param": "after", "next": "next", "size": 5000}
    retries = {"attempts": 2, "patience": 20, "first_wait": 0.01, "longest_wait": 0.02}
    with Scripted(answer) as server:
        small.migrating.connections["api"] = {"url": server.url, "auth": {"kind": "bearer", "token": SECRET}}
        for name in WHOLE:
            rest = {
                "path": f"/{name}",
                "records": "rows",
                "paging": paging,
                "fields": fields,
                "retries": retries,
            }
            # Who adds up what a page without end has, counts; the others are read without.
            rest |= {"count": {"path": f"/{name}/count"}} if name == "endless" else {}
            small.declare(
                name, "id: int; count: int; at: datetime.datetime", columns={"id": "id"},
                source={"connection": "api", "key": "id", "rest": rest},
            )  # fmt: skip
            small.target(
                f"create table {name} (new_id bigint generated always as identity primary key, id bigint unique,"
                " count int, at timestamptz)"
            )
        bad = small.migrating.ferry("run", "--json")
        assert bad.returncode == 1, bad.stderr
        assert SECRET not in bad.stdout + bad.stderr
        report = json.loads(bad.stdout)
        assert report["peak_rss_mib"] < 512
        told = {re.search(r"/(\w+)", line.split(server.url, 1)[1])[1]: line for line in report["errors"]}  # type: ignore[index]
        assert set(told) == set(FAILS), report["errors"]
        for name, words in FAILS.items():
            assert f"GET {server.url}/{name}" in told[name]
            for word in words:
                assert re.search(word, told[name]), told[name]
            assert small.rows(f"select count(*) from {name}") == [(0,)]
        for name, column in REJECTED.items():
            assert small.rows(f"select id from {name}") == [(2**53 + 1,)]
            found = small.rows("select errors from ferry.rejected_rows where entity = %s", name)
            assert [one["column"] for (errors,) in found for one in errors] == [column]

        is_bad = False
        good = small.migrating.ferry("run", "--json", FERRY_REREAD="true")
        assert good.returncode == 0, good.stdout + good.stderr
    for name in WHOLE:
        assert small.rows(f"select id from {name} order by 1") == [(2,), (2**53 + 1,)]
