"""What MULTIVI answers about cells, with the names of features from the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from scgm_scvi.model.data._reading import Reading

from ._differences import DifferencesMixin
from ._modality_reading import Cells
from ._multivi_refusals import MultiviRefusalsMixin
from ._refusals import refused

__all__ = ["MultiviGettersMixin"]


class MultiviGettersMixin(MultiviRefusalsMixin, DifferencesMixin):
    """The getters of :class:`scvi.model.MULTIVI`, which comes after it, with their arguments.

    scvi-tools takes the first modality of a MuData for the genes and the second for the peaks, and
    wants all of them; here they are what the model was set up with, in any order, or some of them.
    """

    def get_latent_representation(
        self, adata: Cells = None, *args: Any, **kwargs: Any
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """As :meth:`scvi.model.MULTIVI.get_latent_representation`."""
        with self._in_order(adata, self._unseen_by_encoder()) as cells:
            return super().get_latent_representation(cells, *args, **kwargs)

    def get_library_size_factors(
        self, adata: Cells = None, *args: Any, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """As :meth:`scvi.model.MULTIVI.get_library_size_factors`."""
        with self._in_order(adata, self._unseen_by_encoder()) as cells:
            return super().get_library_size_factors(cells, *args, **kwargs)

    def get_normalized_expression(
        self, adata: Cells = None, *args: Any, **kwargs: Any
    ) -> np.ndarray | pd.DataFrame:
        """As :meth:`scvi.model.MULTIVI.get_normalized_expression`."""
        with self._in_order(adata) as cells:
            return super().get_normalized_expression(cells, *args, **kwargs)

    def get_normalized_accessibility(
        self, adata: Cells = None, *args: Any, **kwargs: Any
    ) -> np.ndarray | sparse.csr_matrix | pd.DataFrame:
        """As :meth:`scvi.model.MULTIVI.get_normalized_accessibility`."""
        with self._in_order(adata) as cells:
            return super().get_normalized_accessibility(cells, *args, **kwargs)

    get_marginal_ll = refused(
        ", whose module can't tell",
        "MULTIVI's module has no marginal likelihood. Use get_elbo, or log_likelihood.",
    )

    @contextmanager
    def _in_order(self, adata: Cells, ignored: Sequence[str] = ()) -> Iterator[MuData]:
        reading = Reading([*self._absent(adata), *ignored], afresh=True)
        with self._registered(adata, reading) as cells:
            yield cells
