"""IO managers: what assets of the user's own load, and where their rows go.

`IdMapIOManager` hands over published id maps; `DatabaseIOManager` and `ParquetIOManager` keep tables, in bounded
memory if they come or go in pieces.
"""

from ferry.frames import Frames
from ferry.io_managers.database import DatabaseIOManager
from ferry.io_managers.id_map import IdMap, IdMapIOManager
from ferry.io_managers.parquet import ParquetIOManager
from ferry.targets.table import Relation

__all__ = ["DatabaseIOManager", "Frames", "IdMap", "IdMapIOManager", "ParquetIOManager", "Relation"]
