"""Keys seen in a read, on disk."""

from __future__ import annotations

from pathlib import Path

from ferry.sources.page import Tally, fingerprint
from ferry.sources.seen import Arrival, SeenKeys

NEW, REPEATED = Arrival(is_new=True), Arrival()


def test_new_repeated_newer_and_older(tmp_path: Path) -> None:
    """The same row and an older version are repetitions; a later version takes the place of what was there."""
    seen = SeenKeys(tmp_path / "seen")
    assert seen.judge(1, [(1, "2024-01-01", "aa"), (2, "2024-01-01", "bb")]) == [NEW, NEW]
    assert seen.judge(2, [(1, "2024-01-01", "aa")]) == [REPEATED]
    assert seen.judge(3, [(1, "2024-01-02", "cc"), (2, "2023-12-31", "dd")]) == [
        Arrival(supersedes="aa"),
        REPEATED,
    ]
    assert seen.judge(4, [(1, "2024-01-01", "aa")]) == [REPEATED]


def test_versions_are_compared_as_what_they_are(tmp_path: Path) -> None:
    """Nine comes before ten as numbers do."""
    seen = SeenKeys(tmp_path / "seen")
    seen.judge(1, [(1, 9, "aa")])
    assert seen.judge(2, [(1, 10, "bb")]) == [Arrival(supersedes="aa")]
    assert seen.judge(3, [(1, 9, "aa")]) == [REPEATED]


def test_keys_of_another_type_are_other_keys(tmp_path: Path) -> None:
    """1 and "1" are two keys; a null key is no key, so each such row is new."""
    seen = SeenKeys(tmp_path / "seen")
    assert (
        seen.judge(1, [(1, None, "a"), ("1", None, "b"), (None, None, "c"), (None, None, "c")]) == [NEW] * 4
    )


def test_after_a_kill_the_page_that_was_not_kept_is_forgotten(tmp_path: Path) -> None:
    """Going back to a page drops what later pages brought, newer versions among it."""
    seen = SeenKeys(tmp_path / "seen")
    seen.judge(1, [(1, 1, "aa")])
    seen.judge(2, [(1, 2, "bb"), (2, 1, "cc")])
    seen.close()
    again = SeenKeys(tmp_path / "seen")
    assert again.back_to(1) == 1
    assert again.judge(2, [(1, 2, "bb"), (2, 1, "cc")]) == [Arrival(supersedes="aa"), NEW]


def test_the_hash_of_a_read_knows_no_order_and_every_digit() -> None:
    """The same records in any order give the same hash; one digit gives another; a newer version replaces."""
    one, other, changed = (
        fingerprint({"id": 1, "v": 1}),
        fingerprint({"id": 2}),
        fingerprint({"id": 1, "v": 2}),
    )
    forth, back, newer = Tally(), Tally(), Tally()
    for tally, contents in ((forth, (one, other)), (back, (other, one)), (newer, (changed, other))):
        for content in contents:
            tally.add(content)
    assert forth.hash == back.hash != newer.hash
    forth.swap(one, changed)
    assert forth == newer
