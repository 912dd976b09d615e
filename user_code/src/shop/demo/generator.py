"""TPC-H rows as CSV files, from the `tpchgen-cli` wheel: the same rows for the same scale everywhere."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from ferry.errors import PermanentError

TABLES = ("customer", "part", "orders", "lineitem")


class Generator:
    """Makes the rows of one scale in a directory of its own, in the background; it is removed at the end.

    At scale 1 that is 0.9 GiB on disk and 9 seconds on two cores. At any scale the generator first makes a
    pool of text, which takes it 2 seconds and 320 MiB (390 MiB at scale 1): do this in a process of its own,
    before anything else that is large.
    """

    def __init__(self, home: Path, scale: float) -> None:
        if not scale > 0:
            raise PermanentError(
                f"the scale is {scale}", where="SCALE", next="Choose a number above 0; 1 is 7.85 million rows"
            )
        self._home = home
        self._scale = scale
        self._directory: Path | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Generator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def begin(self) -> None:
        """Start making rows, unless that was done before."""
        if self._process is None:
            self._home.mkdir(parents=True, exist_ok=True)
            self._directory = Path(tempfile.mkdtemp(prefix="rows-", dir=self._home))
            self._process = subprocess.Popen(
                [
                    _program(),
                    "csv",
                    "-s",
                    f"{self._scale:f}",
                    "-T",
                    ",".join(TABLES),
                    "-q",
                    "-o",
                    self._directory,
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )

    def files(self) -> dict[str, Path]:
        """Wait until all rows are there and say where: one CSV file with a header for each of `TABLES`."""
        self.begin()
        assert self._process is not None  # noqa: S101 - for the type checker
        assert self._directory is not None  # noqa: S101
        _, said = self._process.communicate()
        if self._process.returncode:
            raise PermanentError(
                "tpchgen-cli made no rows",
                where=f"scale {self._scale}",
                why=" ".join(said.split())[-500:],
                next=f"Look whether {self._home} has room for about {self._scale:.1f} GiB",
            )
        return {table: self._directory / f"{table}.csv" for table in TABLES}


def _program() -> str:
    beside_python = Path(sys.executable).with_name("tpchgen-cli")
    found = str(beside_python) if beside_python.exists() else shutil.which("tpchgen-cli")
    if found is None:
        raise PermanentError("tpchgen-cli is not installed", next="Install the demo's extra: ferry[demo]")
    return found
