"""How well a trained model knows given cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from scgm_scvi._errors import whole_number
from scgm_scvi.diffusion import lognormal_sigmas
from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model._random_state import leaves_random_state

from ._verb import Verb

__all__ = ["ScoringMixin"]


class ScoringMixin(Verb):
    """Score cells by stage two."""

    @leaves_random_state
    @torch.inference_mode()
    def denoising_loss(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        n_levels: int = 16,
        seed: int = 0,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> np.ndarray:
        r"""Stage two's training loss of each cell, averaged over noise levels.

        The mean of a cell's posterior is diffused and denoised under its own conditions, in the
        units and with the weights of training (1 for a network that has learnt nothing):

        .. math::
            \ell(x) = \frac1L \sum_{l=1}^{L} \frac{1+\sigma_l^2}{\sigma_l^2\,d}\,
            \big\|D(x+\sigma_l n_l;\sigma_l) - x\big\|^2

        Levels come from the log-normal of training, one from each of ``n_levels`` equally likely
        bins. Every cell meets the same levels and the same noise, so cells compare without the
        scatter of separate draws, and a cell's loss does not depend on the others.

        Lower is more typical, and lowest for cells that were trained on if the model has
        memorised them. It is no likelihood.

        Parameters
        ----------
        adata
            Cells, registered like the model's own if they are not yet; not changed. Default: the
            model's data.
        indices
            Rows to score; default: all.
        n_levels
            Number of noise levels, each with its own noise.
        seed
            Of the levels and the noise: same seed, same device, same losses.
        batch_size
            Cells scored at a time; changes the losses by rounding only. Default:
            1,024, or as many as are encoded within a quarter of a gigabyte.
        progress_bar
            Whether to show one.

        Returns
        -------
        float64 array of shape ``(n_cells,)``, in the order of ``indices``; no unit.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        ValueError
            If a number makes no sense, or ``adata`` lacks features, columns or counts.

        Examples
        --------
        >>> loss = model.denoising_loss()  # doctest: +SKIP
        >>> loss[model.train_indices].mean(), loss[model.validation_indices].mean()
        ... # doctest: +SKIP

        References
        ----------
        Karras et al. 2022, arXiv:2206.00364, equations 2 and 8. As a score for membership
        inference: Matsumoto et al. 2023, arXiv:2302.03262.
        """
        usual = encoding_batch_size(len(self.var_))
        run = self._run(seed, batch_size, progress_bar, usual=usual)
        n_levels = whole_number(n_levels, "n_levels")
        denoiser, device = self.module.denoiser, self.device
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
        sigmas = lognormal_sigmas(n_levels, generator=generator).to(device)
        noise = torch.randn(n_levels, denoiser.n_dims, generator=generator).to(device)
        losses = [np.empty(0)]
        with self._registered(adata) as cells:
            loader = self._make_data_loader(adata=cells, indices=indices, batch_size=run.batch_size)
            for tensors in tqdm(loader, desc="Scoring", disable=not progress_bar):
                mean, _ = self.module.encode_state(tensors)
                x0 = denoiser.standardize(mean.to(device))
                conditions = [c.to(device) for c in self.module.denoiser_conditions(tensors)]
                total = torch.zeros(len(x0), dtype=torch.float64, device=device)
                for sigma, n in zip(sigmas, noise, strict=True):
                    total += denoiser.loss(x0, *conditions, sigma=sigma.expand(len(x0)), noise=n)
                losses.append((total / n_levels).cpu().numpy())
        return np.concatenate(losses)
