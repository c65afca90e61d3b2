"""Cells that a model makes some at a time, handed back whole or written as they come."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from scgm_scvi.model.data._matrices import Matrix, stacked

from ._verb import Verb

__all__ = ["Chunk", "ChunksMixin"]


class Chunk(NamedTuple):
    """Some of the cells."""

    x: Matrix
    latent: np.ndarray
    obs: pd.DataFrame


class ChunksMixin(Verb):
    """Hand back the cells of chunks."""

    def _handed_back(
        self,
        chunks: Iterator[Chunk],
        uns: dict[str, Any],
        bar: tqdm,
        out: str | os.PathLike | None,
    ) -> Any:
        """All cells in one object, or the path of the file that holds them, if ``out`` names one."""
        if out is None:
            with bar:
                return self._cells.pack(self._collected(_counted(chunks, bar), uns))
        with self._cells.writer(out) as writer, bar:
            for chunk in _counted(chunks, bar):
                writer.append(chunk.x, {self.latent_key: chunk.latent}, chunk.obs)
            writer.finish(self.var_, {"scgm": uns})
        return Path(out)

    def _collected(self, chunks: Iterator[Chunk], uns: dict[str, Any]) -> ad.AnnData:
        x, latents, obs = zip(*chunks, strict=True)
        return ad.AnnData(
            stacked(x),
            obs=pd.concat(obs),
            var=self.var_.copy(),
            obsm={self.latent_key: np.concatenate(latents)},
            uns={"scgm": uns},
        )


def _counted(chunks: Iterator[Chunk], bar: tqdm) -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk.obs))
