"""What scvi-tools answers about expression, and what it can't where a likelihood has no answer."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._errors import require_keywords
from scgm_scvi.model.data._features import require_features
from scgm_scvi.model.data._groups import require_groups

from ._importance import ImportanceMixin

__all__ = ["ExpressionGettersMixin"]

_UNDISPERSED = ("poisson", "normal", "bernoulli")


class ExpressionGettersMixin(ImportanceMixin):
    """The getters of scvi-tools' ``RNASeqMixin``, which comes after it."""

    _means = "get_normalized_expression(library_size='latent')"

    def get_normalized_expression(self, *args: Any, **kwargs: Any) -> np.ndarray | pd.DataFrame:
        """As :meth:`scvi.model.SCVI.get_normalized_expression`, with its arguments.

        With ``weights="importance"`` samples are weighed by the model's own prior, see
        :meth:`get_importance_weights`.

        Raises
        ------
        ValueError
            If importance weights are asked for, and the values are no counts.
        KeyError
            If ``gene_list`` names what is no gene of the model.
        TypeError
            If it is no list, or there is no such argument.
        """
        scvi_s = super().get_normalized_expression
        takers = (scvi_s, self.get_importance_weights)
        require_keywords(kwargs, "get_normalized_expression", *takers)
        genes = inspect.signature(scvi_s).bind_partial(*args, **kwargs).arguments.get("gene_list")
        if genes is not None:
            require_features(genes, self.var_.index, "gene_list")
        if kwargs.get("weights") == "importance" and self.module.gene_likelihood == "normal":
            raise ValueError(
                "weights='importance' is for models of counts, and the model's likelihood is "
                "'normal'. Use weights=\"uniform\"."
            )
        return scvi_s(*args, **kwargs)

    def differential_expression(
        self, adata: Any = None, groupby: str | None = None, *args: Any, **kwargs: Any
    ) -> pd.DataFrame:
        """As :meth:`scvi.model.SCVI.differential_expression`, with its arguments.

        Raises
        ------
        KeyError
            If the cells have no column ``groupby``.
        ValueError
            If a group has no cells.
        """
        scvi_s = super().differential_expression
        bound = inspect.signature(scvi_s).bind_partial(adata, groupby, *args, **kwargs).arguments
        if groupby is not None and (adata is not None or self.adata is not None):
            obs = self._cells.obs(self.adata if adata is None else adata)
            require_groups(obs, groupby, bound.get("group1"), bound.get("group2"))
        return scvi_s(adata, groupby, *args, **kwargs)

    def get_likelihood_parameters(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """As :meth:`scvi.model.SCVI.get_likelihood_parameters`, of negative binomial counts.

        Raises
        ------
        ValueError
            If the likelihood has no dispersion.
        """
        self._require_dispersion("get_likelihood_parameters")
        return super().get_likelihood_parameters(*args, **kwargs)

    def get_feature_correlation_matrix(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """As :meth:`scvi.model.SCVI.get_feature_correlation_matrix`, of negative binomial counts.

        Raises
        ------
        ValueError
            If the likelihood has no dispersion.
        """
        self._require_dispersion("get_feature_correlation_matrix")
        return super().get_feature_correlation_matrix(*args, **kwargs)

    def _require_dispersion(self, method: str) -> None:
        likelihood = getattr(self.module, "gene_likelihood", "bernoulli")
        if likelihood in _UNDISPERSED:
            raise ValueError(
                f"{method} reads dispersions, which the model's likelihood ({likelihood!r}) does "
                f"not have. {self._means} gives its means."
            )
