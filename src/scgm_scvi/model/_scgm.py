"""SCGM: latent diffusion of single cells, as an scvi-tools model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from anndata import AnnData
from scvi.model import SCVI

from scgm_scvi._errors import listed
from scgm_scvi.distributions import LIKELIHOODS
from scgm_scvi.module import SCGMVAE
from scgm_scvi.train import SCGMTrainingPlan

from ._two_stage_model import TwoStageModel
from .scvi_models._from_scvi import FromSCVIMixin
from .training._disk_training import own_registry
from .verbs._expression_getters import ExpressionGettersMixin

__all__ = ["SCGM"]


class SCGM(FromSCVIMixin, ExpressionGettersMixin, TwoStageModel, SCVI):
    """Score-based generative model of single cells.

    Stage one, a variational autoencoder, compresses counts to a latent and decodes it to a count
    distribution. Stage two, a diffusion model, learns the distribution of latents given cell type
    and any other attribute. All that :class:`scvi.model.SCVI` offers works too.

    Parameters
    ----------
    adata
        Registered by :meth:`setup_anndata`.
    registry
        Of a data module such as :class:`scgm_scvi.atlas.AtlasDataModule`, instead of ``adata``.
    n_hidden
        Width of the encoder's and decoder's hidden layers.
    n_latent
        Number of latent dimensions.
    n_layers
        Number of hidden layers.
    dropout_rate
        Dropout in encoder and decoder. None by default: the dispersions would make up for the
        noise that dropout adds in training, and cells are generated without that noise.
    dispersion
        ``"gene"``, ``"gene-batch"``: one per gene (and batch), as in :class:`scvi.model.SCVI`;
        ``"gene-label"``: one per gene, shifted by each condition; ``"gene-cell"``: shifted further
        by a few factors decoded from the latent. How a gene varies between cells of one state
        differs between states and assays, and a classifier sees it.
    gene_likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"``, or ``"normal"`` for log-normalised input; or another
        of :data:`scgm_scvi.distributions.LIKELIHOODS` that is not binary.
    n_components
        Number of Gaussians in stage one's prior.
    condition_dropout
        Probability of leaving a condition unspecified while stage one trains.
    encode_covariates
        Whether the encoder sees batch and covariates too.
    denoiser_kwargs
        Of the denoiser's network: ``n_hidden``, ``n_layers``, ``dropout_rate``, see
        :class:`scgm_scvi.nn.ScoreNetwork`.
    noise
        Noise process that stage two is trained on, a name in
        :data:`scgm_scvi.diffusion.NOISE_PROCESSES`: ``"edm"``, ``"ve"``, ``"vp"`` or ``"sub_vp"``.
        Whichever it is, every sampler and every grid can be used with the model.
    adapter_rank
        Rank of the adapters that :meth:`load_query_data` adds in mode ``"adapter"``; 0: none.
    n_memory
        Cells that :meth:`load_query_data` has the encoder remember, to fill in features that a query
        lacks; 0: none.

    Examples
    --------
    >>> import scgm_scvi
    >>> adata = scgm_scvi.datasets.pbmc68k()
    >>> scgm_scvi.SCGM.setup_anndata(adata, labels_key="cell_type")
    >>> model = scgm_scvi.SCGM(adata)
    >>> model.train()  # doctest: +SKIP
    >>> cells = model.generate(100, {"cell_type": "CD19+ B"})  # doctest: +SKIP
    """

    _module_cls = SCGMVAE
    _training_plan_cls = SCGMTrainingPlan

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        n_hidden: int = 256,
        n_latent: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene-cell",
        gene_likelihood: str = "nb",
        n_components: int = 64,
        condition_dropout: float = 0.1,
        encode_covariates: bool = False,
        denoiser_kwargs: dict[str, Any] | None = None,
        noise: str = "edm",
        adapter_rank: int = 0,
        n_memory: int = 0,
    ) -> None:
        registry = None if registry is None else own_registry(registry, type(self).__name__)
        # SCVI's own __init__ builds its own module: skip to what it inherits.
        super(SCVI, self).__init__(adata, registry)
        arguments = dict(locals())
        self._check_likelihood(gene_likelihood)
        self._build(
            adata,
            arguments,
            f", {gene_likelihood} likelihood, {dispersion} dispersion",
            self.summary_stats.n_vars,
            gene_likelihood=gene_likelihood,
            use_size_factor_key=bool(self.registry_["setup_args"].get("size_factor_key")),
        )
        self.module.minified_data_type = self.minified_data_type

    def _check_likelihood(self, gene_likelihood: str) -> None:
        known = tuple(name for name, kind in LIKELIHOODS.items() if not kind.is_binary)
        if gene_likelihood not in known:
            raise ValueError(f"gene_likelihood is {gene_likelihood!r}; use one of {known}.")
        is_count_data = self.registry_["setup_args"].get("is_count_data", True)
        if is_count_data != LIKELIHOODS[gene_likelihood].is_counts:
            counts = [name for name in known if LIKELIHOODS[name].is_counts]
            values = [name for name in known if name not in counts]
            raise ValueError(
                f"gene_likelihood is {gene_likelihood!r}, but setup_anndata was told "
                f"is_count_data={is_count_data}. Counts go with {_either(counts)}; "
                f"log-normalised values with {_either(values)}."
            )


def _either(names: Sequence[str]) -> str:
    return " or ".join(listed(names).rsplit(", ", 1))
