"""Answers that a client is easily wrong about, each over a real socket, byte by byte."""

import base64
import gzip
import hmac
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest

from ferry.errors import PermanentError, TransientError
from ferry.sources.calls import Caller, Patience
from ferry.sources.rest import RestSource
from ferry.sources.rest_declaration import RestDeclaration
from ferry.sources.shopify import ENTITIES, Shop, ShopifySource
from scripted import Scripted, http

QUICK = {"attempts": 3, "patience": 5, "first_wait": 0.01, "longest_wait": 0.02, "timeout": 5}
FIRST, LAST = '[{"id": 1}]', '[{"id": 2}]'


def read(url: str, tmp_path: Path, **given: Any) -> list[int]:
    """The ids that a reading of the resource brings."""
    declared = {"url": url, "path": "/items", "key": "id", "fields": {"id": "int"}, "retries": QUICK, **given}
    source = RestSource(RestDeclaration.parse(declared), state_dir=tmp_path, work_dir=tmp_path)
    return [i for page in source.read(None, None) for i in page.batch.column("id").to_pylist()]


LINKS = {
    "several relations": '</items?page=2>; rel="last next"',
    "another link first": '<{url}/items?page=1>; rel="first prev", <{url}/items?page=2>; rel="next"',
    "a word that is not quoted": "<{url}/items?page=2>;rel=Next",
    "what looks like a link in a title": '</no>; title="a, </x>; rel=next"; rel=prev, </items?page=2>; rel="next"',
    "signs in the URL": '<{url}/items;v=1?page=2&in=a,b;c>; rel="next"',
    "relative to what was asked": '<items?page=2>; rel="next"',
    "two headers": '</no>; rel="prev"\r\nLink: </items?page=2>; rel="next"',
}


@pytest.mark.parametrize("way", LINKS)
def test_a_link_to_the_next_page_is_found_however_it_is_written(tmp_path: Path, way: str) -> None:
    """A link that is overlooked would end the reading early, and without a count nobody would notice."""

    def answer(target: str, _number: int) -> bytes:
        if "page=2" in target:
            return http(LAST)
        return http(FIRST, link=LINKS[way].replace("{url}", server.url))

    with Scripted(answer) as server:
        assert read(server.url, tmp_path, paging={"by": "link"}) == [1, 2]


