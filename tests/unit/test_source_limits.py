"""The limits that processes share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

import pytest

from ferry.sources.limits import Bucket, Slots


def test_a_new_bucket_is_empty(tmp_path: Path) -> None:
    """What others have taken before is not known, so the first call waits for its own point."""
    bucket = Bucket(tmp_path / "b", capacity=10, per_second=20, use=1.0)
    began = monotonic()
    bucket.take()
    assert monotonic() - began >= 0.045


def test_points_flow_at_the_rate(tmp_path: Path) -> None:
    """Twenty points at 100 a second and a use of 97 % take a fifth of a second or more, by two buckets on one
    file.
    """
    buckets = [Bucket(tmp_path / "b", capacity=5, per_second=100) for _ in range(2)]
    began = monotonic()
    for number in range(20):
        buckets[number % 2].take()
    assert monotonic() - began >= 0.2


def test_the_server_is_believed(tmp_path: Path) -> None:
    """It says that 50 points are there: 50 are spent at once; it says none: the next waits."""
    bucket = Bucket(tmp_path / "b", capacity=100, per_second=100)
    bucket.settle(bucket.take(), available=50)
    began = monotonic()
    ticket = bucket.take(50)
    assert monotonic() - began < 0.4
    bucket.settle(ticket, available=0)
    began = monotonic()
    bucket.take(20)
    assert monotonic() - began >= 0.19


def test_what_is_under_way_is_not_given_back_by_the_server(tmp_path: Path) -> None:
    """An answer that does not know of another call under way does not raise the level by its cost."""
    bucket = Bucket(tmp_path / "b", capacity=100, per_second=100)
    bucket.settle(bucket.take(), available=100)
    first, _under_way = bucket.take(40), bucket.take(60)
    bucket.settle(first, available=60)
    began = monotonic()
    bucket.take(50)
    assert monotonic() - began >= 0.4


def test_a_query_that_cost_less_gives_back_the_rest(tmp_path: Path) -> None:
    """Of 100 points taken 10 were spent: 90 are there for the next one."""
    bucket = Bucket(tmp_path / "b", capacity=100, per_second=100)
    ticket = bucket.take(100)
    bucket.settle(ticket, spent=10)
    began = monotonic()
    bucket.take(90)
    assert monotonic() - began < 0.6


def test_a_pause_binds_all(tmp_path: Path) -> None:
    """One was told to wait: the other waits too."""
    one, other = (Bucket(tmp_path / "b", capacity=100, per_second=1000) for _ in range(2))
    one.pause(0.3)
    began = monotonic()
    other.take()
    assert monotonic() - began >= 0.29


def test_a_torn_state_is_begun_anew(tmp_path: Path) -> None:
    """A file that a dying process left half is no reason to fail, nor to send at once."""
    (tmp_path / "b").write_text('{"at": 12')
    bucket = Bucket(tmp_path / "b", capacity=10, per_second=20, use=1.0)
    began = monotonic()
    bucket.take()
    assert monotonic() - began >= 0.045


HOLD = """
import sys, time
from pathlib import Path
from ferry.sources.limits import Slots
with Slots(Path(sys.argv[1]), 1).hold():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_place_is_free_when_its_holder_dies(tmp_path: Path) -> None:
    """Killed by SIGKILL while it held the only place: the next one has it at once."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    got = threading.Event()

    def wait() -> None:
        with Slots(tmp_path, 1).hold():
            got.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not got.wait(0.2)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert got.wait(5)


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_than_the_places_are_held(tmp_path: Path, count: int) -> None:
    """Twelve threads and so many places: never more inside, and all come through."""
    inside, most, lock, through = 0, 0, threading.Lock(), []

    def work() -> None:
        nonlocal inside, most
        with Slots(tmp_path, count).hold():
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= 1
                through.append(1)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == count
    assert len(through) == 12
