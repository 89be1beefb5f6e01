"""Configuration of Sphinx; ``build.py`` calls it."""

project = "lazyvol"
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "lazyvol"
html_show_copyright = False
nb_execution_mode = "off"  # lessons are saved with their outputs
nb_mime_priority_overrides = [("html", "image/png", 5), ("html", "text/html", 10)]
myst_heading_anchors = 3
autodoc_typehints = "none"  # parameters are described in words
autodoc_member_order = "bysource"
napoleon_numpy_docstring, napoleon_google_docstring = True, False
