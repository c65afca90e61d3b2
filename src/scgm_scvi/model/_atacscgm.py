"""ATACSCGM: latent diffusion of chromatin accessibility, as an scvi-tools model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.external import POISSONVI
from scvi.model import PEAKVI

from scgm_scvi._errors import listed, nearest
from scgm_scvi.distributions import LIKELIHOODS
from scgm_scvi.module import MultimodalVAE
from scgm_scvi.train import SCGMTrainingPlan

from ._two_stage_model import TwoStageModel
from .training._disk_training import own_registry
from .verbs._peak_getters import PeakGettersMixin

__all__ = ["ATACSCGM", "check_peaks", "peak_likelihoods"]

_FEW_ODD = 0.2  # share of odd numbers among counts, below which they are of both ends of fragments


class ATACSCGM(PeakGettersMixin, TwoStageModel, POISSONVI):
    """Score-based generative model of chromatin accessibility in single cells.

    As :class:`scgm_scvi.SCGM`, of peaks in place of genes: stage one decodes a latent to fragments
    in peaks, or to which peaks are open; stage two, and every verb, are the same. Matrices stay
    sparse but for a minibatch at a time, so that 100,000 peaks and more need no selection.

    Parameters
    ----------
    adata
        Registered by :meth:`setup_anndata`: cells by peaks.
    registry
        Of saved data, instead of ``adata``.
    peak_likelihood
        ``"poisson"``: of fragments in peaks, as :class:`scvi.external.POISSONVI`. ``"nb"``: the
        same, with a dispersion for each peak. ``"bernoulli"``: of which peaks are open, as
        :class:`scvi.model.PEAKVI`; counts are binarised, and generated cells are binary.
    n_hidden, n_latent, n_layers, dropout_rate, n_components, condition_dropout, \
    encode_covariates, denoiser_kwargs, noise, adapter_rank
        As of :class:`scgm_scvi.SCGM`.

    Raises
    ------
    ValueError
        If the data are binary and the likelihood is one of counts.

    Examples
    --------
    >>> from scgm_scvi import ATACSCGM
    >>> ATACSCGM.setup_anndata(atac, labels_key="cell_type")  # doctest: +SKIP
    >>> model = ATACSCGM(atac)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "B"})  # doctest: +SKIP

    References
    ----------
    Martens et al. 2024, doi:10.1038/s41592-023-02112-6 (fragments);
    Ashuach et al. 2022, doi:10.1016/j.crmeth.2022.100182 (PeakVI).
    """

    _module_cls = MultimodalVAE
    _training_plan_cls = SCGMTrainingPlan
    minified_data_type = None
    _n_steps, _most_epochs = 6_000, 75  # longer, so many features are learnt by heart

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        peak_likelihood: str = "poisson",
        n_hidden: int = 256,
        n_latent: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        n_components: int = 64,
        condition_dropout: float = 0.1,
        encode_covariates: bool = False,
        denoiser_kwargs: dict[str, Any] | None = None,
        noise: str = "edm",
        adapter_rank: int = 0,
    ) -> None:
        registry = None if registry is None else own_registry(registry, type(self).__name__)
        # POISSONVI and PEAKVI build modules of their own: skip to what they inherit.
        super(PEAKVI, self).__init__(adata, registry)
        arguments = dict(locals())
        self._check_setup(peak_likelihood)
        summary = f", {peak_likelihood} likelihood"
        self._build(adata, arguments, summary, [self.summary_stats.n_vars], [peak_likelihood])
        self.get_normalized_function_name = "get_normalized_accessibility"

    def _check_setup(self, peak_likelihood: str) -> None:
        setup = self.registry_["setup_args"]
        for key, remedy in {
            "size_factor_key": "depth is modelled with the latent",
            "is_count_data": "accessibility is of counts, or of 0 and 1",
        }.items():
            if setup.get(key) not in (None, True):
                raise ValueError(
                    f"setup_anndata was given {key}={setup[key]!r}, which {type(self).__name__} "
                    f"has no use for: {remedy}. Leave it out."
                )
        x = None
        if self.adata is not None:
            x = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        place = f"layer {setup['layer']!r}" if setup.get("layer") else "adata.X"
        check_peaks(x, peak_likelihood, place)


def peak_likelihoods() -> tuple[str, ...]:
    """Names of the likelihoods that peaks can have."""
    return tuple(n for n, kind in LIKELIHOODS.items() if kind.is_counts and not kind.zero_inflated)


def check_peaks(x: np.ndarray | sparse.spmatrix | None, likelihood: str, place: str) -> None:
    """Check that a matrix of peaks goes with a likelihood.

    Parameters
    ----------
    x
        Cells by peaks; ``None`` if there is none.
    place
        Where it is from, for messages.

    Raises
    ------
    ValueError
        If the likelihood is unknown, or one of counts while the matrix holds 0 and 1 alone.

    Warns
    -----
    UserWarning
        If counts look like those of reads, two a fragment.
    """
    known = peak_likelihoods()
    if likelihood not in known:
        raise ValueError(
            f"peak_likelihood is {likelihood!r}.{nearest(likelihood, known)} "
            f"Use one of {listed(known)}."
        )
    if x is None or LIKELIHOODS[likelihood].is_binary:
        return
    values: Any = x.data if sparse.issparse(x) else np.asarray(x).ravel()
    values = values[values > 0]
    if len(values) and values.max() <= 1:
        raise ValueError(
            f"{place} holds 0 and 1 alone: which peaks are open, where peak_likelihood="
            f"{likelihood!r} asks for fragments in peaks. Pass counts, or "
            'peak_likelihood="bernoulli".'
        )
    if len(values) and (values % 2 == 1).mean() < _FEW_ODD:
        warnings.warn(
            f"Most counts in {place} are even, as of reads or of cuts, of which a fragment has "
            "two; the model is one of fragments. Convert them: "
            "scvi.data.reads_to_fragments(adata).",
            UserWarning,
            stacklevel=3,
        )
