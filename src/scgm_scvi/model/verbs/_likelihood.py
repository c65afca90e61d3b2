"""How likely cells are under a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from anndata import AnnData
from torchdiffeq import odeint

from scgm_scvi.diffusion import log_likelihood
from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.data._rows import chosen_rows
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._request import Request

from ._verb import Verb

__all__ = ["LikelihoodMixin"]


class LikelihoodMixin(Verb):
    """Log-likelihood of cells by stage two."""

    @leaves_random_state
    def log_likelihood(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        conditions: Conditions = None,
        trace: Literal["hutchinson", "exact"] = "hutchinson",
        n_probes: int = 4,
        tolerance: float = 1e-3,
        seed: int = 0,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> np.ndarray:
        r"""Log-density of each cell's state, by the probability-flow ODE.

        The state is the mean of the cell's posterior in the latent, with its log library size. It
        is carried up to pure noise, and the change of density on the way is integrated:

        .. math::
            \ln p(z) = \ln N\!\big(x_1; 0, (1+\sigma_1^2) I\big)
            + \int_{\sigma_0}^{\sigma_1} \nabla\!\cdot\!\frac{x - D(x;\sigma)}{\sigma}\, d\sigma
            - \sum_j \ln s_j

        where :math:`s` is the scale by which stage two standardises the latent. It is a density:
        differences between cells, or between conditions for one cell, mean something, its value
        depends on the units of the latent.

        Parameters
        ----------
        adata
            Cells, registered like the model's own if they are not yet; not changed. Default: the
            model's data.
        indices
            Rows to score; default: all.
        conditions
            Conditions to score the cells under, as in :meth:`generate`: a dict, or a DataFrame
            with a row for each cell scored, by name where its index names them. What it leaves out
            is unspecified; ``{}`` is the unconditional density. Batch and covariates are the cells' own where it does not name
            them. Default: the cells' own conditions.
        trace
            The divergence: ``"hutchinson"``, estimated without bias by random probes, or
            ``"exact"``, with a pass back through the network for every dimension.
        n_probes
            Number of Rademacher probes. More mean less scatter, and more time.
        tolerance
            Of the ODE solver, relative and absolute.
        seed
            Of the probes: same seed, same device, same likelihoods.
        batch_size
            Cells scored at a time. The solver's steps suit the hardest cell of a batch, so it
            changes the likelihoods by about the tolerance. Default:
            512, or as many as are encoded within a quarter of a gigabyte.
        progress_bar
            Whether to show one.

        Returns
        -------
        float64 array of shape ``(n_cells,)``, in nats a cell, in the order of ``indices``.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, ValueError
            If a condition, name or number makes no sense, or ``adata`` lacks features, columns or
            counts.

        Examples
        --------
        >>> adata.obs["loglik"] = model.log_likelihood(adata)  # doctest: +SKIP
        >>> as_b = model.log_likelihood(adata, conditions={"cell_type": "B"})  # doctest: +SKIP

        References
        ----------
        Song et al. 2021, arXiv:2011.13456, section 4.3; Grathwohl et al. 2019, arXiv:1810.01367.
        """
        usual = min(512, encoding_batch_size(len(self.var_)))
        run = self._run(seed, batch_size, progress_bar, usual=usual)
        prior, denoiser, spec = self.prior, self.module.denoiser, self.condition_spec
        generator = prior.generator(seed)
        ignored = () if conditions is None else spec.steered
        out = [np.empty(0)]
        with self._registered(adata, Reading(ignored, may_lack_labels=False)) as cells:
            rows = chosen_rows(indices, cells.obs_names)
            names, n = cells.obs_names[rows], len(rows)
            request = None if conditions is None else Request.parse(spec, None, conditions, names)
            loader = self._make_data_loader(adata=cells, indices=rows, batch_size=run.batch_size)
            done = 0
            with run.bar(n, "Scoring") as bar:
                for tensors in loader:
                    mean, _ = self.module.encode_state(tensors)
                    attributes = Attributes.of(spec, tensors)
                    if request is not None:
                        attributes = request.rows(done, done + len(mean)).instead_of(attributes)
                    done += len(mean)
                    result = log_likelihood(
                        prior.denoiser(attributes),
                        denoiser.standardize(mean.to(prior.device)),
                        odeint=odeint,
                        sigma_min=denoiser.noise.sigma_min,
                        sigma_max=denoiser.noise.sigma_max,
                        trace=trace,
                        n_probes=n_probes,
                        tolerance=tolerance,
                        generator=generator,
                    )
                    out.append((result.log_prob - denoiser.scale.double().log().sum()).cpu())
                    bar.update(len(mean))
        return np.concatenate(out)
