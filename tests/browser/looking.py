"""Pictures of what a browser shows."""

import os
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]


def picture(page: Page, name: str, height: int = 1000) -> None:
    """Keep the upper part of what the window shows, in out/stack or where `FERRY_PICTURES` says, when all is loaded."""
    page.wait_for_load_state("networkidle")
    folder = ROOT / os.environ.get("FERRY_PICTURES", "out/stack")
    folder.mkdir(parents=True, exist_ok=True)
    clip = {"x": 0, "y": 0, "width": 1600, "height": height}
    page.screenshot(path=folder / f"{name}.png", clip=clip)  # type: ignore[arg-type]
