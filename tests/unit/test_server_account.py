"""Who runs the embedded PostgreSQL, and whether that account finds its programs."""

import shutil
import tempfile
from pathlib import Path

from shop.demo.account import binaries_for, installation, server_account


def test_programs_that_lie_in_a_closed_directory_run_as_the_servers_account(
    tmp_path: Path,
) -> None:
    """A checkout in root's own home is closed to the server's account; its copy brings the libraries too."""
    package = installation().parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18", symlinks=True)
    libraries = f"{package.name}.libs"
    shutil.copytree(package.with_name(libraries), closed / libraries)
    who = server_account()
    open_to_all = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        who.own(open_to_all)
        programs = binaries_for(who, open_to_all, closed / package.name / "pginstall18")
        said = who.run(programs / "initdb", "--version", cwd=Path("/"))
        assert (said.returncode, said.stdout.split()[0]) == (0, "initdb")
    finally:
        shutil.rmtree(open_to_all)
