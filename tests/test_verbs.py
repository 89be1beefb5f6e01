"""Wrong values of every argument of functions that are no operations: open, save, explain, ..."""

import inspect
import re
from typing import Any

import numpy as np
import pytest

import lazyvol as lv
from lazyvol.errors import LabelError, LazyvolError, OptionError
from tests.arguments.test_options import ODD, WRONG, S

STAR = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n2 3\n"
LAZY = lv.filters.gaussian(S.chunk(k=1), 1.0)

#: functions, and valid arguments of them
VERBS: dict[str, tuple[Any, dict[str, Any]]] = {
    "as_stack": (lv.as_stack, {"array": S.values}),
    "explain": (lv.explain, {"obj": LAZY}),
    "limited": (lv.limited, {}),
    "resume": (lv.resume, {"path": "s.zarr"}),
    "verify": (lv.verify, {"path": "s.zarr"}),
    "particles": (lv.io.particles, {"path": "s.star"}),
    "write_selection": (
        lv.io.write_selection,
        {"source": "s.star", "rows": [0], "columns": {}, "path": "t.star", "overwrite": True},
    ),
}
ARGUMENTS = [
    (verb, name)
    for verb, (function, _) in VERBS.items()
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lv.save(S, "s.zarr")
    (tmp_path / "s.star").write_text(STAR)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("verb", "name"), ARGUMENTS)
def test_wrong_arguments_give_a_result_or_a_refusal(verb, name):
    function, arguments = VERBS[verb]
    for kind, value in (WRONG | ODD).items():
        try:
            function(**{**arguments, name: value})
        except (LabelError, OptionError) as error:
            message = str(error)
            fits = re.match(r"(\w+): ", message) and "\n" not in message and len(message) <= 340
            assert fits, f"{kind}: {message!r}"
        except LazyvolError as error:
            fits = re.match(r"[^:]+: ", str(error))  # a file, and its fault
            assert fits, f"{kind}: {error}"  # noqa: PT017
        except Exception as error:
            pytest.fail(f"{kind}: {error!r}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lv.connect(workers="a"), "connect: workers must be a whole number .* got 'a'"),
        (lambda: lv.connect(threads=np.ones(3)), "connect: threads must be a whole number of 1"),
        (lambda: lv.connect(memory=[]), r"connect: memory must be a number of bytes .* got \[\]"),
        (lambda: lv.connect(dashboard=3), "connect: dashboard must be True or False, got 3"),
        (lambda: lv.connect(5), "connect: address must be tcp://host:port, .* got 5"),
        (lambda: lv.connect("tcp://127.0.0.1:1", memory=[1]), r"connect: memory must be left out"),
        (lambda: lv.limited(memory=np.timedelta64(3, "s")), "limited: memory must be a number"),
        (lambda: lv.explain(LAZY, workers=0), "explain: workers must be a whole number of 1"),
        (lambda: lv.save(S, "a.zarr", memory="much"), "save: memory must be a number of bytes"),
        (lambda: lv.save(S, ""), "save: path must be a path, got ''"),
        (lambda: lv.open("a\0b"), "open: source must be a path, got 'a"),
        (lambda: lv.explore(S, 3), "explore: results must be a DataArray, .* got 3"),
        (lambda: lv.explore(S, particles=3), "explore: particles must be a DataArray or .* got 3"),
        (lambda: lv.explore(S, overlay=np.ones((2, 3))), "explore: overlay must have the shape"),
        (lambda: lv.explore(S, title=[]), "explore: title must be a text or None"),
        (lambda: lv.to_napari(S, viewer=3), "to_napari: viewer must be a viewer of napari, got 3"),
        (lambda: lv.screening.screen(S, 5), "screen: out must be a path, got 5"),
        (lambda: lv.screening.screen(S, memory={}), "screen: memory must be a number of bytes"),
        (lambda: lv.screening.screen(S, progress=1), "screen: progress must be True or False"),
    ],
)
def test_refusals_name_the_function_the_argument_and_the_value(call, message):
    with pytest.raises((LabelError, OptionError), match=rf"^{message}"):
        call()
