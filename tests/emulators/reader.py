"""Read a source in a process of its own, keeping rows and checkpoint page by page, as a stage does; it can be
killed.

`python tests/emulators/reader.py SPEC.json OUT_DIR [DIE_AFTER]`: after DIE_AFTER pages the process kills
itself (9).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ferry.sources.page import Window


def build(spec: dict[str, Any], state_dir: Path) -> Any:
    """The source that a spec describes: a module, a builder in it, and what to give it."""
    given = dict(spec["given"])
    if spec["kind"] in ("shopify", "shopify_bulk"):
        shopify = importlib.import_module("ferry.sources.shopify")
        shop = shopify.Shop(given.pop("url"), given.pop("token"), state_dir, **given.pop("shop", {}))
        entity = shopify.ENTITIES[given.pop("entity")]
        name = "ShopifySource" if spec["kind"] == "shopify" else "ShopifyBulkSource"
        made = getattr(importlib.import_module(f"ferry.sources.{spec['kind']}"), name)
        return made(shop, entity, work_dir=state_dir, **given)
    if spec["kind"] == "rest":
        rest = importlib.import_module("ferry.sources.rest")
        return rest.RestSource(rest.RestDeclaration.parse(given), state_dir=state_dir, work_dir=state_dir)
    if spec["kind"] == "netsuite":
        netsuite = importlib.import_module("ferry.sources.netsuite")
        return netsuite.source(given, state_dir=state_dir, work_dir=state_dir)
    files = importlib.import_module("ferry.sources.files")
    return files.FileSource(**given)


def read(spec: dict[str, Any], out: Path, die_after: int | None = None) -> None:
    """Read on from the checkpoint in `out`; every page becomes one file, renamed when whole."""
    out.mkdir(parents=True, exist_ok=True)
    source = build(spec, out)
    kept = out / "kept.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"pages": 0, "checkpoint": None}
    asked = spec.get("window")
    window = Window(asked[0], *(_edge(e) for e in asked[1:])) if asked else None
    for done, page in enumerate(source.read(window, state["checkpoint"]), 1):
        state = {"pages": state["pages"] + 1, "checkpoint": page.checkpoint}
        with (
            pa.OSFile(str(out / f"page-{state['pages']:05}.arrow"), "wb") as file,
            pa.ipc.new_file(file, page.batch.schema) as writer,
        ):
            writer.write_batch(page.batch)
        (out / "kept.new").write_text(json.dumps(state))
        (out / "kept.new").rename(kept)
        if done == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    said = source.completeness
    (out / "said.json").write_text(
        json.dumps({"stated": said.stated, "arrived": said.arrived, "hash": said.hash})
    )


def start(spec: dict[str, Any], out: Path, die_after: int | None = None) -> subprocess.Popen[str]:
    """The same in a new process, which the caller waits for or kills."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "spec.json").write_text(json.dumps(spec))
    command = [
        sys.executable,
        __file__,
        str(out / "spec.json"),
        str(out),
        *([str(die_after)] if die_after else []),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(spec: dict[str, Any], out: Path, die_after: int | None = None) -> subprocess.CompletedProcess[str]:
    """The same to its end; its code is -9 when it died."""
    process = start(spec, out, die_after)
    said = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows that the pages in `out` have, in order; pages beyond the checkpoint do not count."""
    pages = json.loads((out / "kept.json").read_text())["pages"]
    tables = []
    for number in range(1, pages + 1):
        with pa.memory_map(str(out / f"page-{number:05}.arrow")) as file:
            tables.append(pa.ipc.open_file(file).read_all())
    return [row for table in tables for row in table.to_pylist()]


def _edge(text: Any) -> Any:
    return (
        datetime.fromisoformat(text) if isinstance(text, str) and text[:1].isdigit() and "T" in text else text
    )


if __name__ == "__main__":
    read(
        json.loads(Path(sys.argv[1]).read_text()),
        Path(sys.argv[2]),
        int(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
