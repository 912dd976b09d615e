"""The ways in which APIs ask who is calling: bearer, basic, API key, OAuth 2.0, OAuth 1.0a."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import httpx
import jwt
from oauthlib import oauth1

from ferry.errors import PermanentError, TransientError


class Header:
    """A fixed header: a bearer token, basic authentication, or an API key."""

    def __init__(self, name: str, value: str, *secrets: str) -> None:
        self._name, self._value, self._secrets = name, value, (value, *secrets)

    def sign(self, request: httpx.Request, now: float) -> None:  # noqa: ARG002
        """Set the header."""
        request.headers[self._name] = self._value

    def renew(self, now: float) -> bool:  # noqa: ARG002
        """A fixed proof cannot be renewed."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """The header's value and what it was made of."""
        return self._secrets


def bearer(token: str) -> Header:
    """`Authorization: Bearer …`."""
    return Header("Authorization", f"Bearer {token}", token)


def basic(user: str, password: str) -> Header:
    """`Authorization: Basic …`."""
    joined = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Header("Authorization", f"Basic {joined}", joined, password)


class QueryKey:
    """An API key that travels as a query parameter."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    def sign(self, request: httpx.Request, now: float) -> None:  # noqa: ARG002
        """Add the parameter."""
        request.url = request.url.copy_merge_params({self._name: self._value})

    def bare(self, url: str) -> str:
        """A link of the server's without the key that it repeats: links are kept, keys are not."""
        return str(httpx.URL(url).copy_remove_param(self._name))

    def renew(self, now: float) -> bool:  # noqa: ARG002
        """A fixed proof cannot be renewed."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """The key."""
        return (self._value,)


class OAuth1:
    """OAuth 1.0a, each request signed; NetSuite's token-based access with `HMAC-SHA256` and the account as
    realm.
    """

    def __init__(
        self,
        consumer_key: str,
        consumer_secret: str,
        token: str,
        token_secret: str,
        *,
        realm: str | None = None,
        method: str = oauth1.SIGNATURE_HMAC_SHA256,
    ) -> None:
        self._keys = (consumer_key, consumer_secret, token, token_secret)
        self._realm, self._method = realm, method
        self._first_signed_at: float | None = None

    def sign(self, request: httpx.Request, now: float) -> None:
        """Sign method, URL and query by the server's clock."""
        key, secret, token, token_secret = self._keys
        client = oauth1.Client(
            key, client_secret=secret, resource_owner_key=token, resource_owner_secret=token_secret,
            realm=self._realm, signature_method=self._method, timestamp=str(int(now)), nonce=uuid.uuid4().hex,
        )  # fmt: skip
        # What is signed has to be what is sent, and a link of the server's may be written in more ways than one.
        request.url = request.url.copy_with(params=request.url.params.multi_items())
        _, headers, _ = client.sign(str(request.url), http_method=cast(Any, request.method))
        request.headers["Authorization"] = headers["Authorization"]
        self._first_signed_at = now if self._first_signed_at is None else self._first_signed_at

    def renew(self, now: float) -> bool:  # noqa: ARG002
        """Worth one more try: the refusal taught us the server's clock."""
        return True

    def secrets(self) -> tuple[str, ...]:
        """Both secrets and the token."""
        return self._keys[1:]


