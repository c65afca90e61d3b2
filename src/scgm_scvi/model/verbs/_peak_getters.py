"""What scvi-tools answers about peaks, by models of peaks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

from ._expression_getters import ExpressionGettersMixin

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

    def get_library_size_factors(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, whose depths are counts.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no library size factors: the depth of a cell is its counts, "
            "as get_latent_library_size(give_mean=False) has them."
        )

    def differential_expression(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, which has no genes.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a model of peaks: use differential_accessibility."
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
            self._refuse("weights='importance'", 'weights="uniform"')
        return super().get_normalized_expression(*args, **kwargs)

    def get_importance_weights(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse("get_importance_weights", 'weights="uniform"')

    def get_likelihood_parameters(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, whose likelihood has no dispersion.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse("get_likelihood_parameters", "get_normalized_accessibility")

    def get_feature_correlation_matrix(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, whose likelihood has no dispersion.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse("get_feature_correlation_matrix", "get_normalized_accessibility")

    def posterior_predictive_sample(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, whose module draws nothing.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse("posterior_predictive_sample", "edit(adata, strength=0)")

    def get_latent_library_size(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, whose depths are between 0 and 1.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse("get_latent_library_size", "get_library_size_factors")

    def get_marginal_ll(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, whose module can't tell.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse("get_marginal_ll", "get_elbo, or log_likelihood")

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise NotImplementedError(
            f"{what} is of models of counts, and {type(self).__name__} is one of which peaks are "
            f"open. Use {instead}."
        )
