"""Arrow's arrays and constants by their bytes."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from ferry.arrow import array_of, constant, empty, first_rows, numbers_of, texts

NUMBERS = [
    np.arange(-3, 20),
    np.arange(5, dtype=np.int32),
    np.arange(-4, 4, dtype=np.int16)[::2],
    np.array([1.5, -0.0]),
    np.arange(37) % 3 == 0,
    np.zeros(0, np.int64),
    np.zeros(0, bool),
]


@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda numbers: f"{len(numbers)} of {numbers.dtype}")
def test_numbers_are_what_arrow_itself_makes_of_them_there_and_back(numbers: np.ndarray) -> None:
    """Whole, from any row on, in pieces and in none: the values and the type are those of `pa.array`."""
    made = array_of(numbers)
    made.validate(full=True)
    assert made.equals(pa.array(numbers))
    for start in (0, 1, len(numbers)):
        back = numbers_of(made.slice(start))
        assert back.dtype == numbers.dtype
        assert back.tolist() == numbers[start:].tolist()
    pieces = pa.chunked_array([made.slice(1), made.slice(0, 1)], made.type)
    assert numbers_of(pieces).tolist() == [*numbers[1:].tolist(), *numbers[:1].tolist()]
    # What a driver hands over without a row may have no memory at all.
    for nothing in (pa.chunked_array([], made.type), pa.Array.from_buffers(made.type, 0, [None, None])):
        back = numbers_of(nothing)
        assert (back.dtype, back.tolist()) == (numbers.dtype, [])


def test_text_and_constants_are_of_the_type_that_is_asked_for() -> None:
    """Text of any kind that Arrow has, numbers, bools and NULL."""
    for type_ in (pa.string(), pa.large_string(), pa.string_view()):
        assert texts(["a", "", "née"], type_).equals(pa.array(["a", "", "née"], type_))
        assert texts([], type_).equals(pa.array([], type_))
        assert texts([None, "b"] * 9, type_).equals(pa.array([None, "b"] * 9, type_))
    for value, type_ in (
        ("NaN", pa.string()),
        (-7, pa.int16()),
        (False, pa.bool_()),
        (None, pa.decimal128(9, 2)),
    ):
        assert constant(value, type_).equals(pa.scalar(value, type_))
    assert empty(pa.schema([("n", pa.int8())])).equals(pa.table({"n": pa.array([], pa.int8())}))


def test_the_first_rows_are_a_copy_that_holds_nothing_of_the_others() -> None:
    """Of one piece, of several and of none; what they weigh is their own."""
    table = pa.table(
        {"n": pa.array(range(1000)), "t": pa.array([str(n) * 9 for n in range(1000)], pa.string_view())}
    )
    for whole in (table, pa.concat_tables([table.slice(0, 2), table]), table.slice(0, 0)):
        assert first_rows(whole, 5).equals(whole.slice(0, 5))
    few = first_rows(table.select(["n"]), 5)
    assert few.get_total_buffer_size() < 1000


def test_none_of_it_imports_pandas() -> None:
    """What Arrow's own functions would do; a run that has no use for pandas goes without."""
    code = """
import sys, numpy as np, pyarrow as pa
from ferry.arrow import *
flags = array_of(np.ones(3, bool))
numbers_of(pa.chunked_array([flags, flags])), numbers_of(pa.chunked_array([], pa.int8()))
numbers_of(array_of(np.arange(3))), texts(["a"], pa.large_string())
texts([None, "b"], pa.string()), first_rows(pa.table([array_of(np.arange(9))], ["n"]), 5)
constant(1, pa.int64()), constant(None, pa.date32()), empty(pa.schema([("n", pa.int8())]))
print("pandas" in sys.modules)
pa.scalar(1)
print("pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