class OAuth2:
    """OAuth 2.0 access tokens, got anew before they expire and when the source refuses them.

    Runs on one machine share a token through `store`, so that a refresh token that changes with each use (as
    many vendors have it) stays known, and a token server is not asked by each run.

    Args:
        token_url: where tokens come from.
        body: the form to send, given the server's clock and the latest refresh token, if there is one.
        store: file for the token, made readable by its owner only; None keeps it in memory.
        secrets: what must not appear in messages.
        basic_auth: client id and secret, for servers that want them as basic authentication.
        who: what messages call the token server.
    """

    def __init__(
        self,
        token_url: str,
        body: Callable[[float, str | None], dict[str, str]],
        *,
        store: Path | None = None,
        secrets: tuple[str, ...] = (),
        basic_auth: tuple[str, str] | None = None,
        who: str = "the token server",
    ) -> None:
        self._url, self._body, self._basic, self._who = token_url, body, basic_auth, who
        self._store, self._own = store, dict[str, Any]()
        self._secrets = secrets
        self._lock = threading.Lock()

    def sign(self, request: httpx.Request, now: float) -> None:
        """Set the bearer token, a fresh one when the last is about to expire."""
        with self._held() as held:
            if not held.get("access_token") or now > held.get("until", 0):
                held |= self._ask(now, held.get("refresh_token"))
            self._own = dict(held)
        request.headers["Authorization"] = f"Bearer {self._own['access_token']}"

    def renew(self, now: float) -> bool:
        """Drop the refused token, unless another run has already got a newer one."""
        with self._held() as held:
            if held.get("access_token") == self._own.get("access_token"):
                held |= self._ask(now, held.get("refresh_token"))
        return True

    def secrets(self) -> tuple[str, ...]:
        """Everything given, and the tokens of now."""
        tokens = (self._own.get("access_token"), self._own.get("refresh_token"))
        return (*self._secrets, *(t for t in tokens if t))

    def _ask(self, now: float, refresh_token: str | None) -> dict[str, Any]:
        where = f"POST {self._url}"
        response: httpx.Response | None = None
        corrected = False
        for attempt in range(4):
            try:
                response = httpx.post(
                    self._url, data=self._body(now, refresh_token), auth=self._basic, timeout=30,
                    headers={"accept": "application/json"},
                )  # fmt: skip
            except httpx.TransportError as error:
                if attempt == 3:
                    raise TransientError(
                        f"{self._who} does not answer", where=where, why=str(error)
                    ) from error
                time.sleep(0.3 * 2**attempt)
                continue
            theirs = _clock(response)
            if response.status_code in (400, 401) and not corrected and abs(theirs - now) > 30:
                corrected, now = (
                    True,
                    theirs,
                )  # an assertion from another time is refused: sign by their clock
                continue
            if response.status_code < 500 and response.status_code != 429:
                break
            time.sleep(0.3 * 2**attempt)
        assert response is not None
        return self._token(response, now, refresh_token, where)

    def _token(
        self, response: httpx.Response, now: float, refresh_token: str | None, where: str
    ) -> dict[str, Any]:
        try:
            told = response.json()
        except ValueError:
            told = None
        told = told if isinstance(told, dict) else {}
        if response.status_code >= 500 or response.status_code == 429:
            raise TransientError(f"{self._who} answers HTTP {response.status_code}", where=where)
        if response.status_code >= 400 or not told.get("access_token"):
            fault = ": ".join(str(told[k]) for k in ("error", "error_description") if told.get(k))
            for secret in self.secrets():
                fault = fault.replace(secret, "***") if secret else fault
            raise PermanentError(
                f"{self._who} refuses (HTTP {response.status_code})",
                where=where,
                why=fault or "no access_token in its answer",
                next="Check client, certificate or refresh token of this connection; a refused one must be made anew",
            )
        try:
            life = float(told.get("expires_in") or 3600)
        except (TypeError, ValueError):
            life = 3600.0
        return {
            "access_token": told["access_token"],
            "refresh_token": told.get("refresh_token") or refresh_token,
            "until": now + life - min(60.0, life * 0.1),
        }

    @contextlib.contextmanager
    def _held(self) -> Iterator[dict[str, Any]]:
        with self._lock:
            if self._store is None:
                yield self._own
                return
            self._store.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._store, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                text = os.pread(handle, 1 << 20, 0)
                try:
                    held = json.loads(text) if text else {}
                except ValueError:
                    held = {}
                before = dict(held)
                yield held
                if held != before:
                    new = json.dumps(held).encode()
                    os.pwrite(handle, new, 0)
                    os.ftruncate(handle, len(new))
                    os.fsync(handle)
            finally:
                os.close(handle)


def _clock(response: httpx.Response) -> float:
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return time.time()


def client_credentials(
    token_url: str,
    client_id: str,
    client_secret: str,
    *,
    scope: str = "",
    store: Path | None = None,
    who: str = "the token server",
) -> OAuth2:
    """OAuth 2.0 client credentials with a secret in the body."""

    def body(now: float, refresh: str | None) -> dict[str, str]:  # noqa: ARG001
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
        return form | ({"scope": scope} if scope else {})

    return OAuth2(token_url, body, store=store, secrets=(client_secret,), who=who)


def refresh_token(
    token_url: str, client_id: str, client_secret: str, token: str, *, store: Path | None = None
) -> OAuth2:
    """OAuth 2.0 with a refresh token; a new refresh token in an answer replaces the declared one."""

    def body(now: float, refresh: str | None) -> dict[str, str]:  # noqa: ARG001
        return {
            "grant_type": "refresh_token", "refresh_token": refresh or token,
            "client_id": client_id, "client_secret": client_secret,
        }  # fmt: skip

    return OAuth2(token_url, body, store=store, secrets=(client_secret, token))


def certificate(
    token_url: str,
    client_id: str,
    certificate_id: str,
    private_key: str,
    *,
    scope: list[str],
    algorithm: str = "PS256",
    store: Path | None = None,
) -> OAuth2:
    """OAuth 2.0 client credentials proved by a signed assertion (RFC 7523), as NetSuite wants them.

    The assertion lives for 5 minutes: less than NetSuite's hour, and long enough for clocks that differ.
    """

    def body(now: float, refresh: str | None) -> dict[str, str]:  # noqa: ARG001
        claims = {"iss": client_id, "scope": scope, "aud": token_url, "iat": int(now), "exp": int(now) + 300}
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode(claims, private_key, algorithm, headers={"kid": certificate_id}),
        }

    return OAuth2(token_url, body, store=store, secrets=(private_key,))


def store_for(directory: Path | None, *identity: str) -> Path | None:
    """Where the token of this client is kept: one file for each, named by a hash."""
    name = hashlib.sha256(urlencode([("id", i) for i in identity]).encode()).hexdigest()[:20]
    return directory / f"token-{name}.json" if directory else None
