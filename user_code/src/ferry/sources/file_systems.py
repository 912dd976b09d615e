"""File systems: SFTP from a server that shows the key it is known by, and what the errors of all of them mean.

A server whose key nobody has seen before may be anybody's, and the password would go to it: the library that this
builds on takes any key unless it is told otherwise.
"""

from __future__ import annotations

import io
from typing import Any

import fsspec
import paramiko
from botocore.exceptions import NoCredentialsError
from fsspec.implementations.sftp import SFTPFileSystem
from paramiko.hostkeys import HostKeyEntry

from ferry.errors import DeclarationError, FerryError, PermanentError, TransientError

_BLOCK = 2**20


class Sftp(SFTPFileSystem):
    """As its parent, with one option more.

    Args:
        host_key: the server's public keys as `ssh-keyscan` prints them, with or without the host before each; without
            it those in `~/.ssh/known_hosts`.
    """

    # A connection that broke is not to be found again in a cache.
    cachable = False

    def __init__(self, host: str, *, host_key: str = "", **options: Any) -> None:
        """Connect; raises `PermanentError` when the server's key is not the known one."""
        self._keys = [
            _parsed(line) for line in host_key.splitlines() if line.strip() and line.strip()[0] != "#"
        ]
        super().__init__(host, **{"timeout": 30, "banner_timeout": 30, "auth_timeout": 30, **options})

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        port = int(self.ssh_kwargs.get("port", 22))
        name = self.host if port == 22 else f"[{self.host}]:{port}"
        if self._keys:
            for key in self._keys:
                self.client.get_host_keys().add(name, key.get_name(), key)
        else:
            self.client.load_system_host_keys()
        self.client.set_missing_host_key_policy(_Unknown())
        try:
            self.client.connect(self.host, **self.ssh_kwargs)
        except paramiko.BadHostKeyException as error:
            raise _refused(name, error.key, "it is not the key that this server is known by") from None
        self.ftp = self.client.open_sftp()

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        file = super()._open(path, mode, block_size, **options)
        if mode != "rb":
            return file
        return io.BufferedReader(_Ahead(file, self.info(path)["size"]), block_size or _BLOCK)

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()


class _Ahead(io.RawIOBase):
    """A file over SFTP, a block at a time: the many small requests of a block do not wait for each other's answers."""

    def __init__(self, file: paramiko.SFTPFile, size: int) -> None:
        self._file, self._at, self._size = file, 0, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: Any) -> int:
        wanted = min(len(into), self._size - self._at)
        if wanted <= 0:
            return 0
        (block,) = self._file.readv([(self._at, wanted)])
        into[: len(block)] = block
        self._at += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def store_fault(error: Exception, where: str) -> FerryError:
    """A file system's error: refused credentials stay refused, a connection that broke may come back."""
    said = f"{type(error).__name__}: {str(error)[:200]}"
    if isinstance(error, PermissionError | paramiko.AuthenticationException | NoCredentialsError):
        return PermanentError(
            "the file system refuses",
            where=where,
            why=said,
            next="Check the credentials of this connection, and what they may read",
        )
    return TransientError("the file system failed", where=where, why=said)


class _Unknown(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        raise _refused(hostname, key, "nothing says that this server is the one it should be")


def _refused(host: str, key: paramiko.PKey, why: str) -> PermanentError:
    return PermanentError(
        f"the server shows a key that is not known ({key.fingerprint})",
        where=host,
        why=why,
        next="Compare it with what its owner says, then set the connection's OPTIONS__HOST_KEY to"
        f" '{key.get_name()} {key.get_base64()}', or add it to ~/.ssh/known_hosts",
    )


def _parsed(line: str) -> paramiko.PKey:
    parts = line.split()
    at = next((at for at, part in enumerate(parts) if part.startswith(("ssh-", "ecdsa-", "sk-"))), None)
    entry = HostKeyEntry.from_line(f"host {' '.join(parts[at : at + 2])}") if at is not None else None
    if entry is None or entry.key is None:
        raise DeclarationError(
            "this is no public key of a server",
            where="options.host_key",
            why=line[:60],
            next="Give a line of `ssh-keyscan`: `ssh-ed25519 AAAA…`",
        )
    return entry.key


fsspec.register_implementation("sftp", Sftp, clobber=True)
fsspec.register_implementation("ssh", Sftp, clobber=True)
