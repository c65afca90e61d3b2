"""SCGM's autoencoder for several modalities, such as genes and peaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE
from scvi.module._constants import MODULE_KEYS
from scvi.module.base import auto_move_data
from torch import nn
from torch.distributions import Distribution

from scgm_scvi.distributions import (
    LIKELIHOODS,
    BlockwiseDistribution,
    Likelihood,
    log_likelihood,
    modality_sums,
)
from scgm_scvi.nn import (
    ConditionEmbedding,
    ExpressionDecoder,
    MixturePrior,
    MultimodalEncoder,
    add_adapters,
)

from ._constants import FEATURE_KEYS
from ._latent_diffusion import Tensors
from ._missing_sizes import MissingSizes
from ._modality_dropout import modality_dropout_mask
from ._two_stage_vae import TwoStageVAE

__all__ = ["MultimodalVAE"]

_DISPERSION_FACTORS = 8
_MANY = 50_000  # features of a modality, from which on its decoder is narrower
_N_FACTORS = 64


class MultimodalVAE(TwoStageVAE):
    """Variational autoencoder of cells measured in one or more modalities.

    As :class:`SCGMVAE`, with a depth, a decoder and a likelihood for each modality, and one latent. A
    modality without any count in a cell was not measured in it: the encoder sees that it is absent,
    and the decoder is not asked for it. In training, modalities of cells that have several are hidden
    at random, so that the latent can be inferred from each alone; the loss is then the negative
    ELBO of what is shown.

    Parameters
    ----------
    widths
        Number of features of each modality.
    likelihoods
        For each modality a name in :data:`scgm_scvi.distributions.LIKELIHOODS`, of counts whose
        zeros are not inflated. ``"bernoulli"``: a feature is open or not, with log odds that the log
        depth (the log number of open features) is added to.
    modality_dropout
        Probability of hiding one of the modalities of a cell in training.
    dispersion
        Of negative binomial modalities: ``"gene"``, ``"gene-label"`` or ``"gene-cell"``.
    n_batch, n_hidden, n_latent, n_layers, n_continuous_cov, n_cats_per_cov, dropout_rate, \
    encode_covariates, n_conditions, n_condition_values, n_components, condition_dropout, \
    condition_width, denoiser_kwargs, noise, adapter_rank
        As in :class:`SCGMVAE`.

    Examples
    --------
    >>> from scgm_scvi.module import MultimodalVAE
    >>> module = MultimodalVAE([20, 50], ["nb", "poisson"], n_conditions=[3], n_latent=8)
    >>> module.denoiser.n_dims
    10

    References
    ----------
    Missing modalities: Wu & Goodman 2018, arXiv:1802.05335, with one encoder in place of a product of
    experts.
    """

    def __init__(
        self,
        widths: Sequence[int],
        likelihoods: Sequence[str],
        n_batch: int = 0,
        n_hidden: int = 256,
        n_latent: int = 256,
        n_layers: int = 2,
        n_continuous_cov: int = 0,
        n_cats_per_cov: Sequence[int] | None = None,
        dropout_rate: float = 0.0,
        dispersion: Literal["gene", "gene-label", "gene-cell"] = "gene-cell",
        encode_covariates: bool = False,
        n_conditions: Sequence[int] = (),
        n_condition_values: int | Sequence[int] = 0,
        n_components: int = 64,
        condition_dropout: float = 0.1,
        condition_width: int = 64,
        modality_dropout: float = 0.5,
        denoiser_kwargs: Mapping[str, Any] | None = None,
        noise: str = "edm",
        adapter_rank: int = 0,
    ) -> None:
        # VAE's own __init__ builds layers for all features: skip to what it inherits.
        super(VAE, self).__init__()
        self._widths, self.likelihoods = list(widths), list(likelihoods)
        self.n_sizes = len(self.widths)
        self.n_input, self.n_latent, self.n_batch = sum(self.widths), n_latent, n_batch
        self.n_labels, self.latent_distribution = 0, "normal"
        self.n_cats_per_cov = list(n_cats_per_cov or [])
        self.condition_dropout, self.modality_dropout = condition_dropout, modality_dropout
        self.encode_covariates, self.use_size_factor_key = encode_covariates, False
        self.dispersion, self.gene_likelihood = dispersion, self.likelihoods[0]
        categories = [n_batch, *self.n_cats_per_cov]
        shared: dict[str, Any] = {
            "n_layers": n_layers,
            "n_hidden": n_hidden,
            "dropout_rate": dropout_rate,
            "activation_fn": nn.SiLU,
        }
        self.z_encoder = MultimodalEncoder(
            self.widths,
            n_latent,
            categories if encode_covariates else None,
            n_covariates=n_continuous_cov * encode_covariates,
            **shared,
        )
        width = condition_width if n_conditions or n_condition_values else 0
        self.condition_embedding = ConditionEmbedding(n_conditions, n_condition_values, width)
        self.decoders = nn.ModuleList(
            ExpressionDecoder(
                n_latent + width + n_continuous_cov,
                n,
                n_cat_list=categories,
                n_dispersion_factors=_DISPERSION_FACTORS
                if likelihood.has_dispersion and dispersion == "gene-cell"
                else 0,
                scale_activation=likelihood.scale_activation,
                n_factors=min(n_hidden, _N_FACTORS) if n > _MANY else None,
                **shared,
            )
            for n, likelihood in zip(self.widths, self._likelihoods, strict=True)
        )
        n_dispersed = sum(self._dispersed)
        self.px_r = nn.Parameter(torch.ones(n_dispersed))
        self.px_r_shifts = nn.ModuleList()
        if dispersion in ("gene-label", "gene-cell") and n_dispersed:
            # Row 0, "unspecified", has no shift and learns none.
            self.px_r_shifts.extend(
                nn.Embedding(n + 1, n_dispersed, padding_idx=0) for n in n_conditions
            )
            for shifts in self.px_r_shifts.parameters():
                nn.init.zeros_(shifts)
        self.prior = MixturePrior(n_components, n_latent)
        self.missing_sizes = MissingSizes(n_latent, self.n_sizes)
        self.init_denoiser(
            n_latent,
            n_conditions,
            n_condition_values,
            [n_batch, *self.n_cats_per_cov],
            denoiser_kwargs,
            noise,
        )
        if adapter_rank:
            add_adapters(self, adapter_rank)

    @property
    def widths(self) -> list[int]:
        """Number of features of each modality."""
        return self._widths

    @property
    def drops_modalities(self) -> bool:
        """Whether training drops modalities."""
        return self.modality_dropout > 0 and self.n_sizes > 1

    @property
    def decoder(self) -> ExpressionDecoder:
        """The first modality's, which is the only one of a single modality."""
        return self._decoders[0]

    @property
    def _decoders(self) -> list[ExpressionDecoder]:
        return cast(list[ExpressionDecoder], list(self.decoders))

    @property
    def _likelihoods(self) -> list[Likelihood]:
        return [LIKELIHOODS[name] for name in self.likelihoods]

    @property
    def _dispersed(self) -> list[int]:
        """Number of features of each modality that have a dispersion."""
        pairs = zip(self.widths, self._likelihoods, strict=True)
        return [n if likelihood.has_dispersion else 0 for n, likelihood in pairs]

    def features(self, tensors: Tensors) -> torch.Tensor:
        """Counts ``(n, n_features)`` of all modalities; of Bernoulli ones 0 and 1."""
        parts = [tensors[k] for k in FEATURE_KEYS if k in tensors]
        return self._as_modelled(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))

    def with_features(self, tensors: Tensors, x: torch.Tensor) -> Tensors:
        """The minibatch with other counts ``(n, n_features)``, of all modalities side by side."""
        keys = [key for key in FEATURE_KEYS if key in tensors]
        parts = x.split([tensors[key].shape[1] for key in keys], dim=1)
        return {**tensors, **dict(zip(keys, parts, strict=True))}

    def measured(self, counts: torch.Tensor) -> torch.Tensor:
        """Whether a cell was measured in each modality, ``(n, n_modalities)``."""
        return torch.stack([part.any(dim=1) for part in counts.split(self.widths, dim=1)], dim=1)

    @property
    def batch_shifts(self) -> list[nn.Embedding]:
        """Log shifts of features in each batch, one table for each decoder."""
        return [decoder.batch_shifts for decoder in self._decoders]

    def set_mean(self, mean: torch.Tensor) -> None:
        """Start the decoders from mean counts of shape ``(n_features,)``."""
        for decoder, part in zip(self._decoders, mean.split(self.widths), strict=True):
            decoder.set_mean(part)

    def _get_inference_input(
        self, tensors: Tensors, full_forward_pass: bool = False
    ) -> dict[str, torch.Tensor | None]:
        return {
            MODULE_KEYS.X_KEY: self.features(tensors),
            MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
            MODULE_KEYS.CONT_COVS_KEY: tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
            MODULE_KEYS.CAT_COVS_KEY: tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        }

    @auto_move_data
    def inference(
        self,
        x: torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        n_samples: int = 1,
    ) -> dict[str, Any]:
        """Posterior of the latents of :meth:`features` ``x``, and log sizes of modalities."""
        sizes = modality_sums(x, self.widths)
        shown = sizes > 0
        if self.training and self.drops_modalities:
            shown = shown & ~modality_dropout_mask(shown, self.modality_dropout)
        categories: list[torch.Tensor] = []
        if self.encode_covariates:
            categories = [batch_index, *(() if cat_covs is None else cat_covs.split(1, dim=1))]
        qz, z = self.z_encoder(
            x, shown, *categories, covariates=cont_covs if self.encode_covariates else None
        )
        if n_samples > 1:
            z = qz.sample((n_samples,))
        return {
            MODULE_KEYS.Z_KEY: z,
            MODULE_KEYS.QZ_KEY: qz,
            MODULE_KEYS.QL_KEY: None,
            MODULE_KEYS.LIBRARY_KEY: sizes.clamp(min=1).log(),
            "shown": shown,
            "counts": x,
        }

    def encode_state(self, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance ``(n, n_latent + n_sizes)`` of states; unknown log sizes as expected."""
        mean, variance = super().encode_state(tensors)
        if self.n_sizes == 1:
            return mean, variance
        measured = self.measured(self.features(tensors)).to(mean.device)
        return self.completed(mean, variance, measured)

    def completed(
        self, mean: torch.Tensor, variance: torch.Tensor, measured: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments of states with the log sizes of modalities that were not ``measured`` filled in."""
        (latent, sizes), spread = self.split_state(mean), self.split_state(variance)[0]
        sizes, unknown = self.missing_sizes(latent, sizes, measured)
        return torch.cat([latent, sizes], dim=1), torch.cat([spread, unknown], dim=1)

    def _as_modelled(self, x: torch.Tensor) -> torch.Tensor:
        """The counts, but for binary modalities, of which it matters only what is open."""
        likelihoods = self._likelihoods
        if not any(likelihood.is_binary for likelihood in likelihoods):
            return x
        pairs = zip(x.split(self.widths, dim=1), likelihoods, strict=True)
        return torch.cat([likelihood.as_modelled(part) for part, likelihood in pairs], dim=1)

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        size_factor: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        transform_batch: torch.Tensor | None = None,
    ) -> dict[str, Distribution | None]:
        """Decode latents ``z`` ``(..., n, n_latent)`` at log sizes ``library`` ``(n, n_modalities)``."""
        if transform_batch is not None:
            batch_index = torch.ones_like(batch_index) * transform_batch
        decoder_input, tokens = self._decoder_input(z, cont_covs, tokens, values)
        covariates = () if cat_covs is None else torch.split(cat_covs, 1, dim=1)
        log_dispersions = self.px_r
        for j, table in enumerate(self.px_r_shifts):
            log_dispersions = log_dispersions + table(tokens[:, j])
        log_dispersions = log_dispersions.split(self._dispersed, dim=-1)
        likelihoods, training = self._likelihoods, self.training

        def part(j: int) -> Distribution:
            decoder = self._decoders[j]
            before = decoder.training
            decoder.train(training)  # as when it was asked for
            scale, shift, rate, _ = decoder(
                decoder_input, library[..., j : j + 1], batch_index, *covariates
            )
            decoder.train(before)
            theta = None
            if likelihoods[j].has_dispersion:
                theta = (log_dispersions[j] if shift is None else log_dispersions[j] + shift).exp()
            return likelihoods[j].distribution(rate, scale, theta)

        if self.n_sizes == 1:
            px = part(0)
        else:
            makers = [partial(part, j) for j in range(self.n_sizes)]
            px = BlockwiseDistribution(makers, self.widths, z.shape[:-1])
        return {MODULE_KEYS.PX_KEY: px, MODULE_KEYS.PL_KEY: None, MODULE_KEYS.PZ_KEY: None}

    def _reconstruction(
        self, tensors: Tensors, inference_outputs: dict[str, Any], px: Distribution
    ) -> torch.Tensor:
        """Of the modalities that are shown."""
        parts = px.parts if isinstance(px, BlockwiseDistribution) else (px,)
        counts = inference_outputs["counts"].split(self.widths, dim=1)
        pairs = list(zip(parts, counts, strict=True))
        if inference_outputs[MODULE_KEYS.Z_KEY].dim() == 2:
            each = [-log_likelihood(p, x) for p, x in pairs]
        else:  # several samples of each cell
            each = [-p.log_prob(x).sum(-1) for p, x in pairs]
        return sum(r * s for r, s in zip(each, inference_outputs["shown"].T, strict=True))
