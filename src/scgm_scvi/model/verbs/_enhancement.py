"""Denoise cells: the expression that their counts are a sample of."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from torch.distributions import Distribution

from scgm_scvi._errors import whole_number
from scgm_scvi.distributions import rates_given_counts
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.prior._posterior import fit_posterior

from ._verb import Verb, fit_steps

__all__ = ["EnhancementMixin"]


class EnhancementMixin(Verb):
    """The same cells with less noise."""

    @leaves_random_state
    def enhance(
        self,
        adata: AnnData,
        *,
        own_counts: bool = True,
        n_samples: int = 25,
        n_fit_steps: int = 50,
        key_added: str = "scgm_enhanced",
        copy: bool = False,
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData | None:
        r"""Denoise cells, which stay who they are.

        What was counted of a cell is a small sample of what it expresses. Written is what the
        model expects of the latter: the posterior mean, over latents :math:`z` that agree both
        with the counts :math:`x` and with the diffusion model under the cell's conditions, of the
        rates :math:`\lambda` that the counts are Poisson draws of. For decoded means :math:`\mu`
        and inverse dispersions :math:`\theta`,

        .. math::
            E[\lambda_g | x] = E_{z|x}\left[\mu_g(z)\,
            \frac{\theta_g(z) + x_g}{\theta_g(z) + \mu_g(z)}\right]

        A feature that varies little among cells of one state, of large :math:`\theta`, is taken
        from the decoder; of one that varies much, the cell's own count is believed.

        Parameters
        ----------
        adata
            Cells with raw counts, registered like the model's own if they are not yet. Columns of
            conditions may be missing, or have missing values: those are unspecified. What it
            holds already is not changed.
        own_counts
            ``False``: the decoder's mean :math:`E_{z|x}[\mu_g(z)]` alone, which knows the cell by
            its latent only. It is smoother, and predicts the cell less well.
        n_samples
            Latents of each cell, over which to average.
        n_fit_steps
            Steps by which the encoder's posterior is fitted to the cell; 0: none.
        key_added
            Name under which the results are written.
        copy
            Whether to leave ``adata`` as it is and return a copy with the results. Of a view, a
            copy is returned in any case.
        seed
            Same seed, same device, same result. Default: a fresh one, recorded in the result.
        batch_size
            Cells at a time; bounds the memory. Part of what the seed determines.
        progress_bar
            Whether to show one.

        Returns
        -------
        ``None``, or the copy. Written are, for ``key_added="scgm_enhanced"``:

        - ``layers["scgm_enhanced"]``: expression, float32, in counts per 10,000; with
          ``gene_likelihood="normal"`` the decoder's mean as it is.
        - ``obsm["X_scgm_enhanced"]``: means of the latents' posteriors.
        - ``uns["scgm_enhanced"]``: every parameter.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        TypeError, ValueError
            If a number makes no sense, or ``adata`` has features that the model does not know, or
            lacks some, or counts.

        Examples
        --------
        >>> model.enhance(adata)  # doctest: +SKIP
        >>> sc.pl.umap(adata, color="CD3E", layer="scgm_enhanced")  # doctest: +SKIP

        References
        ----------
        The rates: Huang et al. 2018, SAVER, doi:10.1038/s41592-018-0033-z, with a decoder in place
        of their regressions. Fitting the posterior: Kim et al. 2018, arXiv:1802.02550, under the
        prior of Mardani et al. 2023, arXiv:2305.04391.
        """
        run = self._run(seed, batch_size, progress_bar)
        n_samples = whole_number(n_samples, "n_samples")
        n_fit_steps = fit_steps(n_fit_steps)
        self._cells.require_writable(adata, key_added)
        prior = self.prior
        generator = prior.generator(run.seed)
        reading = Reading(self._absent(adata), self._may_lack_nuisances())
        parts, latents = [], []
        with run.bar(adata.n_obs, "Enhancing") as bar:
            for tensors in self._minibatches(adata, reading, batch_size=run.batch_size):
                posterior = fit_posterior(prior, tensors, n_fit_steps, generator)
                x = self.module.features(tensors).to(self.device) if own_counts else None
                total = torch.zeros(1, device=prior.device)
                with torch.no_grad():
                    for _ in range(n_samples):
                        px = posterior.decode(posterior.draw(generator))
                        total = total + self._expression(px, x) / n_samples
                parts.append(total.cpu().numpy())
                latents.append(posterior.latents.cpu().numpy())
                bar.update(len(total))
        return self._cells.write(
            adata,
            key_added,
            layers={"": np.concatenate(parts)},
            latent=np.concatenate(latents),
            obs={},
            uns=self._provenance(
                run,
                own_counts=bool(own_counts),
                n_samples=n_samples,
                n_fit_steps=n_fit_steps,
                batch_size=run.batch_size,
            ),
            copy=copy,
        )

    def _expression(self, px: Distribution, x: torch.Tensor | None) -> torch.Tensor:
        """Rates, with the counts where they are given, as counts per 10,000."""
        if not getattr(px.support, "is_discrete", False):  # no counts
            return px.mean
        rates = px.mean if x is None else rates_given_counts(px, x)
        return self.module.proportions(rates) * 1e4
