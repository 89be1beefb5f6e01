"""The package's own names: errors, version, types."""

from importlib.metadata import version
from importlib.resources import files

import pytest

import lazyvol as lv


def test_errors_are_at_hand_and_of_one_tree():
    assert lv.LazyvolError is lv.errors.LazyvolError
    found = [e for e in vars(lv.errors).values() if isinstance(e, type)]
    found = [e for e in found if not issubclass(e, Warning)]
    assert len(found) > 10
    assert all(issubclass(e, lv.LazyvolError) for e in found)
    with pytest.raises(ValueError, match="got 'a'"):
        lv.filters.gaussian([[1.0, 2.0]], "a")


def test_names_of_the_package():
    assert {"errors", "LazyvolError", "__version__", "stats", "plots"} <= set(dir(lv))
    assert all(hasattr(lv, name) for name in lv.__all__)
    assert lv.__version__ == version("lazyvol")
    assert files("lazyvol").joinpath("py.typed").is_file()
