"""Train both stages from a store on disk, through a data module that is handed in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from tqdm.auto import tqdm

from scgm_scvi._errors import whole_number
from scgm_scvi._processes import gathered, process
from scgm_scvi.model.data._registry import completed_registry
from scgm_scvi.model.data._tables import held_table
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import SCGM_KEYS
from scgm_scvi.train import CachedLatents, LatentCache, units_of

from ._datamodule import TrainingDataModule
from ._encoded import MAX_DESIGN_ROWS, LatentTable, encode_minibatch
from ._stage_one import StageOneMixin, require_held_out

__all__ = ["DiskTrainingMixin", "own_registry"]

_FEWEST_STEPS, _MOST_STEPS = 12_000, 100_000
_BLOCK = 1 << 20
_SAMPLE = 10_000  # cells whose means the decoder starts from, and whose latents are looked at
_ELSEWHERE = ("strategy", "num_nodes", "enable_progress_bar")  # of the trainer, for stage two too


class DiskTrainingMixin(StageOneMixin):
    """What training needs of a data module in place of an AnnData.

    Of the data module it uses ``registry``, ``var``, ``n_steps``, ``n_val``, ``train_dataloader``
    and ``inference_dataloader``, as :class:`scgm_scvi.atlas.AtlasDataModule` has them.
    """

    @classmethod
    def setup_datamodule(cls, datamodule: TrainingDataModule) -> Mapping[str, Any]:
        """What a model must know of the cells of a data module, for ``SCGM(registry=...)``.

        It is what :meth:`setup_anndata` would have said of the same cells in memory, so that a
        model trained from disk is saved, loaded and given other cells as any other.

        Parameters
        ----------
        datamodule
            Such as :class:`scgm_scvi.atlas.AtlasDataModule`.

        Raises
        ------
        TypeError
            If it is not a data module that the model can learn from.

        Examples
        --------
        >>> model = SCGM(registry=SCGM.setup_datamodule(dm))  # doctest: +SKIP
        >>> model = SCGM(registry=dm.registry)  # the same  # doctest: +SKIP
        """
        return own_registry(getattr(datamodule, "registry", None), cls.__name__)

    def _train_from_disk(
        self,
        datamodule: TrainingDataModule,
        max_epochs: int | None,
        max_steps: int | None,
        fit: Mapping[str, Any],
        diffusion: bool,
        diffusion_kwargs: Mapping[str, Any] | None,
        early_stopping: bool,
        trainer_kwargs: dict[str, Any],
    ) -> None:
        """:meth:`train` where a data module takes the place of an AnnData."""
        self._require_fitting(datamodule)
        require_held_out(early_stopping, datamodule.n_val > 0)
        if max_steps is not None:
            max_steps = whole_number(max_steps, "max_steps")
        steps_per_epoch = datamodule.n_steps
        if max_epochs is None:
            if max_steps is None:
                max_steps = int(np.clip(20 * steps_per_epoch, _FEWEST_STEPS, _MOST_STEPS))
            max_epochs = -(-max_steps // steps_per_epoch)
        if max_steps is not None:
            trainer_kwargs["max_steps"] = max_steps
            if max_steps < steps_per_epoch:  # end with an epoch: metrics and validation are its
                trainer_kwargs.setdefault("limit_train_batches", max_steps)
        self.var_ = held_table(datamodule.var, "datamodule.var")
        if not self.is_trained_:
            self._start_from_mean_of(_first(datamodule))
        further = {k: trainer_kwargs[k] for k in _ELSEWHERE if k in trainer_kwargs}
        self._fit_stage_one(
            max_epochs=max_epochs,
            steps_per_epoch=steps_per_epoch,
            n_steps=None,
            has_validation=datamodule.n_val > 0,
            early_stopping=early_stopping,
            trainer_kwargs=trainer_kwargs,
            datamodule=datamodule,
            **fit,
        )
        if diffusion:
            own = {k: fit[k] for k in ("accelerator", "devices")}
            self.train_diffusion(
                **{"datamodule": datamodule, **own, **further, **(diffusion_kwargs or {})}
            )
        states = [self.module.encode_state(t)[0].cpu() for t in _first(datamodule)]
        self._report(self.module.split_state(torch.cat(states))[0].numpy())

    def _require_fitting(self, datamodule: TrainingDataModule) -> None:
        """Raise unless the data module's cells are those that the model is made for."""
        if self.adata is not None:
            raise ValueError(
                "The model has an AnnData in memory, so it can't be trained from a data module. "
                "Make one for that: SCGM(registry=datamodule.registry)."
            )
        registry = self.setup_datamodule(datamodule)
        mine, its = (ConditionSpec.from_registry(r) for r in (self.registry_, registry))
        genes = [
            list(r["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"])
            for r in (self.registry_, registry)
        ]
        differences = {"genes": genes[0] != genes[1]}
        for what in ("categorical", "numeric", "batch", "covariates", "numeric_covariates"):
            a, b = getattr(mine, what), getattr(its, what)
            same = list(a) == list(b)
            if same and isinstance(a, dict):
                same = all(list(a[k]) == list(b[k]) for k in a)
            differences[what.replace("_", " ")] = not same
        done, its_done = mine.perturbations, its.perturbations
        differences["perturbations"] = (
            its_done is not None if done is None else not done.equals(its_done)
        )
        wrong = [what for what, differs in differences.items() if differs]
        if wrong:
            raise ValueError(
                f"The data module's cells differ from those the model was made for in their "
                f"{', '.join(wrong)}. Give the same keys and the same store, or make a new model: "
                "SCGM(registry=datamodule.registry)."
            )

    @torch.no_grad()
    def _start_from_mean_of(self, minibatches: Iterator[dict[str, torch.Tensor]]) -> None:
        """Start the decoder at the mean expression, and the conditions at their usual values."""
        total, n, values = torch.zeros(1, dtype=torch.float64), 0, []
        for tensors in minibatches:
            x = self.module.features(tensors)
            total = total.to(x.device) + x.sum(dim=0, dtype=torch.float64)
            n += len(x)
            if SCGM_KEYS.CONDITION_VALUES_KEY in tensors:
                values.append(tensors[SCGM_KEYS.CONDITION_VALUES_KEY])
        self.module.set_mean((total / n).float().to(self.device))
        if values:
            self.module.condition_embedding.set_value_range(torch.cat(values).to(self.device))

    @contextmanager
    def _latent_table(
        self,
        seed: int,
        datamodule: TrainingDataModule | None = None,
        latent_cache: str | os.PathLike | None = None,
        progress_bar: bool = True,
    ) -> Iterator[LatentTable]:
        """The cells as stage two reads them: in memory, or for a data module on disk."""
        if datamodule is None:
            with super()._latent_table(seed) as table:
                yield table
            return
        self._require_fitting(datamodule)
        folder = (
            tempfile.TemporaryDirectory(prefix="scgm-latents-")
            if latent_cache is None
            else nullcontext(latent_cache)
        )
        train, validation = (datamodule.inference_dataloader(s) for s in ("train", "validation"))
        name = f"latents-{process()[0]}"
        with (
            folder as path,
            LatentCache(path, train.n_obs + validation.n_obs, train.n_obs, name) as cache,
        ):
            shift, scale, n_validated = self._encode_to(cache, train, validation, progress_bar)
            data = partial(
                CachedLatents,
                cache,
                shift,
                scale,
                n_validated=n_validated,
                weights=train.weights,
                is_share=process()[1] > 1,
            )
            design = _design(cache, train.weights, seed)
            yield LatentTable(data, train.n_obs, design, _met(cache))

    def _encode_to(
        self, cache: LatentCache, train: Any, validation: Any, progress_bar: bool
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Encode each cell once and set the denoiser's units; those, and how many are validated on.

        In a distributed run each process encodes, keeps and later reads a share of its own.
        """
        weights = None if train.weights is None else torch.from_numpy(train.weights)
        bar = tqdm(total=cache.n_cells, desc="Encoding", unit="cell", disable=not progress_bar)
        with bar:
            for tensors in chain(train, validation):
                mean, variance, design = encode_minibatch(self.module, tensors)
                own = slice(cache.n_done, cache.n_done + len(mean))
                cache.append(mean, variance, design, None if weights is None else weights[own])
                bar.update(len(mean))
        sums, n_lost, n_validated = zip(
            *gathered((cache.sums, cache.n_lost, validation.n_obs)), strict=True
        )
        if sum(n_lost):
            raise ValueError(
                f"{sum(n_lost)} cells of the store have no finite latent or library size: cells "
                "without counts. Leave them out of the store."
            )
        denoiser = self.module.denoiser
        shift, scale = units_of(torch.stack(sums).sum(dim=0))
        scale = scale.clamp(min=1e-4)
        denoiser.shift.copy_(shift)
        denoiser.scale.copy_(scale)
        denoiser.network.conditions.set_value_range(
            torch.from_numpy(cache.read("values", 0, cache.n_train)).to(self.device)
        )
        return shift, scale, min(n_validated)  # by all, or one process would wait for another


def own_registry(registry: Mapping[str, Any] | None, model_name: str) -> Mapping[str, Any]:
    """A data module's registry as ``setup_anndata`` would have written it; others as they are.

    Raises
    ------
    TypeError
        If a model can't learn from such a data module.
    """
    registry = registry or {"setup_method_name": "setup_datamodule", "field_registries": {}}
    if registry.get("setup_method_name") != "setup_datamodule":
        return completed_registry(registry) or registry
    fields = dict(registry["field_registries"])
    if SCGM_KEYS.CONDITIONS_KEY not in fields:
        raise TypeError(
            f"This is no data module that {model_name} can learn from: its registry has no field "
            f"{SCGM_KEYS.CONDITIONS_KEY!r}. Use scgm_scvi.atlas.AtlasDataModule."
        )
    fields.pop(REGISTRY_KEYS.LABELS_KEY, None)  # those of the conditions, which may be missing
    own = {"model_name": model_name, "setup_method_name": "setup_anndata"}
    registry = {**registry, "field_registries": fields, **own}
    return completed_registry(registry) or registry


def _first(datamodule: TrainingDataModule) -> Iterator[dict[str, torch.Tensor]]:
    """Enough minibatches of training cells for a mean."""
    n = 0
    for tensors in islice(datamodule.train_dataloader(), datamodule.n_steps):
        yield tensors
        n += len(tensors[REGISTRY_KEYS.X_KEY])
        if n >= _SAMPLE:
            return


def _design(cache: LatentCache, weights: np.ndarray | None, seed: int) -> dict[str, np.ndarray]:
    """Attributes of training cells from all over the cache, drawn as training draws them."""
    rng, n, size = np.random.default_rng(seed), cache.n_train, 64
    starts = np.arange(0, n, size).tolist()
    if n > MAX_DESIGN_ROWS:
        starts = np.sort(rng.choice(starts, MAX_DESIGN_ROWS // size, replace=False)).tolist()
    rows = np.concatenate([np.arange(i, min(i + size, n)) for i in starts])
    design = {
        key: np.concatenate([cache.read(key, i, min(i + size, n)) for i in starts])
        for key in cache.keys
    }
    if weights is not None:
        p = weights[rows].astype(np.float64)
        drawn = np.sort(rng.choice(len(rows), len(rows), p=p / p.sum()))
        design = {key: values[drawn] for key, values in design.items()}
    parts = gathered({**design, "tokens": design["tokens"].astype(np.int64)})
    return {key: np.concatenate([part[key] for part in parts]) for key in design}


def _met(cache: LatentCache) -> list[np.ndarray]:
    """Tokens of each categorical attribute that training cells have."""
    met: list[np.ndarray] = []
    for i in range(0, cache.n_train, _BLOCK):
        tokens = cache.read("tokens", i, min(i + _BLOCK, cache.n_train)).astype(np.int64)
        here = [np.unique(column) for column in tokens.T]
        met = [np.union1d(*both) for both in zip(met, here, strict=True)] if met else here
    return [np.unique(np.concatenate(parts)) for parts in zip(*gathered(met), strict=True)]
