"""A connection to a MySQL or MariaDB server, by the URL of a source, and what becomes of the server's errors.

`mysql://user:password@host:3306/database`, or `mariadb://`. After a `?` may stand `unix_socket`, `ssl_ca`, `ssl_cert`,
`ssl_key` and `ssl_verify_identity`. Without these TLS is used where the server offers it, and nothing is verified.
"""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql

from ferry.declaration import nearest
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.settings import PREFIX

_OPTIONS = ("unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_identity")
# A timestamp is told in UTC, a condition means the same whatever the server is set to, rows may wait for their load.
_SESSION = (
    "set session time_zone = '+00:00', sql_mode = ''",
    "set session net_write_timeout = 31536000, wait_timeout = 31536000",
    "set session transaction isolation level repeatable read",
)
_PASSING = {1040, 1053, 1077, 1158, 1159, 1160, 1161, 1205, 1213, 1412, 2002, 2003, 2006, 2013, 4031}
"""Errors after which the same may succeed: too many connections, shutdown, network, locks, a changed table."""


def connect(url: str, connection: str) -> "pymysql.Connection[Any]":
    """Open a connection in autocommit; a refusal becomes one message without the password.

    Raises:
        DeclarationError: the URL cannot be read.
        TransientError: the server cannot be reached.
        PermanentError: it can, and refuses.
    """
    variable = f"{PREFIX}CONNECTIONS__{connection.upper()}"
    options, place = _options(url, variable)
    try:
        opened = pymysql.connect(
            **options,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
            program_name=f"ferry {connection}",
        )
        with opened.cursor() as cursor:
            for statement in _SESSION:
                cursor.execute(statement)
    except (pymysql.MySQLError, OSError, RuntimeError) as error:
        known = told(error, "settings")
        raise type(known)(
            f"connection {connection!r} does not open ({place})",
            where="settings",
            why=known.why,
            next=f"Check {variable} and that the server runs and lets this user in",
        ) from None
    return opened


def _options(url: str, variable: str) -> tuple[dict[str, Any], str]:
    form = "Write mysql://user:password@host:3306/database; escape special characters with %XX"
    try:
        parts = urlsplit(url)
        port, given = parts.port or 3306, dict(parse_qsl(parts.query))
    except ValueError:
        raise DeclarationError("the URL cannot be read", where=variable, next=form) from None
    database = unquote(parts.path.removeprefix("/"))
    if not database or not parts.username:
        what = "user" if database else "database"
        raise DeclarationError(f"the URL names no {what}", where=variable, next=form)
    for name in given:
        if name not in _OPTIONS:
            raise DeclarationError(
                f"there is no option {name!r}",
                where=variable,
                next=nearest(name, _OPTIONS, "The options are"),
            )
    if "ssl_verify_identity" in given:
        given["ssl_verify_identity"] = given["ssl_verify_identity"].lower() in ("1", "true", "yes")  # type: ignore[assignment]
    host = parts.hostname or "localhost"
    options = {
        "host": host, "port": port, "user": unquote(parts.username), "password": unquote(parts.password or "").encode(),
        "database": database, **given,
    }  # fmt: skip
    return options, f"{given.get('unix_socket') or f'{host}:{port}'}/{database}"


def told(error: BaseException, where: str) -> FerryError:
    """What the server said, as an error that knows whether a retry can help."""
    number, text = error.args[:2] if len(error.args) > 1 else (0, str(error))
    if number in _PASSING or isinstance(error, OSError):
        return TransientError(
            "the source broke off while it was read", where=where, why=str(text),
            next="Run it again; the partition is read anew as a whole",
        )  # fmt: skip
    return PermanentError("the source refused the query", where=where, why=str(text))
