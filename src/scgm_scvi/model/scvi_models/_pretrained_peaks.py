"""scvi's models of chromatin accessibility with a diffusion prior on their latent."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.external import POISSONVI
from scvi.model import PEAKVI
from scvi.module import VAE

from scgm_scvi.model.data._anndata_cells import AnnDataCells
from scgm_scvi.model.verbs._peak_getters import OpenPeakGettersMixin, PeakGettersMixin
from scgm_scvi.module import DiffusionPEAKVAE, DiffusionVAE

from ._placeholder import PlaceholderMixin
from ._pretrained import PretrainedMixin

__all__ = ["DiffusionPEAKVI", "DiffusionPOISSONVI", "opened"]


class OpenPeakCells(AnnDataCells):
    """Cells of which it matters only which peaks are open, as of generated ones."""

    def counts(self, manager: AnnDataManager) -> sparse.csr_matrix:
        return opened(super().counts(manager))

    def features(self, data: AnnData) -> sparse.csr_matrix:
        return opened(super().features(data))


class DiffusionPEAKVI(OpenPeakGettersMixin, PretrainedMixin, PlaceholderMixin, PEAKVI):
    """:class:`scvi.model.PEAKVI` with a diffusion prior on its latent.

    Made by :meth:`scgm_scvi.SCGM.from_scvi_model`. Stage one is scvi's, and so is :meth:`train`;
    stage two and all that it offers are those of :class:`scgm_scvi.SCGM`. The model is one of which
    peaks are open: generated counts are 0 or 1, and of other cells' counts it matters whether there
    are any. What is diffused beside the latent is the log odds of the cell's depth, a number
    between 0 and 1 that scvi infers. Normalised values are probabilities of being open, scaled to
    10,000 a cell. ``obsm["X_scgm"]`` of generated cells holds latents before scvi transforms them,
    where it does (``latent_distribution="ln"``).

    Parameters
    ----------
    adata
        Registered by :meth:`setup_anndata`.
    registry
        Of saved data, instead of ``adata``.
    denoiser_kwargs, noise
        As of :class:`scgm_scvi.SCGM`.
    **scvi_kwargs
        Of :class:`scvi.model.PEAKVI`.

    Examples
    --------
    >>> from scgm_scvi.model import DiffusionPEAKVI
    >>> DiffusionPEAKVI.setup_anndata(adata, labels_key="cell_type")  # doctest: +SKIP
    >>> model = DiffusionPEAKVI(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> model.train_diffusion()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "B"})  # doctest: +SKIP
    """

    _module_cls = DiffusionPEAKVAE
    _cells_cls = OpenPeakCells
    minified_data_type = None


class DiffusionPOISSONVI(PeakGettersMixin, PretrainedMixin, PlaceholderMixin, POISSONVI):
    """:class:`scvi.external.POISSONVI` with a diffusion prior on its latent.

    Made by :meth:`scgm_scvi.SCGM.from_scvi_model`. Stage one is scvi's, and so is :meth:`train`;
    stage two and all that it offers are those of :class:`scgm_scvi.SCGM`. Generated counts are of
    what the model was trained on, which should be fragments.

    Parameters
    ----------
    adata
        Registered by :meth:`setup_anndata`.
    registry
        Of saved data, instead of ``adata``.
    denoiser_kwargs, noise
        As of :class:`scgm_scvi.SCGM`.
    **scvi_kwargs
        Of :class:`scvi.external.POISSONVI`.

    Examples
    --------
    >>> from scgm_scvi.model import DiffusionPOISSONVI
    >>> DiffusionPOISSONVI.setup_anndata(adata, labels_key="cell_type")  # doctest: +SKIP
    >>> model = DiffusionPOISSONVI(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> model.train_diffusion()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "B"})  # doctest: +SKIP
    """

    minified_data_type = None

    @property
    def _module_cls(self) -> Any:
        """What scvi's ``__init__`` makes the module of: of PEAKVI's first, and then of VAE."""
        return self.__dict__.get("module_cls", super()._module_cls)

    @_module_cls.setter
    def _module_cls(self, kind: Any) -> None:
        self.__dict__["module_cls"] = DiffusionVAE if kind is VAE else kind


def opened(x: np.ndarray | sparse.spmatrix) -> sparse.csr_matrix:
    """Which peaks have counts, as generated cells say it."""
    return (sparse.csr_matrix(x) > 0).astype(np.float32)
