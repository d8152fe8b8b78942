"""Sphinx configuration: MyST Markdown, the Furo theme, autodoc for the API, sphinx-click for the commands."""

import importlib.metadata

project = "cifarcnn"
author = "The cifarcnn developers"
copyright = f"2026, {author}"  # noqa: A001 - the name that Sphinx reads
release = importlib.metadata.version("cifarcnn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"cifarcnn {release}"
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them
napoleon_use_ivar = True
nitpicky = False
