"""The accessor ``stack.lv``: it forwards to the functions, with their names and docstrings."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.accessor import TOPICS

STACK = lv.as_stack(np.random.default_rng(0).normal(size=(3, 4, 5, 6)))


def test_every_topic_forwards_its_operations_of_a_stack():
    assert set(TOPICS) == {n for n in lv.__all__ if hasattr(getattr(lv, n), "__all__")}
    for topic in TOPICS:
        names = dir(getattr(STACK.lv, topic))
        assert names, topic
        for name in names:
            operation = getattr(getattr(STACK.lv, topic), name)
            assert operation.__doc__ == getattr(getattr(lv, topic), name).__doc__


def test_results_are_those_of_the_functions(tmp_path):
    xr.testing.assert_identical(
        STACK.lv.filters.gaussian(1.0).compute(), lv.filters.gaussian(STACK, 1.0).compute()
    )
    STACK.lv.save(tmp_path / "a.zarr")
    assert lv.open(tmp_path / "a.zarr").equals(STACK)
    assert STACK.chunk(k=1).lv.explain().tasks == lv.explain(STACK.chunk(k=1)).tasks


def test_unknown_names_list_the_known_ones():
    with pytest.raises(AttributeError, match=r"no topic or function 'filter'; it has .*filters"):
        STACK.lv.filter  # noqa: B018
    with pytest.raises(AttributeError, match=r"no operation 'gauss' of a stack; it has .*gaussian"):
        STACK.lv.filters.gauss  # noqa: B018
    assert "noise" not in dir(STACK.lv.synthetic)


LATER = """
from importlib.util import find_spec
from lazyvol.cli import main
main(["--help"])
find_spec("xarray")
"""


@pytest.mark.parametrize(("before", "loaded"), [("import xarray, lazyvol", True), (LATER, False)])
def test_the_accessor_is_there_whichever_is_imported_first(before, loaded):
    """The help of the command line does without xarray, whose import takes half a second."""
    code = f"""{before}
import sys
loaded = "xarray" in sys.modules
import xarray as xr
print(loaded, dir(xr.DataArray([1.0]).lv)[0])"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-2:] == [str(loaded), "clustering"]
