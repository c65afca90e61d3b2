"""Importance weights of posterior samples, under the prior that a model has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from torch.distributions import Distribution, Normal

from scgm_scvi.distributions import at_size
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

__all__ = ["ImportanceMixin"]


class ImportanceMixin(LatentDiffusionMixin):
    """What ``weights="importance"`` asks for, in place of scvi-tools', which takes N(0, I).

    Needs scvi-tools' ``RNASeqMixin`` after it.
    """

    @torch.inference_mode()
    def get_importance_weights(
        self,
        adata: AnnData | None,
        indices: Sequence[int] | np.ndarray,
        qz: Normal,
        px: Distribution,
        zs: torch.Tensor,
        max_cells: int = 1024,
        truncation: bool = False,
        n_mc_samples: int = 500,
        n_mc_samples_per_pass: int = 250,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        """Weights of posterior samples, by which they are samples of what cells have in common.

        Samples of the approximate posteriors of some cells are made samples of the cells' true
        posteriors, all together. :meth:`get_normalized_expression` and
        :meth:`differential_expression` call it for ``weights="importance"``.

        Parameters
        ----------
        adata
            Cells; default: the model's data.
        indices
            Rows that the samples are of.
        qz
            Posteriors of these cells, ``(n, n_latent)``.
        px
            Distributions of features that the samples decode to, ``(..., n, n_features)``.
        zs
            The samples, ``(..., n, n_latent)``.
        max_cells
            Cells to look at, at most; drawn from scvi-tools' seed.
        truncation
            Whether weights are cut off at the square root of their number times their mean.
        n_mc_samples, n_mc_samples_per_pass
            As in :meth:`get_marginal_ll`.
        **data_loader_kwargs
            Of the data loader.

        Returns
        -------
        Weights of the samples, which add up to 1.

        Raises
        ------
        ValueError
            If latents are decoded through a softmax (``latent_distribution="ln"``), where samples
            are not those that the prior is of.

        References
        ----------
        Boyeau et al. 2023, doi:10.1073/pnas.2209124120; Ionides 2008,
        doi:10.1198/106186008X320456 (truncation).
        """
        if self.module.latent_distribution == "ln":
            raise ValueError(
                "Importance weights need samples of the latent that the prior is of; of this model "
                'they come after a softmax (latent_distribution="ln"). Use weights="uniform".'
            )
        rows = np.asarray(indices)
        anchors = np.arange(len(rows))
        if len(anchors) > max_cells:
            anchors = np.random.choice(anchors, size=max_cells, replace=False)  # scvi's seed
        log_px = self.get_marginal_ll(
            adata,
            indices=rows[anchors],
            return_mean=False,
            n_mc_samples=n_mc_samples,
            n_mc_samples_per_pass=n_mc_samples_per_pass,
        )
        log_pz = self.module.log_prior(zs.to(self.device)).cpu().reshape(-1, 1)
        some = Normal(qz.loc[anchors], qz.scale[anchors])
        log_qz = some.log_prob(zs.unsqueeze(-2)).sum(dim=-1).reshape(-1, len(anchors))
        sizes = self._sizes_of(adata, rows, data_loader_kwargs)
        factors = sizes if self.module.use_size_factor_key else None
        columns = []
        loader = self._make_data_loader(
            adata=adata, indices=rows[anchors], batch_size=1, **data_loader_kwargs
        )
        for size, tensors in zip(sizes[anchors], loader, strict=True):
            x = self.module.features(tensors).cpu()
            columns.append(at_size(px, size, factors).log_prob(x).sum(dim=-1).reshape(-1, 1))
        log_px_z = torch.cat(columns, dim=1)
        mixture = torch.logsumexp(log_qz, dim=1, keepdim=True)
        log_weight = torch.logsumexp(log_pz + log_px_z - log_px.cpu() - mixture, dim=1)
        if truncation:
            n = len(log_weight)
            most = torch.logsumexp(log_weight, 0) - np.log(n) / 2
            log_weight = log_weight.clamp(max=most)
        weights = log_weight.double().softmax(0)
        return (weights / weights.sum()).numpy()

    def _sizes_of(
        self, adata: AnnData | None, indices: np.ndarray, data_loader_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Sizes ``(n, 1)`` that cells are decoded to: size factors where there are any."""
        sizes = []
        for tensors in self._make_data_loader(adata=adata, indices=indices, **data_loader_kwargs):
            if self.module.use_size_factor_key:
                sizes.append(tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY])
            else:
                sizes.append(self.module.features(tensors).sum(dim=1, keepdim=True))
        return torch.cat(sizes).cpu()
