"""What trains when a trained model meets other data, and what keeps it from forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import nn

from scgm_scvi.model._batch_sizes import default_batch_size
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import CategoryCounts, new_entries, only_trained
from scgm_scvi.nn import merge_adapters
from scgm_scvi.train import Replay

from ._diffusion import LatentDiffusionMixin
from ._encoded import Encoded, LatentTable
from ._fingerprint import stage_one_fingerprint
from ._replaying import generate_replay

__all__ = ["FINE_TUNING_STEPS", "MODES", "FineTuningMixin", "category_counts"]

MODES = ("full", "adapter", "surgery")
FINE_TUNING_STEPS, _DIFFUSION_STEPS = 1_000, 3_000
_LR = {"full": 3e-3, "adapter": 1e-2, "surgery": 1e-2}
_DIFFUSION_LR = dict.fromkeys(MODES, 5e-3)
_DISPERSION_LR_FACTOR = 3.0  # dispersions begin where they should be, and need not run ahead


class FineTuningMixin(LatentDiffusionMixin):
    """Both stages of fine-tuning, as ``fine_tuning_`` says.

    Needs a :class:`scgm_scvi.module.SCGMVAE`.
    """

    _replay: Replay | None = None

    @property
    def _tuning(self) -> dict[str, Any]:
        """How the model was made of another."""
        return self.fine_tuning_ or {}

    def merge_adapters(self) -> None:
        """Make the adapters one with the weights beside them: a model as any other.

        Nothing that the model computes changes, but for rounding; it can be fine-tuned again.

        Examples
        --------
        >>> query.merge_adapters()  # doctest: +SKIP
        """
        is_fresh = self.is_diffusion_trained
        merge_adapters(self.module)
        self._set_adapter_rank(0)
        self.fine_tuning_ = None
        if is_fresh:
            self.fitted_["fingerprint"] = stage_one_fingerprint(self.module)

    def _set_adapter_rank(self, rank: int) -> None:
        self.init_params_["non_kwargs"]["adapter_rank"] = rank

    def _new_entries(self) -> dict[str, torch.Tensor]:
        """Masks of what belongs to categories that the reference did not have."""
        known = CategoryCounts(**self._tuning["known"])
        return new_entries(self.module, known, category_counts(self.condition_spec))

    @property
    def _starts_from_reference(self) -> bool:
        """Whether stage two starts from a denoiser that is trained."""
        return self.fine_tuning_ is not None and self._tuning["has_denoiser"]

    @contextmanager
    def _trainable(self, part: nn.Module, prefix: str = "") -> Iterator[None]:
        """Within it ``part`` of the module trains what the mode of fine-tuning says."""
        if self.fine_tuning_ is None or (prefix and not self._starts_from_reference):
            yield
            return
        for shifts in self.module.batch_shifts:
            shifts.requires_grad_(True)
        try:
            if self._tuning["mode"] == "full":
                yield
                return
            own = dict(part.named_parameters())
            new = {k.removeprefix(prefix): v for k, v in self._new_entries().items()}
            new = {k: v for k, v in new.items() if k in own}
            with only_trained(part, new, adapters=self._tuning["mode"] == "adapter"):
                yield
        finally:
            for shifts in self.module.batch_shifts:
                shifts.requires_grad_(False)

    @torch.no_grad()
    def _start_new_batches(self) -> None:
        """Shift each feature in each new batch by what the reference gets wrong of it on average."""
        tables, module = [shifts.weight for shifts in self.module.batch_shifts], self.module
        n_known = self._tuning["known"]["nuisances"][0]
        observed, expected = torch.zeros_like(torch.cat(tables, dim=1)).repeat(2, 1, 1)
        size = default_batch_size(observed.shape[1])
        for tensors in self._make_data_loader(adata=self.adata, batch_size=size):
            batch = tensors[REGISTRY_KEYS.BATCH_KEY].ravel().long().to(observed.device)
            x = module.features(tensors).to(observed.device)
            mean = module.decode_state(module.encode_state(tensors)[0], tensors).mean
            observed.index_add_(0, batch, x)
            parts = x.split(module.widths, dim=1)
            known = [part.any(dim=1, keepdim=True).expand_as(part) for part in parts]
            expected.index_add_(0, batch, mean * torch.cat(known, dim=1))
        change = torch.log((observed + 1) / (expected + 1))[n_known:]
        for table, part in zip(tables, change.split(module.widths, dim=1), strict=True):
            table[n_known:] += part

    def _require_diffusion(self) -> None:
        if self.fine_tuning_ is not None and not self.is_trained_:
            raise RuntimeError(
                "The model was made for a query and is not fine-tuned yet. Call model.train()."
            )
        super()._require_diffusion()

    def _met(self, table: LatentTable) -> dict[str, np.ndarray]:
        met = super()._met(table)
        known = self.fitted_.get("met")
        if not self._starts_from_reference or known is None:
            return met
        # what the reference met is known still: new categories come after its own
        return {k: np.union1d(v, known.get(k, v)) for k, v in met.items()}

    def _diffusion_defaults(self, n_cells: int, batch_size: int) -> tuple[int, dict[str, float]]:
        if self._starts_from_reference:
            return _DIFFUSION_STEPS, self._plan(_DIFFUSION_LR)
        return super()._diffusion_defaults(n_cells, batch_size)

    def _plan(self, rates: dict[str, float]) -> dict[str, float]:
        """Learning rate of the mode; no decay where most weights are to stay as they are."""
        mode = self._tuning["mode"]
        return {"lr": rates[mode], **({} if mode == "full" else {"weight_decay": 0.0})}

    def _begin_stage_one(self, seed: int) -> dict[str, Any]:
        """Remember the reference before it changes; what the training plan takes."""
        f = self._tuning
        self._replay = generate_replay(self.prior, f["replay"], seed) if f["replay"] else None
        if not self.is_trained_ and self.registry_["setup_args"].get("is_count_data", True):
            self._start_new_batches()
        factor = {"dispersion_lr_factor": _DISPERSION_LR_FACTOR}
        return {"replay": self._replay, **factor, **self._plan(_LR)}

    def _begin_diffusion(
        self, cells: Encoded, train: np.ndarray, seed: int
    ) -> tuple[Encoded, np.ndarray]:
        """The cells with replayed ones after them; units stay those of the reference."""
        if not self._starts_from_reference:
            return super()._begin_diffusion(cells, train, seed)
        design = {**cells.design, "replayed": np.zeros(len(cells.mean), dtype=bool)}
        if not (ratio := self._tuning["replay"]):
            return Encoded(cells.mean, cells.variance, design), train
        replay = self._replay or generate_replay(self.prior, ratio, seed)
        tokens, values = self.module.denoiser_conditions(replay.tensors)
        n, numeric = len(replay), replay.tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)
        old = {
            "tokens": tokens.numpy(),
            "values": values.numpy(),
            "numeric": np.zeros((n, 0), np.float32) if numeric is None else numeric.float().numpy(),
            "replayed": np.ones(n, dtype=bool),
        }
        both = Encoded(
            torch.cat([cells.mean, replay.state]),
            torch.cat([cells.variance, torch.zeros_like(replay.state)]),  # these are samples
            {k: np.concatenate([v, old[k]]) for k, v in design.items()},
        )
        n_times = max(1, round(len(replay) / (ratio * len(train))))
        rows = np.arange(len(cells.mean), len(both.mean))
        return both, np.concatenate([np.tile(train, n_times), rows])


def category_counts(spec: ConditionSpec) -> CategoryCounts:
    """How many categories the attributes of a model have."""
    return CategoryCounts(
        nuisances=[len(c) for c in spec.nuisances.values()],
        conditions=[len(c) for c in spec.categorical.values()],
    )
