"""Gives pools their limits: FERRY_POOLS=legacy=2,crm=4 lets two runs read from `legacy` and four write to `crm`.

Run once, before the daemon starts. By name, because a default for all would be written anew by every run that starts.
Pools that are not named keep the limit that somebody gave them in the UI, or have none.
"""

import os

from dagster import DagsterInstance


def main() -> None:
    """Set what is named."""
    with DagsterInstance.get() as instance:
        for pair in filter(None, os.environ.get("FERRY_POOLS", "").replace(" ", "").split(",")):
            name, _, limit = pair.partition("=")
            instance.event_log_storage.set_concurrency_slots(name, int(limit))
            print(f"pool {name}: {limit} at a time")


if __name__ == "__main__":
    main()
