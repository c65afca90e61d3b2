"""Predict features that were not measured, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.distributions import (
    LIKELIHOODS,
    at_depth,
    mean_log1p,
    modality_sums,
    of_each_feature,
)
from scgm_scvi.model._batch_sizes import MEMORY_BUDGET
from scgm_scvi.model._random_state import leaves_random_state, torch_seed
from scgm_scvi.model.data._matrices import as_matrix, stacked
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.data._validation import layer_names, validate_adata
from scgm_scvi.model.prior._posterior import Posterior, fit_posterior

from ._verb import Verb, fit_steps

__all__ = ["ImputationMixin", "narrowest_interval"]

_DRAWS = 4  # of the counts of each latent
_RARE = 0.01  # probability of being counted, below which a feature is given as zero


class ImputationMixin(Verb):
    """Features that were not measured."""

    @leaves_random_state
    def impute(
        self,
        adata: AnnData,
        genes: Sequence[str] | None = None,
        *,
        interval: float = 0.9,
        n_samples: int = 25,
        n_fit_steps: int = 50,
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData:
        r"""Predict the expression of genes that a panel did not measure.

        For each cell the latents :math:`z` are found that agree both with the counts of the
        measured genes and with the diffusion model under the cell's conditions. What is decoded
        from them is what would have been counted, had all of the model's genes been:

        .. math::
            x_g | z \sim NB\left(L\,p_g(z),\ \theta_g(z)\right), \qquad
            L = \frac{\sum_{g \in measured} x_g}{\sum_{g \in measured} p_g(z)}

        The results are of :math:`\ln(1 + 10^4 x_g / \sum x)`, measured expression as it is
        usually normalised. It includes the noise of counting: most genes are counted in few
        cells, the fewer the lower a cell's depth, and the interval is one in which the measurement
        lies, not only its mean.

        Parameters
        ----------
        adata
            Cells with raw counts of some of the model's features; others are not looked at.
            Columns of conditions may be missing, or have missing values: those are unspecified.
            Not changed.
        genes
            Which to predict. Default: all of the model's that ``adata`` lacks. One that ``adata``
            has is predicted without a look at its counts.
        interval
            Probability that a measurement lies in the interval.
        n_samples
            Latents of each cell; counts are drawn four times from each.
        n_fit_steps
            Steps by which the encoder's posterior is fitted to the cell; 0: none, as if the
            missing genes had been counted as zero.
        seed
            Same seed, same device, same result. Default: a fresh one, recorded in the result.
        batch_size
            Cells at a time; bounds the memory. Part of what the seed determines.
        progress_bar
            Whether to show one.

        Returns
        -------
        AnnData of the cells by ``genes``, with the ``obs`` of ``adata`` and

        - ``X``: mean, CSR; a gene that would be counted in fewer than one of a hundred such cells
          is given as zero;
        - ``layers["std"]``: standard deviation; ``layers["lower"]`` and ``layers["upper"]``: the
          narrowest interval of the probability asked for, which begins at 0 wherever the gene may
          well not be counted;
        - ``layers["normalized"]``: mean in counts per 10,000, without the noise of counting and
          whatever the depth, as of :meth:`generate` and :meth:`enhance`;
        - ``obsm["X_scgm"]``: means of the latents' posteriors; ``uns["scgm"]``: every parameter.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, TypeError, ValueError
            If the model does not know a gene, nothing is left to predict or to predict from, a
            cell has no counts, a number makes no sense, or the model is not one of counts.

        Examples
        --------
        >>> missing = model.impute(panel, seed=0)  # doctest: +SKIP
        >>> missing = model.impute(panel, ["FOXP3", "CTLA4"], interval=0.95)  # doctest: +SKIP
        >>> sc.pl.spatial(missing, color="FOXP3")  # doctest: +SKIP

        References
        ----------
        Missing features by a generative model: Rezende et al. 2014, arXiv:1401.4082, by a Markov
        chain, where here the posterior is fitted (Kim et al. 2018, arXiv:1802.02550), with the
        diffusion model as its prior (Mardani et al. 2023, arXiv:2305.04391).
        """
        run = self._run(seed, batch_size, progress_bar)
        self._require_counts()
        n_samples = whole_number(n_samples, "n_samples")
        n_fit_steps = fit_steps(n_fit_steps)
        n_inside = _n_inside(interval, _DRAWS * n_samples)
        validate_adata(adata, may_be_view=True)
        genes = self._genes_to_impute(adata, genes)
        full, columns = self._completed(adata, genes)
        if batch_size is None:
            own = MEMORY_BUDGET // (3 * 4 * _DRAWS * n_samples * len(genes))
            run = replace(run, batch_size=max(1, min(own, run.batch_size)))
        prior = self.prior
        generator = prior.generator(run.seed)
        seen = torch.as_tensor(columns, device=prior.device)
        rest = np.setdiff1d(np.arange(full.n_vars), columns)
        wanted = self.var_.index[rest].get_indexer(genes)
        unseen, targets = (torch.as_tensor(c, device=prior.device) for c in (rest, wanted))
        reading = Reading(self._absent(full), self._may_lack_nuisances())
        names = ("normalized", "std", "lower", "upper")
        x, latents = [], []
        layers: dict[str, list[np.ndarray]] = {name: [] for name in names}
        with run.bar(adata.n_obs, "Imputing") as bar, torch_seed(run.seed, prior.device):
            for tensors in self._minibatches(full, reading, batch_size=run.batch_size):
                posterior = fit_posterior(prior, tensors, n_fit_steps, generator, seen)
                mean, normalized, draws = _predicted(
                    posterior, tensors, n_samples, generator, seen, unseen, targets
                )
                parts = [normalized, draws.std(dim=0), *narrowest_interval(draws, n_inside)]
                x.append(sparse.csr_matrix(mean.cpu().numpy()))
                for name, part in zip(names, parts, strict=True):
                    layers[name].append(part.cpu().numpy())
                latents.append(posterior.latents.cpu().numpy())
                bar.update(len(mean))
        uns = self._provenance(
            run,
            interval=float(interval),
            n_measured=len(seen),
            n_samples=n_samples,
            n_fit_steps=n_fit_steps,
            batch_size=run.batch_size,
        )
        return AnnData(
            stacked(x),
            obs=adata.obs.copy(),
            var=self.var_.loc[genes].copy(),
            layers={name: np.concatenate(parts) for name, parts in layers.items()},
            obsm={self.latent_key: np.concatenate(latents)},
            uns={"scgm": uns},
        )

    def _require_counts(self) -> None:
        likelihood = getattr(self.module, "gene_likelihood", None)
        if likelihood is not None and not LIKELIHOODS[likelihood].is_counts:
            raise ValueError(
                f"The model has gene_likelihood={likelihood!r}; imputing needs counts, whose depth tells "
                "how much was not measured. Train on raw counts, with 'nb'."
            )

    def _genes_to_impute(self, adata: AnnData, genes: Sequence[str] | None) -> list[str]:
        known = self.var_.index
        if genes is None:
            genes = list(known.difference(adata.var_names, sort=False))
            if not genes:
                raise ValueError(
                    f"adata has all {len(known)} features of the model, so nothing is missing. "
                    "To predict some without a look at their counts, name them: genes=[...]."
                )
            return genes
        if isinstance(genes, str):
            raise TypeError(f"genes is the string {genes!r}; pass a list: [{genes!r}].")
        genes = list(genes)
        unknown = [g for g in genes if g not in known]
        if unknown:
            raise KeyError(
                f"genes: the model does not know {listed(unknown, 5)}."
                f"{nearest(unknown[0], known)} It knows those in model.var_.index."
            )
        if not genes:
            raise ValueError("genes is empty; leave it out to predict all that adata lacks.")
        if len(set(genes)) < len(genes):
            raise ValueError(
                f"genes names {listed(pd.Index(genes)[pd.Index(genes).duplicated()], 5)} twice."
            )
        return genes

    def _completed(self, adata: AnnData, genes: list[str]) -> tuple[AnnData, np.ndarray]:
        """The cells with all features of the model, zero where not measured; and the measured."""
        features = pd.Index(self.var_.index)
        seen = np.flatnonzero(features.isin(adata.var_names) & ~features.isin(genes))
        if not len(seen):
            raise ValueError(
                "adata has none of the model's features to predict others from. Its var_names "
                f"begin {listed(adata.var_names[:3])}, those of the model {listed(features[:3])}."
            )
        layer = self.registry_["setup_args"].get("layer")
        if layer is not None and layer not in adata.layers:
            raise KeyError(
                f"layer: {layer!r} is not in adata.layers.{nearest(layer, layer_names(adata))} "
                f"Layers: {listed(layer_names(adata))}. The model reads counts from there."
            )
        x = as_matrix(adata.X if layer is None else adata.layers[layer], "the counts of adata")
        x = sparse.csc_matrix(x)[:, adata.var_names.get_indexer(features[seen])].tocoo()
        x = sparse.csr_matrix((x.data, (x.row, seen[x.col])), shape=(adata.n_obs, len(features)))
        full = AnnData(
            x if layer is None else None,
            obs=adata.obs,
            var=pd.DataFrame(index=features),
            layers=None if layer is None else {layer: x},
        )
        return full, seen


@torch.no_grad()
def _predicted(
    posterior: Posterior,
    tensors: Mapping[str, torch.Tensor],
    n_samples: int,
    generator: torch.Generator,
    seen: torch.Tensor,
    unseen: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, mean proportion per 10,000, and draws ``(n_draws, n, n_genes)``."""
    module = posterior.prior.module
    widths, wanted = module.widths, unseen[targets]
    x = module.features(tensors).to(posterior.prior.device)[:, seen]
    measured = modality_sums(x, widths, seen)
    mean = counted = normalized = torch.zeros(1, device=x.device)
    draws = []
    for _ in range(n_samples):
        px = posterior.decode(posterior.draw(generator))
        depth = posterior.depth(px, measured, seen)
        normalized = normalized + module.proportions(px.mean)[:, wanted]
        rest = at_depth(px, depth, unseen)
        for _ in range(_DRAWS):
            x = rest.sample()
            total = (measured + modality_sums(x, widths, unseen)).clamp(min=1e-8)
            total = of_each_feature(total, widths, wanted)
            draws.append(torch.log1p(1e4 * x[:, targets] / total))
        factor = 1e4 / (depth * modality_sums(px.mean, widths))
        part, probability = mean_log1p(rest, of_each_feature(factor, widths, unseen))
        mean, counted = mean + part[:, targets], counted + probability[:, targets]
    mean = torch.where(counted < _RARE * n_samples, 0.0, mean / n_samples)
    return mean, normalized * (1e4 / n_samples), torch.stack(draws)


def _n_inside(interval: float, n_draws: int) -> int:
    """How many of ``n_draws`` an interval of that probability holds."""
    if not isinstance(interval, float) or not 0 < interval < 1:
        raise ValueError(f"interval is {interval!r}; it is a probability between 0 and 1.")
    # between k sorted draws lies, on average, a share (k - 1) / (n + 1) of the distribution
    n_inside = math.ceil(interval * (n_draws + 1)) + 1
    if n_inside > n_draws:
        needed = math.ceil((2 + interval) / (1 - interval) / _DRAWS)
        raise ValueError(
            f"interval is {interval}, too wide for {n_draws} draws: n_samples has to be at least "
            f"{needed}."
        )
    return n_inside


def narrowest_interval(draws: torch.Tensor, n_inside: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends of the narrowest interval that holds ``n_inside`` of the draws along dimension 0.

    Where several are, as of equal draws, the lowest.
    """
    draws = draws.sort(dim=0).values
    width = draws[n_inside - 1 :] - draws[: len(draws) - n_inside + 1]
    start = width.argmin(dim=0, keepdim=True)
    return draws.gather(0, start)[0], draws.gather(0, start + n_inside - 1)[0]
