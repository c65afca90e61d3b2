"""Sources of datasets by name; adding one touches one file of this folder."""

from importlib import import_module
from pkgutil import iter_modules

from ._source import Downloads, Source

SOURCES: dict[str, type[Source]] = {}
"""Sources by name."""

__all__ = ["SOURCES", "Downloads", "Source"]

for _module in iter_modules(__path__):
    for _found in vars(import_module(f"{__name__}.{_module.name}")).values():
        if isinstance(_found, type) and issubclass(_found, Source) and hasattr(_found, "name"):
            SOURCES[_found.name] = _found
