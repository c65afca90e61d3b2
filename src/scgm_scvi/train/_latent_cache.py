"""Latents of more cells than memory holds: on disk, in half precision."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

__all__ = ["LatentCache", "LatentRows", "units_of"]

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class LatentRows:
    """Rows of a cache as float32, in other units: ``stored * scale + shift``, to a power.

    Stands in for a tensor ``(n, d)`` that is indexed by rows.
    """

    def __init__(
        self, stored: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None, power: int = 1
    ) -> None:
        self.stored, self.scale, self.shift, self.power = stored, scale, shift, power

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: torch.Tensor | slice) -> torch.Tensor:
        out = self.stored[rows].float() * self.scale
        if self.shift is not None:
            out += self.shift
        return out if self.power == 1 else out**self.power


class LatentCache:
    """Means and standard deviations of cells' states, and their attributes, as ``.npy`` files.

    Half precision has three digits, so states are stored in units in which they are near 1:
    standardised by the first cells.

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
    design
        Other values of the cells, by name.
    sums
        Weight of the training cells, sum and sum of squares of posterior samples of them, by
        dimension; float64 ``(3, d)``. They add up over caches.
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
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = LatentCache(folder, n_cells=6, n_train=4)
    ...     cache.append(x, torch.ones(6, 3), {"tokens": torch.zeros(6, 1).int()})
    ...     bool((cache.states(0.0, 1.0)[0][:] - x).abs().max() < 0.01)
    True
    """

    def __init__(
        self, folder: str | os.PathLike, n_cells: int, n_train: int, name: str = "latents"
    ) -> None:
        self.folder, self.name = Path(folder), name
        self.n_cells, self.n_train, self.n_done = n_cells, n_train, 0
        self.design: dict[str, np.ndarray] = {}
        self.n_lost = 0

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
        design = {key: _small(values) for key, values in design.items()}
        if not self.n_done:
            self._create(mean, variance, design)
        finite = (mean.isfinite() & variance.isfinite()).all(dim=1)
        self.n_lost += int((~finite).sum())
        z, std = (mean - self._shift) / self._scale, variance.sqrt() / self._scale
        rows = slice(self.n_done, self.n_done + len(mean))
        stored = torch.stack([z, std], dim=1).clamp(-_FLOAT16_MAX, _FLOAT16_MAX)
        self._moments[rows] = stored.to(torch.float16).numpy()
        for key, values in design.items():
            self.design[key][rows] = values
        n_train = max(0, min(len(mean), self.n_train - self.n_done))
        x, v = mean[:n_train].double(), variance[:n_train].double()
        w = torch.ones(n_train, 1) if weights is None else weights[:n_train, None]
        terms = torch.stack([torch.ones_like(x), x, x**2 + v])
        self.sums += (w.double() * terms).sum(dim=1)
        self.n_done += len(mean)

    def _create(
        self, mean: torch.Tensor, variance: torch.Tensor, design: Mapping[str, np.ndarray]
    ) -> None:
        d = mean.shape[1]
        known = mean[mean.isfinite().all(dim=1)]
        total = known.var(dim=0, correction=0) + variance.nanmean(dim=0)
        self._shift = known.mean(dim=0).nan_to_num()
        self._scale = total.sqrt().nan_to_num(1.0).clamp(min=1e-4)
        self.sums = torch.zeros(3, d, dtype=torch.float64)
        shapes = {"moments": ((2, d), np.dtype(np.float16))}
        shapes |= {key: (values.shape[1:], values.dtype) for key, values in design.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = sum(
            self.n_cells * int(np.prod(shape)) * kind.itemsize for shape, kind in shapes.values()
        )
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"The latents of {self.n_cells} cells take {needed / 1e9:.1f} GB, and "
                f"{str(self.folder)!r} has room for {free / 1e9:.1f} GB. Name a folder on another "
                "disk: latent_cache=..."
            )
        files = {
            key: open_memmap(
                self.folder / f"{self.name}-{key}.npy",
                mode="w+",
                dtype=kind,
                shape=(self.n_cells, *shape),
            )
            for key, (shape, kind) in shapes.items()
        }
        self._moments = files.pop("moments")
        self.design = files

    def states(
        self, shift: torch.Tensor | float, scale: torch.Tensor | float
    ) -> tuple[LatentRows, LatentRows]:
        """Mean and variance of the states, standardised by ``shift`` and ``scale``."""
        stored = torch.from_numpy(self._moments)
        factor = self._scale / scale
        mean = LatentRows(stored[:, 0], factor, (self._shift - shift) / scale)
        return mean, LatentRows(stored[:, 1], factor, None, power=2)


def units_of(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation ``(d,)``, float32, that :attr:`LatentCache.sums` tell."""
    n, total, squares = sums
    mean = total / n
    return mean.float(), (squares / n - mean**2).clamp(min=0).sqrt().float()


def _small(values: torch.Tensor) -> np.ndarray:
    """Numbers for the disk: four bytes each."""
    return values.numpy().astype(np.float32 if values.is_floating_point() else np.int32)
