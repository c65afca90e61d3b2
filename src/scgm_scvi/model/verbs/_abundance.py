"""Where the cells of a sample lie in the latent, and which cells a sample has more of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    StudentT,
)

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

__all__ = ["AbundanceMixin"]

_KEY = "da_log_probs"


class AbundanceMixin(LatentDiffusionMixin):
    """Differential abundance as scvi-tools has it, of whatever cells and latents a model has."""

    @torch.inference_mode()
    def get_aggregated_posterior(
        self,
        adata: Any | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dof: float | None = 3.0,
    ) -> Distribution:
        """Mixture of the posteriors of cells, a density of the latent.

        Parameters
        ----------
        adata
            Cells; default: the model's data.
        indices
            Rows; default: all.
        batch_size
            Cells at a time.
        dof
            Degrees of freedom of Student's t in place of each Gaussian; ``None``: Gaussians.

        Returns
        -------
        A distribution of latents, on the model's device.

        Raises
        ------
        ValueError
            If there are no cells.
        """
        mean, variance = self._latent_moments(adata, indices, batch_size)
        return self._mixture(mean, variance, dof)

    @torch.inference_mode()
    def differential_abundance(
        self,
        adata: Any | None = None,
        sample_key: str | None = None,
        batch_size: int = 128,
        num_cells_posterior: int | None = None,
        dof: float | None = None,
    ) -> None:
        """Write to ``obsm["da_log_probs"]`` how likely each cell is among those of each sample.

        Parameters
        ----------
        adata
            Cells, which are written to; default: the model's data.
        sample_key
            Column of ``obs`` that says which sample a cell is of.
        batch_size
            Cells at a time.
        num_cells_posterior
            Cells of a sample to take at most, drawn from scvi-tools' seed.
        dof
            As in :meth:`get_aggregated_posterior`.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If there are no cells, or they are a view.
        """
        data = self.adata if adata is None else adata
        if data is None:
            raise ValueError("The model was loaded without data, so adata has to be given.")
        samples = self._samples(data, sample_key)
        if num_cells_posterior is not None:
            num_cells_posterior = whole_number(num_cells_posterior, "num_cells_posterior")
        if data.is_view:
            raise ValueError(
                f"The cells are a view of others, and obsm[{_KEY!r}] is written to them. Pass a "
                "copy: adata.copy()."
            )
        mean, variance = self._latent_moments(adata, None, batch_size)
        out = {}
        for name in samples.dropna().unique():
            rows = np.flatnonzero((samples == name).to_numpy())
            if num_cells_posterior is not None and num_cells_posterior < len(rows):
                rows = np.random.choice(rows, num_cells_posterior, replace=False)  # scvi's seed
            mixture = self._mixture(mean[rows], variance[rows], dof)
            parts = [mixture.log_prob(z.to(self.device)).cpu() for z in mean.split(batch_size)]
            out[name] = torch.cat(parts).numpy()
        data.obsm[_KEY] = pd.DataFrame(out, index=data.obs_names)

    def _samples(self, data: Any, sample_key: str | None) -> pd.Series:
        obs = self._cells.obs(data)
        for part in getattr(data, "mod", {}).values():  # what no modality contradicts
            if sample_key in part.obs and sample_key not in obs:
                obs = obs.assign(**{str(sample_key): part.obs[sample_key].reindex(obs.index)})
        if sample_key not in obs:
            raise KeyError(
                f"sample_key: {sample_key!r} is not a column of obs."
                f"{nearest(str(sample_key), obs.columns)} Columns: {listed(obs.columns)}."
            )
        return obs[sample_key]

    def _latent_moments(
        self, adata: Any | None, rows: Sequence[int] | None, batch_size: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of the posteriors, before scvi-tools transforms latents."""
        if rows is not None and not len(rows):
            raise ValueError("There are no cells to take the posterior of: indices is empty.")
        moments = self.get_latent_representation(
            adata, indices=rows, batch_size=batch_size, return_dist=True
        )
        mean, variance = (torch.as_tensor(m) for m in moments)
        return mean, variance

    def _mixture(
        self, mean: torch.Tensor, variance: torch.Tensor, dof: float | None
    ) -> MixtureSameFamily:
        mean, scale = mean.to(self.device), variance.to(self.device).sqrt()
        parts = Normal(mean, scale) if dof is None else StudentT(dof, mean, scale)
        even = Categorical(logits=torch.zeros(len(mean), device=self.device))
        return MixtureSameFamily(even, Independent(parts, 1))
