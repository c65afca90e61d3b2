"""Pictures of models and of generated cells."""

from ._embedding import real_and_generated
from ._history import history

__all__ = ["history", "real_and_generated"]
