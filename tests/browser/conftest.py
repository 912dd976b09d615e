"""The stack of tests/stack, which the browser looks at."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "stack"))

from stack_fixture import stack

__all__ = ["stack"]
