"""Start an emulator as the process that it is, and talk to its control endpoint."""
# The URLs are the emulators' own.
# ruff: noqa: S310

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Emulator:
    """One emulator on a port of its own; use it as a context manager."""

    def __init__(self, name: str, *args: str) -> None:
        self._command = [sys.executable, str(HERE / f"{name}.py"), "--port", "0", *args]
        self.url = ""

    def __enter__(self) -> Emulator:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), f"the emulator did not start: {line!r}"
        self.url = line.removeprefix("listening on ").strip()
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def control(self, **wanted: Any) -> dict[str, Any]:
        """Tell it how to behave; gives what `tell` gives."""
        request = urllib.request.Request(f"{self.url}/_control", json.dumps(wanted).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def tell(self) -> dict[str, Any]:
        """What was asked of it, as it counted."""
        with urllib.request.urlopen(f"{self.url}/_control", timeout=30) as answer:
            return json.load(answer)
