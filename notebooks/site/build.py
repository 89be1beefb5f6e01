"""Build the documentation: ``python notebooks/site/build.py [FOLDER]``, by default build/site.

Pages stand beside this file; lessons, the reference of every topic, the commands and the recipes of
clusters are taken from the notebooks, the docstrings and the command line. A warning is an error,
and so is a link to a page or heading that is not there.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from cyclopts import App

import lazyvol as lv
from lazyvol.cli import COMMANDS, EXIT_CODES, main, make_app
from lazyvol.cli.docs import description, headline
from lazyvol.cli.operations import topics

SITE = Path(__file__).resolve().parent
LESSONS = SITE.parent
#: functions of lazyvol itself, by what they are for
FIRST = (
    "open", "save", "resume", "verify", "as_stack", "explain", "limited", "connect", "explore",
    "to_napari",
)  # fmt: skip
RUN_OPTIONS = "And the [options of every operation](index.md#options-of-every-operation).\n"
RECIPES = ("slurm", "pbs", "kubernetes", "ssh")


def pages() -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the pages that are made from the library."""
    names = []
    for module in (*topics(), lv.plots, lv.screening):
        name = module.__name__.rpartition(".")[2]
        names.append(name)
        yield f"api/{name}.md", topic_page(name, module.__name__, module.__all__)
    yield "api/files_and_plans.md", functions_page()
    yield "api/index.md", index_page(["files_and_plans", *names])
    yield "recipes.md", recipes_page()
    app = make_app()
    groups = [*(module.__name__.rpartition(".")[2] for module in topics()), "plots"]
    for name in groups:
        yield f"commands/{name}.md", commands_of(app, name)
    yield "commands/index.md", commands_page(app, groups)


def topic_page(title: str, module: str, names: list[str]) -> str:
    """Return the reference of a topic: its docstring, and every public function."""
    listed = "\n".join(f"* [{n}](#{module}.{n}): {summary(module, n)}" for n in names)
    functions = "\n".join(directive(f"{module}.{n}") for n in names)
    about = f"```{{eval-rst}}\n.. automodule:: {module}\n   :no-members:\n```"
    return f"# {title}\n\n{about}\n\n{listed}\n\n{functions}"


def summary(module: str, name: str) -> str:
    """Return the first line of a docstring."""
    text = description(getattr(import_module(module), name))
    return text.split("\n\n")[0]


def directive(name: str) -> str:
    """Return the directive that documents a function or class."""
    module, _, leaf = name.rpartition(".")
    kind = "autoclass" if isinstance(getattr(import_module(module), leaf), type) else "autofunction"
    return f"```{{eval-rst}}\n.. {kind}:: {name}\n```\n"


def functions_page() -> str:
    """Return the reference of the functions of lazyvol itself."""
    functions = "\n".join(directive(f"lazyvol.{name}") for name in FIRST)
    return f"# Files, plans, clusters\n\n{functions}"


def index_page(names: list[str]) -> str:
    """Return the table of contents of the reference."""
    return "# Reference\n\n```{toctree}\n" + "\n".join(names) + "\n```\n"


def recipes_page() -> str:
    """Return the recipes of clusters as the command line prints them."""
    parts = ["# Recipes of clusters\n\n`lazyvol cluster recipe KIND` prints these texts.\n"]
    for kind in RECIPES:
        language = "yaml" if kind == "kubernetes" else "bash"
        parts.append(f"## {kind}\n\n```{language}\n{printed('cluster', 'recipe', kind)}```\n")
    return "\n".join(parts)


def commands_of(app: App, topic: str) -> str:
    """Return the commands of a topic; options of every command stand on one page."""
    text = reference_of(app[topic], f"lazyvol {topic}")
    about, _, rest = text.partition("## Table of Contents")
    commands = rest.partition("**Commands**:")[2]
    return about + re.sub(r"\*\*Run\*\*:\n.*?(?=\n#|\Z)", RUN_OPTIONS, commands, flags=re.DOTALL)


def reference_of(app: App, usage: str, **options: int) -> str:
    """Return the reference of a command, its example as code."""
    text = app.generate_docs(usage_name=usage, **options)
    return re.sub(r"^Example: (.*)$", r"```sh\n\1\n```", text, flags=re.MULTILINE)


def commands_page(app: App, groups: list[str]) -> str:
    """Return the commands that are no operations, and the options of every operation."""
    parts = ["# Commands\n", *(f"* [lazyvol {g} …]({g}.md): {about(g)}" for g in groups), ""]
    for name in (*COMMANDS, "cluster"):
        usage = f"lazyvol {name}"
        text = reference_of(app[name], usage, heading_level=2)
        parts.append(text.replace(f"## {name}", f"## {usage}", 1))
    example = app["stats"]["var"].generate_docs()
    shared = example.partition("**Run**:\n")[2]
    parts += ["## Options of every operation\n", shared, f"{EXIT_CODES}\n"]
    listed = "\n".join(groups)
    return "\n".join(parts) + f"\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"


def about(group: str) -> str:
    """Return what the operations of a topic are."""
    return headline("lazyvol.plots" if group == "plots" else f"lazyvol.ops.{group}")


def printed(*words: str) -> str:
    """Return what a command prints."""
    text = StringIO()
    with redirect_stdout(text):
        main(words)
    return text.getvalue()


def build(target: Path) -> int:
    """Build the site in a folder; return the exit code of Sphinx."""
    from sphinx.cmd.build import build_main

    with TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        shutil.copytree(SITE, source, ignore=shutil.ignore_patterns("__pycache__", "build.py"))
        (source / "lessons").mkdir()
        for lesson in (*LESSONS.glob("*.ipynb"), *LESSONS.glob("*.png")):
            shutil.copy(lesson, source / "lessons")
        for name, text in pages():
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_text(text, "utf-8")
        doctrees = ["-d", str(Path(folder) / "doctrees")]
        return build_main(["-q", "-W", "--keep-going", *doctrees, str(source), str(target)])


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else LESSONS.parent / "build" / "site"
    code = build(folder)
    if code == 0:
        print(f"built {folder / 'index.html'}")
    sys.exit(code)
