"""Settings: one class, read from the environment, each error naming the variable and the fix."""

import json
import os
import re
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ferry.declaration import nearest
from ferry.errors import DeclarationError

PREFIX = "FERRY_"
STORES = ("abfs", "az", "file", "gcs", "gs", "s3", "s3a", "sftp")
"""Schemes of what a stage can be written to; those of other packages once they are installed."""


def _as_text(value: Any) -> Any:
    """A connection of several parts (`…__API__URL`, `…__API__AUTH__TOKEN`, or JSON) as JSON, in one secret."""
    return value if isinstance(value, str | SecretStr) else json.dumps(value)


Connection = Annotated[SecretStr, BeforeValidator(_as_text)]


class Settings(BaseSettings):
    """Everything that differs between one place where Ferry runs and another.

    Each field is the environment variable of the same name in capitals, with the prefix ``FERRY_``. A connection
    is one variable more: ``FERRY_CONNECTIONS__LEGACY=postgresql://user:password@host/database``. One that needs more
    than a URL has a variable for each part, ``FERRY_CONNECTIONS__SHOP__URL`` and ``FERRY_CONNECTIONS__SHOP__TOKEN``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", hide_input_in_errors=True
    )

    connections: dict[str, Connection] = Field(
        default_factory=dict, description="URL of each connection that a declaration names"
    )
    stage_uri: str = Field(
        default="out/stage",
        description="where staged Parquet lies: a path, or a URI such as s3://bucket/prefix",
    )
    state_dir: str = Field(
        default="",
        description="folder for what the runs of a machine share: rate limits, tokens, the keys of a reading that"
        " goes on; `.state` in the stage if empty",
    )
    chunk_rows: int = Field(
        default=65_536, ge=1, le=10_000_000, description="rows of one staged part, loaded in one transaction"
    )
    chunk_bytes: int = Field(
        default=16 * 2**20, ge=1024, description="bytes (in memory) at which a part is closed early"
    )
    read_ahead: int = Field(
        default=2, ge=1, le=64, description="parts that may be extracted before they are loaded"
    )
    loaders: int = Field(
        default=2,
        ge=1,
        le=16,
        description="connections over which chunks of a partition are loaded side by side",
    )
    lock_timeout_seconds: float = Field(
        default=30, gt=0, description="how long a load waits for a lock that somebody else holds"
    )
    reread: bool = Field(
        default=False,
        description="whether windows of APIs and files are read anew that, going by what the source says of them, are"
        " as they were",
    )
    retries: int = Field(default=4, ge=0, le=100, description="how often a transient error is tried again")
    retry_seconds: float = Field(
        default=0.5, ge=0, description="the first pause before a retry; it doubles, with jitter"
    )

    connector_state: str = Field(
        default="",
        description="folder for what sync tools said of their connections; beside the stage if empty",
    )
    change_after_cutover: bool = Field(
        default=False, description="whether entities that were signed off may be changed"
    )
    alert_slack_url: SecretStr | None = Field(
        default=None, description="incoming webhook of Slack, or of what speaks like it"
    )
    alert_webhook_url: SecretStr | None = Field(
        default=None,
        description="address that gets each alert as JSON: what, reason, entity, partitions, link",
    )
    alert_email_to: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="who gets alerts by e-mail, separated by commas"
    )
    alert_email_from: str = Field(default="ferry@localhost", description="the sender of these e-mails")
    alert_smtp_url: SecretStr | None = Field(
        default=None,
        description="mail server: smtp://user:password@host:587 (STARTTLS if offered) or smtps://…",
    )
    alert_link: str = Field(
        default="http://127.0.0.1:3000", description="address of the UI, for the links in alerts"
    )
    alert_waiting_hours: float = Field(
        default=24, gt=0, description="how long rows may wait for their parents before somebody is told"
    )
    alert_stale_hours: float = Field(
        default=26, gt=0, description="how long a source may go unobserved before somebody is told"
    )

    @field_validator("alert_email_to", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return (
            tuple(one.strip() for one in value.split(",") if one.strip()) if isinstance(value, str) else value
        )

    @field_validator("stage_uri")
    @classmethod
    def _can_be_written(cls, uri: str) -> str:
        named = re.match(r"([A-Za-z][\w+.-]*):(//)?", uri)
        if named is None:
            return uri
        scheme, where = named[1].lower(), f"{PREFIX}STAGE_URI"
        if not named[2]:
            raise DeclarationError(
                f"'{named[1]}:' is not followed by two slashes",
                where=where,
                next=f"Write {scheme}://… or, for a folder of that name, ./{named[1]}:…",
            )
        if scheme not in STORES:
            raise DeclarationError(
                f"no stage can lie at '{scheme}://'",
                where=where,
                next=nearest(scheme, STORES, "Write a path, or one of these schemes"),
            )
        from fsspec.registry import known_implementations

        kind = known_implementations[scheme]
        if find_spec(kind["class"].split(".")[0]) is None:
            raise DeclarationError(
                f"the package for '{scheme}://' is not installed", where=where, next=kind["err"]
            )
        return uri

    def url(self, connection: str, where: str = "settings") -> str:
        """The URL of a connection, or a `DeclarationError` that names the variable to set.

        Args:
            connection: as a declaration names it.
            where: the place that names it, for the error.
        """
        secret = self.connections.get(connection.lower())
        if secret is None:
            variable = f"{PREFIX}CONNECTIONS__{connection.upper()}"
            known = nearest(connection, self.connections, "Connections that are set")
            raise DeclarationError(
                f"connection {connection!r} has no URL",
                where=where,
                why=f"{variable} is not set",
                next=f"{known if known.endswith('?') else f'{known}.'}"
                f" Set {variable}=postgresql://user:password@host:5432/database",
            )
        return secret.get_secret_value()

    def parts(self, connection: str, where: str = "settings") -> dict[str, Any]:
        """The parts of a connection; one that is a URL alone has the part `url`.

        Args:
            connection: as a declaration names it.
            where: the place that names it, for the error.
        """
        text = self.url(connection, where)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"url": text}

    @property
    def state_root(self) -> Path:
        """`state_dir`, or its default: with the stage where that is a folder, else one of this machine."""
        if self.state_dir:
            return Path(self.state_dir).absolute()
        if "://" in self.stage_root:
            return Path(tempfile.gettempdir()) / "ferry-state"
        return Path(self.stage_root) / ".state"

    @property
    def stage_root(self) -> str:
        """`stage_uri`, a relative path made absolute so that every process means the same folder."""
        return self.stage_uri if "://" in self.stage_uri else str(Path(self.stage_uri).absolute())

    @property
    def connector_root(self) -> str:
        """The folder of `connector_state`; a stage that is no folder has `out/connectors` beside it."""
        beside = "out/connectors" if "://" in self.stage_uri else f"{self.stage_root}/connectors"
        return str(Path(self.connector_state or beside).absolute())


def read_settings(**over: Any) -> Settings:
    """Read the environment; an unreadable value becomes a `DeclarationError` that names its variable.

    Args:
        over: fields that are taken instead of the environment's.
    """
    try:
        return Settings(**over)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = PREFIX + "__".join(str(part) for part in first["loc"]).upper()
        # What is declared as a secret, such as a connection's URL, is not shown.
        secret = "SecretStr" in str(Settings.model_fields[str(first["loc"][0])].annotation)
        given = "" if secret else f", found {os.environ.get(name, '')!r}"
        raise DeclarationError(
            f"{name} cannot be used: {first['msg']}{given}",
            where="environment",
            next=f"Correct or unset {name}; docs/settings.md lists every setting",
        ) from None


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings()
