"""Names of the package: errors, version, type marker."""

from importlib.metadata import version
from importlib.resources import files

import pytest

import lazyvol as lv


def test_all_errors_derive_from_lazyvol_error():
    assert lv.LazyvolError is lv.errors.LazyvolError
    errors = [e for e in vars(lv.errors).values() if isinstance(e, type)]
    errors = [e for e in errors if not issubclass(e, Warning)]
    assert len(errors) > 10
    assert all(issubclass(e, lv.LazyvolError) for e in errors)
    with pytest.raises(ValueError, match="got 'a'"):
        lv.filters.gaussian([[1.0, 2.0]], "a")


def test_names_of_the_package():
    assert {"errors", "LazyvolError", "__version__", "stats", "plots"} <= set(dir(lv))
    assert all(hasattr(lv, name) for name in lv.__all__)
    assert lv.__version__ == version("lazyvol")
    assert files("lazyvol").joinpath("py.typed").is_file()
