"""Help, examples, completion, and the start of the command line."""

import shlex
import subprocess
import sys

import pytest

from lazyvol import plots
from lazyvol.cli import COMMANDS, main, make_app
from lazyvol.cli.examples import shell_line
from lazyvol.cli.operations import operations
from lazyvol.cli.plots import Picture

HEAVY = ("xarray", "dask", "distributed", "numba", "zarr", "matplotlib", "panel")


def test_every_example_of_an_operation_is_a_command():
    app = make_app()
    pictures = [Picture.of(plots, name) for name in plots.__all__]
    for operation in (*operations().values(), *pictures):
        words = shlex.split(operation.example)
        assert words[0] == "lazyvol"
        app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("name", [*COMMANDS, "cluster recipe"])
def test_commands_have_an_example(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    assert f"Example: lazyvol {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("example", "line"),
    [
        ("lv.filters.gaussian(stack, 2.0)", "stack.zarr out.zarr --sigma 2.0"),
        ('gaussian = lv.filters.gaussian(v, {"y": 2, "x": 1}, mode="wrap")',
         "stack.zarr out.zarr --sigma y=2,x=1 --mode wrap"),
        ("lv.filters.gaussian(stack, sigma)", "stack.zarr out.zarr --sigma 1"),
        ("gaussian(stack, 2.0)", "stack.zarr out.zarr --sigma 1"),
    ],
)  # fmt: skip
def test_a_shell_line_says_what_the_example_says(example, line):
    arguments = operations()["filters", "gaussian"].arguments

    def gaussian(): ...

    gaussian.__doc__ = f"Examples\n--------\n>>> x = 3\n>>> {example}\n"
    shown = shell_line("filters", gaussian, arguments, "out.zarr")
    assert shown == f"lazyvol filters gaussian {line}"


def test_help_lists_exit_codes_topics_and_commands(capsys):
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done; 1 the work failed" in text
    for name in (*COMMANDS, "cluster", "plots", *{topic for topic, _ in operations()}):
        assert f"│ {name} " in text


@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("--version", 0), ("filtres", 2)])
def test_the_start_imports_no_topic(words, code):
    script = (
        f"import sys; from lazyvol.cli import main; code = main([{words!r}])\n"
        f"print(code, [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == f"{code} []"
    assert code == 0 or "got 'filtres'; did you mean lazyvol filters?" in run.stderr


def test_bash_completes_operations_and_options(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "gaussian" in script
    assert "--sigma" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
