"""What scvi-tools answers about peaks, by models of peaks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

from ._expression_getters import ExpressionGettersMixin
from ._refusals import of_counts_alone, refused

__all__ = ["OpenPeakGettersMixin", "PeakGettersMixin"]


class PeakGettersMixin(ExpressionGettersMixin):
    """The getters of :class:`scvi.external.POISSONVI`, which comes after it."""

    def get_normalized_accessibility(self, *args: Any, **kwargs: Any) -> np.ndarray | pd.DataFrame:
        """As :meth:`scvi.external.POISSONVI.get_normalized_accessibility`, with its arguments.

        Each peak's share of a cell's counts, without the peak's own factor unless
        ``normalize_regions=True``. Where it matters only which peaks are open: the probability of
        it in a cell of size 1, or with ``library_size="latent"`` in a cell of its own size.
        """
        with self._region_factors_kept():
            return super().get_normalized_accessibility(*args, **kwargs)

    @contextmanager
    def _region_factors_kept(self) -> Iterator[None]:
        """scvi-tools takes factors out of the module, and does not put them back after an error."""
        layer = self.module.decoder.px_scale_decoder[-2]
        bias = layer.bias
        try:
            yield
        finally:
            layer.bias = bias

    get_library_size_factors = refused(
        ", whose depths are counts",
        "{name} has no library size factors: the depth of a cell is its counts, as "
        "get_latent_library_size(give_mean=False) has them.",
    )
    differential_expression = refused(
        ", which has no genes", "{name} is a model of peaks: use differential_accessibility."
    )


class OpenPeakGettersMixin(LatentDiffusionMixin):
    """The getters of :class:`scvi.model.PEAKVI`, which comes after it.

    scvi-tools gives that model getters of gene expression, of which some need what it has not.
    """

    def get_normalized_expression(self, *args: Any, **kwargs: Any) -> np.ndarray | pd.DataFrame:
        """As scvi-tools has it: the probability that each peak is open, whatever the depth.

        Raises
        ------
        NotImplementedError
            If importance weights are asked for.
        """
        if kwargs.get("weights") == "importance":
            self._importance()
        return super().get_normalized_expression(*args, **kwargs)

    get_importance_weights = of_counts_alone("get_importance_weights", "", 'weights="uniform"')
    get_likelihood_parameters = of_counts_alone(
        "get_likelihood_parameters",
        ", whose likelihood has no dispersion",
        "get_normalized_accessibility",
    )
    get_feature_correlation_matrix = of_counts_alone(
        "get_feature_correlation_matrix",
        ", whose likelihood has no dispersion",
        "get_normalized_accessibility",
    )
    posterior_predictive_sample = of_counts_alone(
        "posterior_predictive_sample",
        ", whose module draws nothing",
        "edit(adata, strength=0)",
    )
    get_latent_library_size = of_counts_alone(
        "get_latent_library_size",
        ", whose depths are between 0 and 1",
        "get_library_size_factors",
    )
    get_marginal_ll = of_counts_alone(
        "get_marginal_ll", ", whose module can't tell", "get_elbo, or log_likelihood"
    )
    _importance = of_counts_alone("weights='importance'", "", 'weights="uniform"')
