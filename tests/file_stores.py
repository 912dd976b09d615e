"""Where files lie: a folder, a store that speaks S3, and a server that speaks SFTP, both over real sockets."""

import itertools
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import boto3
import httpx
import paramiko
from moto.server import ThreadedMotoServer

_moments = itertools.count(1_700_000_000)


class Folder:
    """A folder; use as a context manager, as the others. Each file is a second younger than the one before."""

    def __init__(self, root: Path) -> None:
        """Args: the folder, which is made."""
        self.root = root
        root.mkdir()

    def __enter__(self) -> Self:
        """It is there."""
        return self

    def __exit__(self, *_: object) -> None:
        """It stays."""

    @property
    def connection(self) -> dict[str, Any]:
        """The parts of a connection, its URL among them."""
        return {"url": str(self.root)}

    def put(self, name: str, body: bytes) -> None:
        """Write a file."""
        path, at = self.root / name, next(_moments)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (at, at))

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.root / name).unlink()


class S3:
    """A store with an empty bucket `files`, one at a time in a process; use as a context manager."""

    def __enter__(self) -> Self:
        """Start the store, with a user who may read."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        # A process has one such store, whatever listens to it: begin without what an earlier test left.
        httpx.post(f"{self.endpoint}/moto-api/reset").raise_for_status()
        self._client = self._speak("s3", "setup", "setup")
        self._client.create_bucket(Bucket="files")
        users = self._speak("iam", "setup", "setup")
        users.create_user(UserName="reader")
        policy = (
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        )
        users.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=policy)
        made = users.create_access_key(UserName="reader")["AccessKey"]
        self._key, self._secret = made["AccessKeyId"], made["SecretAccessKey"]
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what is in it, which would outlive the server in this process, and stop it."""
        httpx.post(f"{self.endpoint}/moto-api/reset").raise_for_status()
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Where it is and who reads, as everything that speaks S3 finds them in the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
        }

    @property
    def connection(self) -> dict[str, Any]:
        """The parts of a connection, its URL among them."""
        return {
            "url": "s3://files",
            "options": {"key": self._key, "endpoint_url": self.endpoint},
            "secrets": {"secret": self._secret},
        }

    def put(self, name: str, body: bytes) -> None:
        """Write a file."""
        self._client.put_object(Bucket="files", Key=name, Body=body)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._client.delete_object(Bucket="files", Key=name)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """As long as this lasts the store looks at credentials."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=b"0").raise_for_status()
        try:
            yield
        finally:
            httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=b"inf").raise_for_status()

    def _speak(self, service: Any, key: str, secret: str) -> Any:
        return boto3.client(
            service, aws_access_key_id=key, aws_secret_access_key=secret, endpoint_url=self.endpoint,
            region_name="us-east-1",
        )  # fmt: skip


class SftpServer(Folder):
    """A folder over SFTP; use as a context manager.

    Attributes:
        root: the folder.
        opened: the names of the files that were opened, in order.
        cut_at: the connection breaks when a file of this name is read.
    """

    def __init__(self, root: Path) -> None:
        """Args: the folder, which is made."""
        super().__init__(root)
        self.opened, self.cut_at = list[str](), ""

    def __enter__(self) -> Self:
        """Listen."""
        self._key = paramiko.RSAKey.generate(2048)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._transports: list[paramiko.Transport] = []
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of all connections."""
        self._listening.close()
        self.cut()

    @property
    def connection(self) -> dict[str, Any]:
        """The parts of a connection, its URL among them."""
        port = self._listening.getsockname()[1]
        shown = f"{self._key.get_name()} {self._key.get_base64()}"
        return {
            "url": "sftp://127.0.0.1",
            "options": {"port": port, "username": "reader", "host_key": shown},
            "secrets": {"password": "pass-word"},
        }

    def cut(self) -> None:
        """Break every connection."""
        for transport in self._transports:
            transport.close()

    def _serve(self) -> None:
        files = type("Files", (_Files,), {"server": self})
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, files)
            transport.start_server(server=_Login())
            self._transports.append(transport)


class _Files(paramiko.SFTPServerInterface):
    server: SftpServer

    def _real(self, path: str) -> Path:
        return self.server.root / path.lstrip("/")

    def list_folder(self, path: str) -> Any:
        found = []
        for one in sorted(self._real(path).iterdir()):
            attributes = paramiko.SFTPAttributes.from_stat(one.stat())
            attributes.filename = one.name
            found.append(attributes)
        return found

    def stat(self, path: str) -> Any:
        real = self._real(path)
        return paramiko.SFTPAttributes.from_stat(real.stat()) if real.exists() else paramiko.SFTP_NO_SUCH_FILE

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:  # noqa: ARG002 - paramiko asks so
        name = path.lstrip("/")
        self.server.opened.append(name)
        if name == self.server.cut_at:
            self.server.cut()
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = self._real(path).open("rb")
        return handle


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        right = (username, password) == ("reader", "pass-word")
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002 - paramiko asks so
        return paramiko.OPEN_SUCCEEDED
