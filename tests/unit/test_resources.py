"""What a declaration may say of a run's memory is what the launcher takes, and nothing else."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ferry.declaration import Resources

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "launcher"))

from ferry_launcher.memory import SizeError, parse_size


@pytest.mark.parametrize(
    "text",
    ["1Gi", "1.5Gi", "128Mi", "127Mi", "131072Ki", "512m", "2g", "0.1g", "134217728", "134217727", "1T", "1Ti", "1t",
     "1G", "1M", "1K", "512mb", "1 GB", "Gi", "", "-1Gi", "1e9", "much"],
)  # fmt: skip
def test_both_take_the_same_sizes(text: str) -> None:
    """A size that the launcher would refuse when the run starts is refused when the declaration is read."""
    try:
        parse_size(text, "here")
        taken = True
    except SizeError:
        taken = False
    try:
        Resources(memory=text)
        declared = True
    except ValidationError:
        declared = False
    assert declared == taken
