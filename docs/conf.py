"""Sphinx configuration; build with ``hatch run docs:build``."""

import os
import shutil
from importlib.metadata import metadata
from pathlib import Path

from sphinx.ext.napoleon.docstring import NumpyDocstring

HERE = Path(__file__).parent

# -- Project -----------------------------------------------------------------

info = metadata("scgm_scvi")
project = info["Name"]
author = info["Author"]
copyright = f"2026, {author}"
version = release = info["Version"]

# -- Tutorials ---------------------------------------------------------------

# The notebooks live in tutorials/ at the top of the repository, where readers look for them.
# Sphinx reads only below docs/, so each build takes a fresh copy (docs/tutorials is git-ignored).
# A copy, not a symbolic link: links do not survive archives and Windows checkouts.
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(
    HERE.parent / "tutorials",
    HERE / "tutorials",
    ignore=shutil.ignore_patterns(".*"),
)

# -- General -----------------------------------------------------------------

needs_sphinx = "8.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs
nb_merge_streams = True

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {
    "members": True,
    "inherited-members": "Module,object,tuple",  # those of our mixins; see setup()
    "show-inheritance": True,
}
napoleon_google_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_ivar = True  # autodoc lists the fields of tuples and dataclasses already

# Links to other projects are made where the site is published; a local build needs no network.
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/pandas-docs/stable/", None),
    "python": ("https://docs.python.org/3", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}
if "READTHEDOCS" not in os.environ:
    intersphinx_mapping = {}

# -- HTML --------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {"show_navbar_depth": 1}


def skip_foreign(app, what, name, obj, skip, options):
    """Leave what a class inherits from another package to the documentation of that package."""
    module = getattr(getattr(obj, "fget", obj), "__module__", None) or project
    return skip or module.split(".")[0] != project


def returns_as_prose(self, preprocess_types=False):
    """Read a Returns section as a description: the type stands in the signature."""
    return [("", "", self._dedent(self._consume_to_next_section()))]


NumpyDocstring._consume_returns_section = returns_as_prose


def setup(app):
    app.connect("autodoc-skip-member", skip_foreign)
