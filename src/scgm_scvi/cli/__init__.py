"""The ``scgm`` command: thin over what Python offers, a file for each command."""

import sys

from . import _atlas, _benchmark, _demo, _train
from ._app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; what a user can mend is said without a traceback."""
    try:
        app(sys.argv[1:])
    except (ValueError, KeyError, TypeError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"scgm: {error}")
