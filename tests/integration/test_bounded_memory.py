"""How much memory a run needs does not depend on how much data there is."""

import json
from collections.abc import Callable
from pathlib import Path

from small import Small


def test_twenty_times_the_rows_take_the_same_memory(new_database: Callable[..., str], tmp_path: Path) -> None:
    """170 MB of rows through the whole pipeline raise the peak of the process by no more than a few parts of 1 MiB."""
    small = Small(new_database, tmp_path)
    small.source("create table notes (id bigint primary key, note text not null)")
    small.target(
        "create table notes (new_id bigint generated always as identity primary key, note text not null)"
    )
    small.declare("notes", "id: int; note: str")
    peaks = []
    for first, last in ((1, 20_000), (20_001, 400_000)):
        small.source(
            f"insert into notes select n, repeat('note ', 80) || n from generate_series({first}, {last}) n"
        )
        done = small.migrating.ferry("run", "--json", FERRY_CHUNK_BYTES=str(2**20))
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["entities"]["notes"]["inserted"] == last - first + 1
        peaks.append(report["peak_rss_mib"])
    assert peaks[1] < 512
    assert peaks[1] - peaks[0] < 64
