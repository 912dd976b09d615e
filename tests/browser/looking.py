"""Pictures of what a browser shows."""

import os
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]


def picture(page: Page, name: str) -> None:
    """Keep what the window shows, in out/stack or where `FERRY_PICTURES` says."""
    folder = ROOT / os.environ.get("FERRY_PICTURES", "out/stack")
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
