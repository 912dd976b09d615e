"""Alerts: what went wrong, told to people where they are: Slack, a webhook of their own, e-mail.

Whoever sends decides what to do with a message that was not delivered; nothing here raises for that.
"""

import datetime
import logging
import re
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import psycopg
import tenacity

from ferry import ledger
from ferry.catalogue import connect
from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError
from ferry.plan import MigrationPlan
from ferry.settings import Settings

TRIES, SECONDS = 3, 8.0
"""How often a delivery is tried at once, and how long one try may take; a sensor has a minute for all of it."""

# It tells each URL that it calls, and the address of a webhook is its password.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Alert:
    """What is told: what happened and to which entity and partitions, why, and where to look.

    Args:
        what: one sentence, `orders failed`.
        reason: the error, as the run says it.
        entity: whose rows; empty if it is about none.
        partitions: the partitions concerned.
        link: the page to open.
    """

    what: str
    reason: str
    entity: str = ""
    partitions: tuple[str, ...] = ()
    link: str = ""

    def as_text(self) -> str:
        """The alert in lines, as a person reads it."""
        lines = [self.what, self.reason]
        if self.partitions:
            more = f" and {len(self.partitions) - 10} more" if len(self.partitions) > 10 else ""
            lines.append(f"Partitions: {', '.join(self.partitions[:10])}{more}")
        return "\n".join([*lines, *([self.link] if self.link else [])])


def channels(settings: Settings) -> dict[str, Callable[[Alert], None]]:
    """The ways to tell people that are set, by name: each raises a `FerryError` if it cannot.

    Raises:
        DeclarationError: a setting that belongs to another is missing.
    """
    found: dict[str, Callable[[Alert], None]] = {}
    if settings.alert_slack_url:
        slack = settings.alert_slack_url.get_secret_value()
        found["slack"] = lambda alert: _post(slack, {"text": alert.as_text()}, "Slack's webhook")
    if settings.alert_webhook_url:
        webhook = settings.alert_webhook_url.get_secret_value()
        found["webhook"] = lambda alert: _post(webhook, asdict(alert), "the webhook")
    if settings.alert_email_to:
        if not settings.alert_smtp_url:
            raise DeclarationError(
                "alerts by e-mail need a mail server",
                where="FERRY_ALERT_SMTP_URL",
                next="Set FERRY_ALERT_SMTP_URL=smtp://user:password@host:587, or unset FERRY_ALERT_EMAIL_TO",
            )
        server = settings.alert_smtp_url.get_secret_value()
        to, sender = settings.alert_email_to, settings.alert_email_from
        found["email"] = lambda alert: _mail(server, sender, to, alert)
    return found


def deliver(alert: Alert, settings: Settings, only: tuple[str, ...] | None = None) -> dict[str, str]:
    """Tell an alert through every channel that is set, trying again what may pass.

    Args:
        alert: what to tell.
        settings: which channels there are.
        only: those that are still to be told; all if None.

    Returns:
        Channel → why it was not delivered there; empty if everybody was told.
    """
    refused: dict[str, str] = {}
    for name, tell in channels(settings).items():
        if only is not None and name not in only:
            continue
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_random_exponential(multiplier=settings.retry_seconds, max=4),
            reraise=True,
        )
        try:
            again(tell, alert)
        except FerryError as error:
            refused[name] = str(error)
    return refused


def waiting_too_long(plans: MigrationPlan, settings: Settings, hours: float) -> list[Alert]:
    """One alert for each entity whose rows have waited for their parents longer than that."""
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    alerts = []
    for name in plans.order:
        target = plans[name].declaration.target.connection
        with connect(settings.url(target), target, autocommit=True) as connection:
            if not ledger.is_prepared(connection):
                continue
            partitions, rows, parents = _waiting(connection, name, since)
        if rows:
            wanted = f" for {', '.join(parents)}" if parents else ""
            alerts.append(
                Alert(
                    f"{name}: {rows:,} rows wait",
                    f"They have waited{wanted} for more than {hours:g} hours. Load the parents, then settle",
                    name,
                    partitions,
                    settings.alert_link,
                )
            )
    return alerts


def _waiting(
    connection: psycopg.Connection, entity: str, since: datetime.datetime
) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    row = connection.execute(
        "select coalesce(array_agg(distinct w.partition), '{}'), count(distinct w.id),"
        " coalesce(array_agg(distinct split_part(m, ' ', 1)) filter (where m is not null), '{}')"
        " from ferry.waiting_rows w left join unnest(w.missing) m on true where w.entity = %s and w.since < %s",
        (entity, since),
    ).fetchone()
    assert row is not None
    return tuple(row[0]), row[1], tuple(row[2])


def _post(url: str, body: dict[str, object], whose: str) -> None:
    import httpx  # here, because every run imports this module and hardly one sends an alert

    try:
        answer = httpx.post(url, json=body, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The address of a webhook is its password: only the kind of error is told.
        raise TransientError(f"{whose} cannot be reached", why=type(error).__name__) from None
    if answer.is_success:
        return
    kind = TransientError if answer.status_code == 429 or answer.is_server_error else PermanentError
    raise kind(f"{whose} answered {answer.status_code}", why=_without(url, answer.text[:2000])[:200].strip())


def _without(url: str, text: str) -> str:
    """What a server said, without the parts of its address: pages for 404 like to repeat it."""
    for part in sorted(re.split(r"[/?&=#]", url.partition("://")[2])[1:], key=len, reverse=True):
        text = text.replace(part, "***") if len(part) > 3 else text
    return text


def _mail(server: str, sender: str, to: tuple[str, ...], alert: Alert) -> None:
    parts = urlsplit(server)
    try:
        port = parts.port
    except ValueError:
        # It would repeat what it takes for a port: the rest of a password with a `/` in it.
        raise DeclarationError(
            "the mail server's address cannot be read",
            where="FERRY_ALERT_SMTP_URL",
            next="Write smtp://user:password@host:587; escape special characters with %XX",
        ) from None
    message = EmailMessage()
    message["Subject"] = " ".join(f"Ferry: {alert.what}".split())[:200]
    message["From"], message["To"] = sender, ", ".join(to)
    message.set_content(alert.as_text())
    host, secure = parts.hostname or "localhost", parts.scheme == "smtps"
    try:
        if secure:
            opened: smtplib.SMTP = smtplib.SMTP_SSL(
                host, port or 465, timeout=SECONDS, context=ssl.create_default_context()
            )
        else:
            opened = smtplib.SMTP(host, port or 25, timeout=SECONDS)
        with opened as connection:
            if not secure and connection.has_extn("starttls"):
                connection.starttls(context=ssl.create_default_context())
            if parts.username:
                connection.login(unquote(parts.username), unquote(parts.password or ""))
            connection.send_message(message)
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else ""
        kind = PermanentError if 500 <= error.smtp_code < 600 else TransientError
        raise kind(f"the mail server answered {error.smtp_code}", why=said[:200]) from None
    except smtplib.SMTPRecipientsRefused as error:
        raise PermanentError(
            "the mail server refuses the recipients", why=", ".join(error.recipients)
        ) from None
    except (OSError, smtplib.SMTPException) as error:
        raise TransientError(
            "the mail server cannot be reached", where=host, why=type(error).__name__
        ) from None
