"""Latents of more cells than memory holds: on disk, in half precision."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

__all__ = ["LatentCache", "units_of"]

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class LatentCache:
    """Means and standard deviations of cells' states, and their attributes, as ``.npy`` files.

    Half precision has three digits, so states are stored in units in which they are near 1:
    standardised by the first cells. The files are written and read in pieces, and never mapped:
    pages of a mapped file count as memory of the process.

    Parameters
    ----------
    folder
        Where to write; what this class wrote there before is overwritten.
    n_cells
        That will be appended.
    n_train
        The first of them train, the others validate.
    name
        Of the files, to tell those of several processes from each other.

    Attributes
    ----------
    sums
        Weight of the training cells, sum and sum of squares of posterior samples of them, by
        dimension; float64 ``(3, d)``. They add up over caches.
    n_done
        Cells appended so far.
    n_lost
        Cells whose states are not finite.

    Raises
    ------
    OSError
        If the disk has too little room.

    Examples
    --------
    >>> import tempfile, torch
    >>> from scgm_scvi.train import LatentCache
    >>> x = torch.randn(6, 3)
    >>> with tempfile.TemporaryDirectory() as folder, LatentCache(folder, 6, 4) as cache:
    ...     cache.append(x, torch.ones(6, 3), {"tokens": torch.zeros(6, 1)})
    ...     mean, std = cache.states(0, 6)
    ...     bool((mean - x).abs().max() < 0.01)
    True
    """

    def __init__(
        self, folder: str | os.PathLike, n_cells: int, n_train: int, name: str = "latents"
    ) -> None:
        self.folder, self.name = Path(folder), name
        self.n_cells, self.n_train, self.n_done, self.n_lost = n_cells, n_train, 0, 0
        self._files: dict[str, _Rows] = {}

    def __enter__(self) -> LatentCache:
        return self

    def __exit__(self, *exception: object) -> None:
        for rows in self._files.values():
            rows.file.close()

    def append(
        self,
        mean: torch.Tensor,
        variance: torch.Tensor,
        design: Mapping[str, torch.Tensor],
        weights: torch.Tensor | None = None,
    ) -> None:
        """Write the next cells: their states' moments ``(n, d)``, and other values, a row a cell.

        ``weights`` are those of the training cells among them, in the sums.
        """
        values = {key: _small(v) for key, v in design.items()}
        if not self.n_done:
            self._create(mean, variance, values)
        self.n_lost += int((~(mean.isfinite() & variance.isfinite()).all(dim=1)).sum())
        stored = torch.stack([mean - self._shift, variance.sqrt()], dim=1) / self._scale
        stored = stored.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16)
        for key, part in {"moments": stored.numpy(), **values}.items():
            self._files[key].append(part)
        n_train = max(0, min(len(mean), self.n_train - self.n_done))
        x, v = mean[:n_train].double(), variance[:n_train].double()
        w = torch.ones(n_train, 1) if weights is None else weights[:n_train, None]
        terms = torch.stack([torch.ones_like(x), x, x**2 + v])
        self.sums += (w.double() * terms).sum(dim=1)
        self.n_done += len(mean)
        if self.n_done == self.n_cells:
            for rows in self._files.values():
                rows.file.flush()

    def _create(
        self, mean: torch.Tensor, variance: torch.Tensor, values: Mapping[str, np.ndarray]
    ) -> None:
        d = mean.shape[1]
        known = mean[mean.isfinite().all(dim=1)]
        total = known.var(dim=0, correction=0) + variance.nanmean(dim=0)
        self._shift = known.mean(dim=0).nan_to_num()
        self._scale = total.sqrt().nan_to_num(1.0).clamp(min=1e-4)
        self.sums = torch.zeros(3, d, dtype=torch.float64)
        shapes = {"moments": ((2, d), np.dtype(np.float16))}
        shapes |= {key: (v.shape[1:], v.dtype) for key, v in values.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = self.n_cells * sum(
            int(np.prod(shape)) * kind.itemsize for shape, kind in shapes.values()
        )
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"The latents of {self.n_cells} cells take {needed / 1e9:.1f} GB, and "
                f"{str(self.folder)!r} has room for {free / 1e9:.1f} GB. Name a folder on another "
                "disk: latent_cache=..."
            )
        for key, (shape, kind) in shapes.items():
            path = self.folder / f"{self.name}-{key}.npy"
            self._files[key] = _Rows(path.open("w+b"), (self.n_cells, *shape), kind)

    def states(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of consecutive cells' states, float32 ``(n, d)``."""
        mean, std = torch.from_numpy(self._files["moments"].read(start, stop)).float().unbind(dim=1)
        return mean * self._scale + self._shift, std * self._scale

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Other values of consecutive cells."""
        return self._files[key].read(start, stop)

    @property
    def keys(self) -> list[str]:
        """Names of the other values."""
        return [key for key in self._files if key != "moments"]


class _Rows:
    """An array in a file, row by row."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], kind: np.dtype) -> None:
        self.file, self.shape, self.kind = file, shape[1:], kind
        header = {"descr": kind.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._start = file.tell()
        self._n_values = int(np.prod(self.shape))

    def append(self, values: np.ndarray) -> None:
        self.file.seek(0, os.SEEK_END)
        self.file.write(np.ascontiguousarray(values).tobytes())

    def read(self, start: int, stop: int) -> np.ndarray:
        self.file.seek(self._start + start * self._n_values * self.kind.itemsize)
        values = np.fromfile(self.file, self.kind, (stop - start) * self._n_values)
        return values.reshape(stop - start, *self.shape)


def units_of(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation ``(d,)``, float32, that :attr:`LatentCache.sums` tell."""
    n, total, squares = sums
    mean = total / n
    return mean.float(), (squares / n - mean**2).clamp(min=0).sqrt().float()


def _small(values: torch.Tensor) -> np.ndarray:
    """Numbers for the disk: four bytes each."""
    return values.numpy().astype(np.float32 if values.is_floating_point() else np.int32)
