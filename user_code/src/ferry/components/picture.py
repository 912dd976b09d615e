"""What became of a partition's rows, as a bar that is read at a glance: a few hundred bytes of SVG, made by hand."""

import base64
from collections.abc import Mapping

import dagster as dg

# Told apart by those who see few colours as well; each is legible on the UI's light and on its dark ground.
COLOURS = {
    "inserted": "#2a9d63",
    "updated": "#3b82c4",
    "unchanged": "#9aa3ad",
    "preserved": "#8e6bbf",
    "rejected": "#d1483a",
    "waiting": "#e0a32e",
}
_WIDTH, _LEAST = 480, 4


def outcome_bar(outcomes: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """The share of each end, and its count; however few rows met an end, it is seen.

    Args:
        outcomes: rows by end; other names are left out.
    """
    ends = {end: outcomes.get(end, 0) for end in COLOURS if outcomes.get(end)}
    told = ", ".join(f"{end} {rows:,}" for end, rows in ends.items()) or "no rows"
    free, every = _WIDTH - _LEAST * len(ends), max(sum(ends.values()), 1)
    drawn, at, below = [], 0.0, 0
    for end, rows in ends.items():
        width = _LEAST + free * rows / every
        label = f"{end} {rows:,}"
        drawn.append(f'<rect x="{at:.1f}" width="{width:.1f}" height="14" fill="{COLOURS[end]}"/>')
        drawn.append(f'<text x="{below}" y="30" fill="{COLOURS[end]}">{label}</text>')
        at, below = at + width, below + 8 * len(label) + 8
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(_WIDTH, below)}" height="36"'
        f' font-family="sans-serif" font-size="12" font-weight="600">{"".join(drawn)}</svg>'
    )
    return dg.MetadataValue.md(
        f"![{told}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"
    )
