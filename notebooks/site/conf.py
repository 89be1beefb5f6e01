"""Configuration of Sphinx; ``build.py`` calls it."""

import re

project = "lazyvol"
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "lazyvol"
html_show_copyright = False
html_static_path, html_css_files = ["static"], ["site.css"]
nb_execution_mode = "off"  # lessons are saved with their outputs
nb_mime_priority_overrides = [("html", "image/png", 5), ("html", "text/html", 10)]
myst_heading_anchors = 3
autodoc_typehints = "none"  # parameters are described in words
autodoc_member_order = "bysource"
napoleon_numpy_docstring, napoleon_google_docstring = True, False


def setup(app):
    """Write numbered references as text: myst does not resolve footnotes of docstrings."""
    app.connect("autodoc-process-docstring", plain_references)


def plain_references(app, what, name, obj, options, lines):
    """Replace the marks of numbered references in the lines of a docstring."""
    lines[:] = [re.sub(r"(?:\.\. )?\[(\d+)\]_?", r"[\1]", line) for line in lines]
