"""The commands ``plots``: pictures of files, with the options of the functions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from lazyvol import plots
from lazyvol.cli.operations import Operation, topic_app
from lazyvol.cli.options import DRAWING, running, say
from lazyvol.errors import OptionError
from lazyvol.io.atomic import new_file, require_free

#: suffixes of pictures
PICTURES = (".png", ".svg", ".pdf")
#: parameters that take objects of Python
LEFT_OUT = ("ax", "axes")


class Picture(Operation):
    """A plot as a command."""

    options: ClassVar[Any] = DRAWING
    target: ClassVar[str] = "picture.png"
    output: ClassVar[str] = "File for the picture: .png, .svg or .pdf."

    @classmethod
    def of(cls, module: Any, name: str) -> Self:
        """Return the command of a plot."""
        command = super().of(module, name)
        arguments = tuple(a for a in command.arguments if a.name not in LEFT_OUT)
        return replace(command, arguments=arguments)

    def _run(self, texts: Mapping[str, Any]) -> None:
        options, out = texts.get("options") or self.options, texts["out"]
        if Path(out).suffix.lower() not in PICTURES:
            raise OptionError(f"out must end in one of {', '.join(PICTURES)}, got {out!r}")
        require_free(out, options.overwrite)
        with running(options):
            drawn = self.result(texts)
        figure = (drawn[0] if isinstance(drawn, tuple) else drawn).get_figure(root=True)
        kind = Path(out).suffix[1:].lower()
        with new_file(out, options.overwrite) as file:
            figure.savefig(file, format=kind, dpi=150)
        say(f"wrote       {out}")


app = topic_app(plots, (Picture.of(plots, name) for name in plots.__all__))
