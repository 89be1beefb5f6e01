"""Errors that may pass are tried again, all others are raised at once."""

import errno

import pytest

from lazyvol.errors import SourceNotFoundError
from lazyvol.plan import failures

TIMES = {
    "transient": (OSError(errno.EIO, "input/output error"), 5),
    "timeout": (TimeoutError("late"), 5),
    "refused": (PermissionError(errno.EACCES, "permission denied"), 1),
    "gone": (SourceNotFoundError("a.npy: no such file"), 1),
}


@pytest.mark.parametrize("name", TIMES)
def test_only_errors_that_may_pass_are_tried_again(name, monkeypatch):
    monkeypatch.setattr(failures.time, "sleep", lambda _: None)
    error, times = TIMES[name]
    tries = []

    def fails():
        tries.append(name)
        raise error

    with pytest.raises(type(error)):
        failures.retried(fails)
    assert len(tries) == times


def test_causes_may_form_a_circle():
    """A reader that raises its own error from itself hung in a search for its first cause."""
    error = SourceNotFoundError("a.npy: no such file")
    error.__cause__ = error
    assert not failures.is_transient(error)
    error.__cause__ = middle = ValueError("b")
    middle.__cause__ = error
    assert not failures.is_transient(error)
    middle.__cause__ = OSError(errno.EIO, "c")
    assert failures.is_transient(error)
