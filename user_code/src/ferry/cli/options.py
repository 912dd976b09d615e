"""The arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Entities = Annotated[list[str] | None, typer.Argument(help="entities; all if none is named")]
Partition = Annotated[str | None, typer.Option(help="one partition, or a range `1992-01:1992-12`")]
Reason = Annotated[str | None, typer.Option(help="only rows rejected for this reason")]
Key = Annotated[list[str] | None, typer.Option(help="only the row with this old key; once for each part")]
Defs = Annotated[
    Path | None,
    typer.Option("--defs", envvar="FERRY_DEFS", help="folder of the declarations (default: the shop's)"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
