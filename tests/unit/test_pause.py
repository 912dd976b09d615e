"""Between two attempts: pauses that double and differ, never below what the other side asked for."""

from statistics import pstdev

from ferry.errors import PermanentError, TransientError
from ferry.pipeline import LONGEST_PAUSE, pause
from ferry.settings import Settings

SETTINGS = Settings.model_validate({"connections": {}, "stage_uri": "stage", "retry_seconds": 2})
PASSING = TransientError("the source broke off")


def test_pauses_double_with_jitter_and_end_somewhere() -> None:
    """Each lies within half of its middle, runs that failed together do not come back together, none takes hours."""
    for attempt, middle in enumerate((2, 4, 8, 16)):
        seen = [pause(SETTINGS, attempt, [PASSING]) for _ in range(50)]
        assert all(middle / 2 <= one <= middle * 1.5 for one in seen)
        assert pstdev(seen) > 0
    assert pause(SETTINGS, 90, [PASSING]) <= LONGEST_PAUSE * 1.5


def test_what_the_other_side_asks_for_is_waited_for() -> None:
    """Of several partitions that failed the one that has to wait longest decides; a shorter wish changes nothing."""
    asking = [TransientError("slow down", retry_after=seconds) for seconds in (0.1, 77.0)]
    assert pause(SETTINGS, 0, [PASSING, *asking, PermanentError("no such table")]) == 77.0
    assert pause(SETTINGS, 0, asking[:1]) >= 1
