"""MultiSCGM: latent diffusion of cells with several modalities, as an scvi-tools model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.model import MULTIVI

from scgm_scvi._errors import listed, nearest
from scgm_scvi.distributions import LIKELIHOODS
from scgm_scvi.module import MultimodalVAE
from scgm_scvi.train import SCGMTrainingPlan

from ._atacscgm import peak_likelihoods
from ._two_stage_model import TwoStageModel
from .data._mudata_cells import MuDataCells
from .data._mudata_fields import CountsField
from .data._mudata_setup import MuDataSetupMixin
from .requests._condition_tables import Conditions
from .requests._energy import Energy
from .training._disk_training import own_registry
from .verbs._differences import DifferencesMixin
from .verbs._modality_getters import ModalityGettersMixin
from .verbs._multivi_refusals import MultiviRefusalsMixin
from .verbs._translation import TranslationMixin

__all__ = ["MultiSCGM"]


class MultiSCGM(
    MuDataSetupMixin,
    TranslationMixin,
    DifferencesMixin,
    ModalityGettersMixin,
    MultiviRefusalsMixin,
    TwoStageModel,
    MULTIVI,
):
    """Score-based generative model of expression and chromatin accessibility in single cells.

    As :class:`scgm_scvi.SCGM`, of genes and peaks at once: one latent, decoded to counts of both,
    and a depth for each. Cells measured in one modality train beside those measured in both, and
    a trained model says what was not measured (:meth:`translate`). Generated cells are a MuData.

    Parameters
    ----------
    adata
        MuData registered by :meth:`setup_mudata`, or AnnData by :meth:`setup_anndata`.
    registry
        Of saved data, instead of ``adata``.
    gene_likelihood
        ``"nb"`` or ``"poisson"``.
    peak_likelihood
        ``"poisson"`` or ``"nb"``: of fragments in peaks. ``"bernoulli"``: of which peaks are open;
        counts are binarised, and generated ones are binary.
    dispersion
        Of negative binomial counts: ``"gene"``, ``"gene-label"`` or ``"gene-cell"``, as of
        :class:`scgm_scvi.SCGM`.
    n_hidden, n_latent, n_layers, dropout_rate, n_components, condition_dropout, \
    encode_covariates, denoiser_kwargs, noise, adapter_rank
        As of :class:`scgm_scvi.SCGM`.

    Raises
    ------
    ValueError
        If the peaks are binary and their likelihood is one of counts.

    Examples
    --------
    >>> from scgm_scvi import MultiSCGM
    >>> MultiSCGM.setup_mudata(mdata, labels_key="cell_type")  # doctest: +SKIP
    >>> model = MultiSCGM(mdata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "B"})  # doctest: +SKIP
    >>> peaks = model.translate(adata_rna, to="atac")  # doctest: +SKIP

    References
    ----------
    Ashuach et al. 2023, MultiVI, doi:10.1038/s41592-023-01909-9.
    """

    _module_cls = MultimodalVAE
    _cells_cls = MuDataCells
    _training_plan_cls = SCGMTrainingPlan
    minified_data_type = None
    _n_steps, _most_epochs = 6_000, 75  # longer, so many features are learnt by heart

    def __init__(
        self,
        adata: MuData | AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        gene_likelihood: str = "nb",
        peak_likelihood: str = "poisson",
        n_hidden: int = 256,
        n_latent: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        dispersion: Literal["gene", "gene-label", "gene-cell"] = "gene-cell",
        n_components: int = 64,
        condition_dropout: float = 0.1,
        encode_covariates: bool = False,
        denoiser_kwargs: dict[str, Any] | None = None,
        noise: str = "edm",
        adapter_rank: int = 0,
    ) -> None:
        registry = None if registry is None else own_registry(registry, type(self).__name__)
        # MULTIVI builds a module of its own: skip to what it inherits.
        super(MULTIVI, self).__init__(adata, registry)
        arguments = dict(locals())
        self._check_likelihoods(gene_likelihood, peak_likelihood)
        widths = [len(modality.names) for modality in self._cells.modalities]
        summary = (
            f"; {widths[0]} genes, {gene_likelihood} likelihood; {widths[1]} peaks, "
            f"{peak_likelihood} likelihood"
        )
        self._build(adata, arguments, summary, widths, [gene_likelihood, peak_likelihood])
        self.n_genes, self.n_regions, self.n_proteins = *widths, 0
        self.n_latent, self.fully_paired = n_latent, False
        self.get_normalized_function_name = "get_normalized_accessibility"

    if TYPE_CHECKING:

        def generate(  # type: ignore[override]  # in what it was set up with
            self,
            n_cells: int | None = None,
            conditions: Conditions = None,
            *,
            guidance_scale: float | Mapping[str, float] = 1.0,
            guidance_interval: tuple[float, float] | None = None,
            composition: Literal["joint", "additive"] = "joint",
            energy: Energy | None = None,
            sampler: str = "dpmpp_2m",
            n_steps: int | None = None,
            sampling_kwargs: Mapping[str, Any] | None = None,
            expression: Literal["counts", "normalized"] = "counts",
            seed: int | None = None,
            out: Any = None,
            batch_size: int | None = None,
            progress_bar: bool = True,
        ) -> MuData: ...

        def predict(  # type: ignore[override]  # in what it was set up with
            self,
            adata: MuData | AnnData,
            perturbations: str | Sequence[str] | pd.DataFrame,
            *,
            n_cells: int | None = None,
            dose: float | None = None,
            expression: Literal["counts", "normalized"] = "counts",
            seed: int | None = None,
            out: Any = None,
            batch_size: int | None = None,
            progress_bar: bool = True,
        ) -> MuData: ...

    def _check_likelihoods(self, gene_likelihood: str, peak_likelihood: str) -> None:
        peaks = peak_likelihoods()
        genes = tuple(name for name in peaks if not LIKELIHOODS[name].is_binary)
        for argument, value, known in (
            ("gene_likelihood", gene_likelihood, genes),
            ("peak_likelihood", peak_likelihood, peaks),
        ):
            if value not in known:
                raise ValueError(
                    f"{argument} is {value!r}.{nearest(value, known)} Use one of {listed(known)}."
                )
        fields = self.registry_["field_registries"]
        state = fields.get(REGISTRY_KEYS.ATAC_X_KEY, fields[REGISTRY_KEYS.X_KEY])["state_registry"]
        if state.get(CountsField.IS_BINARY_KEY) and not LIKELIHOODS[peak_likelihood].is_binary:
            raise ValueError(
                f"The peaks ({self._cells.modalities[1].key!r}) hold 0 and 1 alone: which are open, where "
                f"peak_likelihood={peak_likelihood!r} asks for fragments in peaks. Pass counts, or "
                'peak_likelihood="bernoulli".'
            )