ANSWERS: dict[str, Callable[[int], bytes]] = {
    "a byte order mark": lambda _: http(b"\xef\xbb\xbf" + FIRST.encode()),
    "packed in two pieces": lambda _: http(
        gzip.compress(b'[{"id"') + gzip.compress(b": 1}]"), content_encoding="x-gzip"
    ),
    "in chunks": lambda _: http(
        b"5\r\n[{\"id\r\n6\r\n\": 1}]\r\n0\r\n\r\n", transfer_encoding="chunked", content_length=None
    ),
    "chunks that break off, once": lambda n: http(
        b"5\r\n[{\"id\r\n", transfer_encoding="chunked", content_length=None, connection="close"
    ) if n == 1 else http(FIRST),
    "hung up, once": lambda n: b"" if n == 1 else http(FIRST),
    "a redirection to a longer path": lambda n: http(
        status="307 Moved", location="./v2/items?x=1"
    ) if n == 1 else http(FIRST),
    "wait no time at all": lambda n: http(status="429 Slow", retry_after="0") if n < 5 else http(FIRST),
    "wait until a moment that has passed": lambda n: http(
        status="503 Busy", retry_after="Wed, 21 Oct 2015 07:28:00 GMT"
    ) if n == 1 else http(FIRST),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_whole_answer_arrives_whatever_its_form(tmp_path: Path, answer: str) -> None:
    """Its row is there, once; what broke off is asked for again."""
    with Scripted(lambda _, number: ANSWERS[answer](number)) as server:
        assert read(server.url, tmp_path) == [1]


@pytest.mark.parametrize(
    "paging", [{"by": "link"}, {"by": "next_url", "next": "next"}, {"by": "cursor", "next": "next"}]
)
def test_more_without_a_way_to_it_is_no_end(tmp_path: Path, paging: dict[str, Any]) -> None:
    """The API says that there is a next page and gives no link to it: the rows that are missing are not given up."""
    body = '{"rows": [{"id": 1}], "more": true, "next": null}'
    with Scripted(lambda *_: http(body)) as server, pytest.raises(TransientError, match="no way to it"):
        read(server.url, tmp_path, paging=paging | {"more": "more"}, records="rows")


def test_empty_pages_before_the_last_one_are_passed(tmp_path: Path) -> None:
    """A page without rows that has a next one is no end; nor is a cursor that is 0."""
    pages = {"": ([], 0), "0": ([], 7), "7": ([{"id": 1}], None)}

    def answer(target: str, _number: int) -> bytes:
        rows, following = pages[dict(parse_qsl(urlsplit(target).query)).get("after", "")]
        return http(json.dumps({"rows": rows, "next": following}))

    with Scripted(answer) as server:
        assert read(
            server.url, tmp_path, records="rows", paging={"by": "cursor", "param": "after", "next": "next"}
        ) == [1]


def test_keys_that_are_numbers_in_text_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    """`"9"` comes before `"10"`; the order that paging by key needs is seen all the same."""

    def answer(target: str, _number: int) -> bytes:
        return http("[]" if "after" in target else '[{"id": "9"}, {"id": "10"}]')

    fields = {"id": {"type": "int", "parse": True}}
    with Scripted(answer) as server:
        assert read(server.url, tmp_path, fields=fields, paging={"by": "keyset", "param": "after"}) == [9, 10]


def test_half_a_character_is_carried_to_the_contract(tmp_path: Path) -> None:
    """JSON can write half of a surrogate pair, and no text can hold it: its row is kept with what was written."""
    fields = {"id": "int", "name": "text"}
    body = '[{"id": 1, "name": "\\ud83d"}, {"id": 2, "name": "ü"}]'
    with Scripted(lambda *_: http(body)) as server:
        declared = {"url": server.url, "path": "/items", "key": "name", "fields": fields, "unfit": "carry"}
        source = RestSource(RestDeclaration.parse(declared), state_dir=tmp_path, work_dir=tmp_path)
        (page,) = source.read(None, None)
    assert page.batch.to_pylist() == [
        {"id": 1, "name": None, "_unfit": r'{"name": "\ud83d"}'}, {"id": 2, "name": "ü", "_unfit": None},
    ]  # fmt: skip


def test_credentials_stay_with_the_declared_host(tmp_path: Path) -> None:
    """Neither a redirection nor a next page takes them elsewhere; HTTP where HTTPS was declared becomes HTTPS."""
    auth = {"kind": "bearer", "token": "s3cret"}
    with Scripted(lambda *_: http(LAST)) as other:
        for said in (
            {"status": "302 Found", "location": f"{other.url}/items"},
            {"link": f"<{other.url}/x>; rel=next"},
        ):
            with (
                Scripted(lambda *_, said=said: http(FIRST, **said)) as server,
                pytest.raises(PermanentError, match="another host"),
            ):
                read(server.url, tmp_path, auth=auth, paging={"by": "link"})
    assert other.asked == []
    caller = Caller("https://api.example.com/v1")
    assert caller.url("http://api.example.com/v1/items?page=2") == "https://api.example.com/v1/items?page=2"
    with pytest.raises(PermanentError, match="another host"):
        caller.url("http://api.example.com:8080/v1/items")


def test_a_pause_beyond_all_patience_is_said_at_once(tmp_path: Path) -> None:
    """A day is not slept through: the message has the status, how long, and that a later run goes on."""
    with (
        Scripted(lambda *_: http("quota", status="429 Slow", retry_after="86400")) as server,
        pytest.raises(PermanentError, match=r"HTTP 429.*86,400 seconds") as raised,
    ):
        read(server.url, tmp_path, rate={"requests": 100})
    assert len(server.asked) == 1
    assert "goes on there" in raised.value.next


def test_a_redirection_that_cannot_be_followed_says_where_to(tmp_path: Path) -> None:
    """What was posted is not posted elsewhere by itself."""
    with (
        Scripted(lambda *_: http(status="308 Moved", location="https://other.example.com/graphql")) as server,
        pytest.raises(PermanentError, match=r"elsewhere \(HTTP 308\).*https://other.example.com/graphql"),
    ):
        Caller(server.url).call("POST", "/graphql", json={})


def test_a_credential_with_a_line_break_is_told_without_showing_it(tmp_path: Path) -> None:
    """As it comes when a file is pasted; the libraries' own message would have it."""
    with (
        Scripted(lambda *_: http(FIRST)) as server,
        pytest.raises(PermanentError, match="line break") as raised,
    ):
        read(server.url, tmp_path, auth={"kind": "bearer", "token": "s3cret\n"})
    assert "s3cret" not in str(raised.value.as_dict())
    assert server.asked == []


GRANTS: dict[str, tuple[bytes, str]] = {
    "no life told": (http('{"access_token": "t"}'), ""),
    "a life in text": (http('{"access_token": "t", "expires_in": "3599"}'), ""),
    "a grant that is over": (
        http('{"error": "invalid_grant"}', status="400 Bad"), r"HTTP 400\).*invalid_grant.*refresh token"
    ),
    "no object": (http("[]"), "no access_token"),
    "an empty token": (http('{"access_token": null}'), "no access_token"),
    "a page of a proxy": (http("<html>", content_type="text/html"), "no access_token"),
}  # fmt: skip


@pytest.mark.parametrize("grant", GRANTS)
def test_token_servers_answer_in_ways_of_their_own(tmp_path: Path, grant: str) -> None:
    """A token is taken without a life, or with one in text; whatever is no token is one message."""
    said, message = GRANTS[grant]

    def answer(target: str, _number: int) -> bytes:
        return said if target == "/token" else http(FIRST)

    with Scripted(answer) as server:
        auth = {"kind": "oauth2", "token_url": f"{server.url}/token", "client_id": "c", "client_secret": "s3cret",
                "refresh_token": "r3fresh"}  # fmt: skip
        if not message:
            assert read(server.url, tmp_path, auth=auth) == [1]
            assert "authorization: bearer t" in server.asked[-1].lower()
            return
        with pytest.raises(PermanentError, match=message) as raised:
            read(server.url, tmp_path, auth=auth)
    assert not re.search("s3cret|r3fresh", str(raised.value.as_dict()))


def signature(method: str, url: str, pairs: list[tuple[str, str]], secrets: str, kind: str) -> str:
    """As RFC 5849, 3.4, makes one, written down again from its text."""
    joined = "&".join(f"{k}={v}" for k, v in sorted((quote(k, "~"), quote(v, "~")) for k, v in pairs))
    base = "&".join(quote(part, "~") for part in (method, url, joined))
    return base64.b64encode(hmac.new(secrets.encode(), base.encode(), kind).digest()).decode()


def test_a_signature_holds_for_signs_and_repetitions_in_a_query(tmp_path: Path) -> None:
    """A link has brackets, bars, spaces and a name twice, as its server wrote it: what is signed is what is sent."""
    told = {"oauth_consumer_key": "dpf43f3p2l4k3l03", "oauth_token": "nnch734d00sl2jdk", "oauth_nonce": "chapoH",
            "oauth_signature_method": "HMAC-SHA1", "oauth_timestamp": "137131202"}  # fmt: skip
    pairs = [*told.items(), ("file", "vacation.jpg"), ("size", "original")]
    example = "kd94hf93k423kf44&pfkkdhi9sl3r4s00"
    # The example of RFC 5849, 1.2: this test's own arithmetic is right.
    assert (
        signature("GET", "http://photos.example.net/photos", pairs, example, "sha1")
        == "MdpQcU8iPSUjWoN/UDMsK2sui9I="
    )

    checked = []

    def answer(target: str, _number: int) -> bytes:
        header = re.search(r"(?i)authorization: oauth (.*)", server.asked[-1])
        assert header
        given = {k: unquote(v) for k, v in re.findall(r'(\w+)="([^"]*)"', header[1])}
        parts, own = urlsplit(target), given.pop("oauth_signature")
        pairs = [*given.items(), *parse_qsl(parts.query, keep_blank_values=True)]
        checked.append(own == signature("GET", f"{server.url}{parts.path}", pairs, "c%2Fs&t%26s", "sha256"))
        if len(checked) > 1:
            return http(LAST)
        return http(FIRST, link='</items?filter[a]=x|y&b=2&b=1&c=a+b%20c&d={e}^&f=ü&g=>; rel="next"')

    auth = {
        "kind": "oauth1",
        "consumer_key": "k",
        "consumer_secret": "c/s",
        "token": "t",
        "token_secret": "t&s",
    }
    with Scripted(answer) as server:
        assert read(server.url, tmp_path, auth=auth, paging={"by": "link"}) == [1, 2]
    assert checked == [True, True]


def test_a_shop_that_states_neither_cost_nor_level_is_read_all_the_same(tmp_path: Path) -> None:
    """Without `throttleStatus` the assumed bucket holds; being throttled without it is waited out too."""
    page = {"edges": [{"node": {"id": "gid://shopify/Product/1"}}], "pageInfo": {"hasNextPage": False}}
    throttled = {"errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]}

    def answer(_target: str, number: int) -> bytes:
        found = {"c": {"count": 1, "precision": "EXACT"}, "page": page}
        return http(json.dumps(throttled if number == 1 else {"data": found}))

    with Scripted(answer) as server:
        shop = Shop(
            server.url, "t", tmp_path, patience=Patience(first_wait=0.01), points=1e6, points_per_second=1e6
        )
        source = ShopifySource(shop, ENTITIES["products"], work_dir=tmp_path)
        (first, *_) = source.read(None, None)
    assert first.batch.column("id").to_pylist() == ["gid://shopify/Product/1"]
