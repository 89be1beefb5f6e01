"""The command ``explore``."""

from typing import Annotated

from cyclopts import Parameter

from lazyvol.cli.operations import one_array
from lazyvol.cli.options import RUNNING, Dims, Running, open_first, running, say
from lazyvol.explorer import explore
from lazyvol.io import open as open_stack
from lazyvol.io.particle_lists import particles as open_particles


def explore_stack(
    path: str,
    *results: str,
    overlay: str | None = None,
    particles: str | None = None,
    port: int = 0,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    dims: Dims = None,
    options: Running = RUNNING,
) -> None:
    """Look at a stack and at results over it, slice by slice, in a browser on this machine.

    Only what is on the screen is read and computed. The page is served on 127.0.0.1 until Ctrl-C.

    Parameters
    ----------
    path
        Volume, image or stack: a file, a folder or a glob pattern.
    results
        Files of results on the same grid; each becomes a view.
    overlay
        File with a mask or labels, drawn over the planes.
    particles
        List of the particles with scores or flags: .star, .csv, .tbl or .em.
    port
        Port of the page; any that is free by default.
    browser
        Open the page in the browser.

    Examples
    --------
    lazyvol explore particles.zarr variance.zarr --particles run.star
    """
    from lazyvol.explorer.server import serve

    with running(options):
        explorer = explore(
            open_first(path, dims),
            {name: one_array(open_stack(name), "results", name) for name in results},
            overlay=None if overlay is None else one_array(open_stack(overlay), "overlay", overlay),
            particles=None if particles is None else open_particles(particles),
            title=path,
        )
        serve(
            explorer.contents,
            port=port,
            open_browser=browser,
            started=lambda url: say(f"explorer    {url}  (Ctrl-C ends it)"),
        )
