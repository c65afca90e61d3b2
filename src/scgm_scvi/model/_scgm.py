"""SCGM: latent diffusion of single cells, as an scvi-tools model."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.model import SCVI

from scgm_scvi._errors import whole_number
from scgm_scvi.module import SCGMVAE
from scgm_scvi.train import SCGMTrainingPlan

from ._diagnostics import DiagnosticsMixin
from ._disk_training import DiskTrainingMixin, own_registry
from ._fine_tuning import FINE_TUNING_STEPS, FineTuningMixin
from ._from_scvi import FromSCVIMixin
from ._latent_diffusion_model import LatentDiffusionModel
from ._replaying import ReplayMixin
from ._setup import SetupMixin
from ._stage_one import StageOneMixin
from ._transfer import TransferMixin

__all__ = ["SCGM"]

_STEPS = 12_000


class SCGM(
    SetupMixin,
    TransferMixin,
    FineTuningMixin,
    ReplayMixin,
    FromSCVIMixin,
    DiskTrainingMixin,
    LatentDiffusionModel,
    DiagnosticsMixin,
    StageOneMixin,
    SCVI,
):
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
        ``"nb"``, ``"zinb"``, ``"poisson"``, or ``"normal"`` for log-normalised input.
    n_components
        Number of Gaussians in stage one's prior.
    condition_dropout
        Probability of leaving a condition unspecified while stage one trains.
    encode_covariates
        Whether the encoder sees batch and covariates too.
    diffusion_kwargs
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
        registry: dict | None = None,
        n_hidden: int = 256,
        n_latent: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene-cell",
        gene_likelihood: Literal["nb", "zinb", "poisson", "normal"] = "nb",
        n_components: int = 64,
        condition_dropout: float = 0.1,
        encode_covariates: bool = False,
        diffusion_kwargs: dict[str, Any] | None = None,
        noise: str = "edm",
        adapter_rank: int = 0,
        n_memory: int = 0,
    ) -> None:
        registry = None if registry is None else own_registry(registry, type(self).__name__)
        # SCVI's own __init__ builds its own module: skip to what it inherits.
        super(SCVI, self).__init__(adata, registry)
        arguments = dict(locals())
        self._check_likelihood(gene_likelihood)
        spec = self.condition_spec
        setup = self.registry_["setup_args"]
        self.module = self._module_cls(
            n_input=self.summary_stats.n_vars,
            n_batch=self.summary_stats.n_batch,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            n_continuous_cov=len(spec.numeric_covariates),
            n_cats_per_cov=[len(c) for c in spec.covariates.values()] or None,
            dropout_rate=dropout_rate,
            dispersion=dispersion,
            gene_likelihood=gene_likelihood,
            encode_covariates=encode_covariates,
            use_size_factor_key=bool(setup.get("size_factor_key")),
            n_conditions=[len(c) for c in spec.categorical.values()],
            n_condition_values=len(spec.continuous),
            n_components=n_components,
            condition_dropout=condition_dropout,
            diffusion_kwargs=diffusion_kwargs,
            noise=noise,
            adapter_rank=adapter_rank,
            n_memory=n_memory,
        )
        self.module.minified_data_type = self.minified_data_type
        self.var_ = adata.var.copy() if adata is not None else pd.DataFrame(index=_genes(registry))
        self.scgm_version_ = version("scgm_scvi")
        self._model_summary_string = (
            f"SCGM: {n_latent} latent dimensions, {n_layers} x {n_hidden} hidden, "
            f"{gene_likelihood} likelihood, {dispersion} dispersion; conditions: "
            f"{', '.join([*spec.categorical, *spec.continuous]) or 'none'}."
        )
        self.init_params_ = self._get_init_params(arguments)

    def _check_likelihood(self, gene_likelihood: str) -> None:
        known = ("nb", "zinb", "poisson", "normal")
        if gene_likelihood not in known:
            raise ValueError(f"gene_likelihood is {gene_likelihood!r}; use one of {known}.")
        is_count_data = self.registry_["setup_args"].get("is_count_data", True)
        if is_count_data == (gene_likelihood == "normal"):
            raise ValueError(
                f"gene_likelihood is {gene_likelihood!r}, but setup_anndata was told "
                f"is_count_data={is_count_data}. Counts go with 'nb', 'zinb' or 'poisson'; "
                "log-normalised values with 'normal'."
            )

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 128,
        early_stopping: bool = False,
        plan_kwargs: dict[str, Any] | None = None,
        diffusion: bool = True,
        diffusion_kwargs: dict[str, Any] | None = None,
        datamodule: Any = None,
        max_steps: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages, and write the latent means to ``adata.obsm["X_scgm"]``.

        Parameters
        ----------
        max_epochs
            Of stage one. Default: as many as make 12,000 steps, between 20 and 400. With a
            ``datamodule``: 20, or as many as make 12,000 steps, but not more than 100,000 steps.
        accelerator, devices, train_size, validation_size, shuffle_set_split, batch_size
            As in :meth:`scvi.model.SCVI.train`.
        early_stopping
            Stop stage one when held-out cells stop improving, and keep the (moving average of
            the) weights that were best for them after the first quarter of the schedule. Off by
            default: the likelihood of held-out cells is best long before the decoder has learnt
            the spread of cells within a type, and cells generated from the end of the schedule
            are harder to tell from real ones.
        plan_kwargs
            Passed to :class:`scgm_scvi.train.SCGMTrainingPlan`.
        diffusion
            Whether to go on with stage two.
        diffusion_kwargs
            Passed to :meth:`train_diffusion`.
        datamodule
            Where a model that was made without an AnnData finds its cells, such as
            :class:`scgm_scvi.atlas.AtlasDataModule`. It says which cells train, and how many are in
            a minibatch; latents are not written anywhere.
        max_steps
            Optimiser steps of stage one, at most.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`, for stage one.

        Raises
        ------
        ValueError
            If there are no cells to train on, or two kinds of them.

        Examples
        --------
        >>> model.train()  # doctest: +SKIP
        >>> model.train(max_epochs=50, diffusion_kwargs={"max_steps": 2000})  # doctest: +SKIP
        >>> SCGM(registry=dm.registry).train(datamodule=dm)  # doctest: +SKIP
        """
        fit = {"accelerator": accelerator, "devices": devices, "plan_kwargs": plan_kwargs}
        if datamodule is not None:
            split = {"train_size": train_size, "validation_size": validation_size}
            if given := [name for name, value in split.items() if value is not None]:
                raise ValueError(f"{' and '.join(given)}: the data module says which cells train.")
            self._train_from_disk(
                datamodule,
                max_epochs,
                max_steps,
                fit,
                diffusion,
                diffusion_kwargs,
                early_stopping,
                trainer_kwargs,
            )
            return
        if self.adata is None:
            raise ValueError(
                "The model has no cells to train on. Load it with an AnnData, or pass the data "
                "module that it was made for: model.train(datamodule=...)."
            )
        steps_per_epoch = max(1, round((train_size or 0.9) * self.adata.n_obs / batch_size))
        if max_epochs is None:
            n_steps = _STEPS if self.fine_tuning_ is None else FINE_TUNING_STEPS
            max_epochs = int(np.clip(round(n_steps / steps_per_epoch), 20, 400))
        if self.fine_tuning_ is not None:
            fit["plan_kwargs"] = {**self._begin_stage_one(seed=0), **(plan_kwargs or {})}
        elif not self.is_trained_:
            self._start_from_mean()
        n_steps = max_epochs * steps_per_epoch
        if max_steps is not None:
            trainer_kwargs["max_steps"] = whole_number(max_steps, "max_steps")
            n_steps = min(n_steps, max_steps)
        self._fit_stage_one(
            max_epochs=max_epochs,
            steps_per_epoch=steps_per_epoch,
            n_steps=n_steps,
            has_validation=train_size != 1 and validation_size != 0,
            early_stopping=early_stopping,
            trainer_kwargs=trainer_kwargs,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            batch_size=batch_size,
            **fit,
        )
        if diffusion:
            self.train_diffusion(
                **{"accelerator": accelerator, "devices": devices, **(diffusion_kwargs or {})}
            )
        self._replay = None
        latent = self.get_latent_representation()
        self.adata.obsm[self.latent_key] = latent
        self._report(latent)


def _genes(registry: dict[str, Any]) -> np.ndarray:
    """Names of the features, where there are no cells."""
    state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    return np.asarray(state["column_names"])
