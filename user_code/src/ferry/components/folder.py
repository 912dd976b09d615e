"""What is declared below a folder, as definitions; in a run they are made as quickly as can be."""

import os
from functools import cache
from pathlib import Path

import dagster as dg
from dagster._utils.warnings import suppress_dagster_warnings


@suppress_dagster_warnings
def declared_in(folder: Path) -> dg.Definitions:
    """The definitions of every component below `folder`, which belongs to a project of `dg`.

    What `dg.load_from_defs_folder` gives. Only in the container of a run, whose user waits for it, the documentation
    of all component types in all installed packages is left out: the UI asks the code server for it, and gathering it
    takes longer than making the definitions. There they are made once, though Dagster asks twice: for the whole job,
    and for what was chosen of it.
    """
    if os.environ.get("DAGSTER_RUN_JOB_NAME"):
        return _declared_in_a_run(folder)
    return dg.ComponentTree.for_project(folder).build_defs()


@cache
def _declared_in_a_run(folder: Path) -> dg.Definitions:
    return dg.ComponentTree.for_project(folder).build_defs(folder)
