"""What is said of a file that cannot be read."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UnsupportedFormat", "no_damage"]


class UnsupportedFormat(ValueError):
    """A file in a format that is not read here."""


@contextmanager
def no_damage(path: Path) -> Iterator[None]:
    """Say of a file that is cut or damaged that it is that, whatever its library says."""
    try:
        yield
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: holds bytes that are no text ({e.reason}).") from e
    except KeyError as e:
        raise ValueError(f"{path}: lacks a part that its format has: {e.args[0]}") from e
    except (OSError, EOFError, RuntimeError, zlib.error, tarfile.TarError) as e:
        # the system's own errors (no such file, disk full) come with a number, and are no damage
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise ValueError(
            f"{path}: cut or damaged, it cannot be read to its end ({e}); fetch it again."
        ) from e
