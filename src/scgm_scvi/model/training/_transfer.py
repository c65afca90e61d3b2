"""Fine-tune a trained model on other data."""

from __future__ import annotations

import copy
import os
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from torch import nn

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.model._log import logger
from scgm_scvi.model.data._features import FeatureReport
from scgm_scvi.module import SCGM_KEYS, CategoryCounts, grow
from scgm_scvi.nn import FeatureFill, add_adapters, merge_adapters

from ._fine_tuning import MODES, FineTuningMixin, category_counts
from ._replaying import generate_replay

__all__ = ["TransferMixin"]

_N_MEMORY = 1_000  # cells that the encoder remembers where features are missing
_N_VARIABLE = 200  # the most variable features, of which the report names those that are missing


class TransferMixin(FineTuningMixin):
    """Start from a trained model instead of from nothing."""

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: Any,
        *,
        mode: Literal["full", "adapter", "surgery"] = "full",
        adapter_rank: int = 6,
        replay: float = 1.0,
        min_shared: float = 0.5,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """A model of other data that starts from a trained one; ``train()`` then fine-tunes it.

        The query may have new batches, cell types and categories of any condition or covariate;
        a condition whose column it lacks is unspecified. Features that it lacks are zeros, features
        beyond those of the reference are dropped; how many, and which of the most variable are
        missing, is logged and kept in ``fine_tuning_``.

        Parameters
        ----------
        adata
            The query: raw counts where the reference had them, with columns of the same names. It
            is registered as it is if it has the reference's features in their order; else the model
            gets a copy, ``model.adata``.
        reference_model
            A trained model, or the folder it was saved to. It is not changed, and needs no data:
            one that is minified, or was loaded without data, will do.
        mode
            What :meth:`train` trains. ``"full"``: all weights. ``"adapter"``: low-rank adapters
            beside every linear layer of encoder, decoder and denoiser, and the weights of new
            categories: a few percent; :meth:`merge_adapters` makes them one with the others.
            ``"surgery"``: only the weights of new categories (scArches); the latents of cells are
            those that the reference gives them.
        adapter_rank
            Rank of the adapters.
        replay
            How many cells of the reference are trained on for each cell of the query, so that what
            was learnt is not forgotten. The reference generates them: its data are not needed.
            0: none.
        min_shared
            Least share of the reference's features that the query must have.
        accelerator, device
            As in :meth:`scvi.model.SCVI.load_query_data`.

        Returns
        -------
        Model of the query. It generates once it is trained.

        Raises
        ------
        TypeError
            If the reference is a model of another class, or ``adata`` no AnnData.
        ValueError
            If the query has too few of the features (none, for another organism's gene names); if
            an argument makes no sense; if ``"surgery"`` has nothing to train; if the reference is
            not trained; if the query can't be set up as the reference's data were.
        KeyError
            If the query lacks the column of the batch or of a covariate.

        Examples
        --------
        >>> query = SCGM.load_query_data(adata_new, "model/")  # doctest: +SKIP
        >>> query.train()  # doctest: +SKIP
        >>> query.generate(1000, {"cell_type": "CD4 T"})  # doctest: +SKIP

        References
        ----------
        Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7 (surgery);
        Hu et al. 2021, arXiv:2106.09685 (adapters); Shin et al. 2017, arXiv:1705.08690 (replay).
        """
        if mode == "adapter":
            adapter_rank = whole_number(adapter_rank, "adapter_rank")
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; use one of {listed(MODES)}.{nearest(mode, MODES)}")
        for name, value in {"replay": replay, "min_shared": min_shared}.items():
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value!r}; it must be a number, 0 or more.")
        reference = cls._reference(reference_model)
        if replay:
            reference._require_memory()
        reference._cells.check_query(adata)
        obs = reference._cells.obs(adata)
        before = reference.condition_spec
        if mode == "surgery":
            _require_new(obs, {**before.nuisances, **before.categorical})
        unknown = [k for k in before.steered if k not in obs]
        query, report = reference._cells.align_query(adata, min_shared, unknown)
        state = _merged(reference.module).state_dict()
        model = super().load_query_data(
            query, reference, unfrozen=True, accelerator=accelerator, device=device
        )
        merge_adapters(model.module)
        _forget(model.module, state)
        counts = [category_counts(before), category_counts(model.condition_spec)]
        grow(model.module, state, *counts)
        model._begin_fine_tuning(mode, adapter_rank, replay, counts[0], report)
        if report.missing and reference.is_diffusion_trained:
            model._remember(reference, report.missing)
        return model

    @classmethod
    def _reference(cls, model: Any) -> Self:
        """The reference, loaded if it is a folder."""
        if isinstance(model, str | os.PathLike):
            model = cls.load(model, adata=False)
        if type(model) is not cls:
            hint = ""
            if not isinstance(model, TransferMixin) and hasattr(model, "module"):
                hint = (
                    f" To give a scvi model a second stage: {cls.__name__}.from_scvi_model(model)."
                )
            raise TypeError(
                f"reference_model is a {type(model).__name__}; a {cls.__name__}, or the folder "
                f"that one was saved to, is needed.{hint}"
            )
        if not model.is_trained_:
            raise ValueError("reference_model is not trained: call its train() first.")
        return model

    def _require_memory(self) -> None:
        """Raise unless the model can generate what is to be replayed."""
        if not self.is_diffusion_trained:
            state = "not trained" if self.fitted_.get("fingerprint") is None else "stale"
            raise ValueError(
                f"reference_model's stage two is {state}, so it can't generate cells to replay. "
                "Call its train_diffusion() first, or pass replay=0."
            )

    def _begin_fine_tuning(
        self,
        mode: str,
        adapter_rank: int,
        replay: float,
        known: CategoryCounts,
        report: FeatureReport,
    ) -> None:
        has_denoiser = self.fitted_.get("fingerprint") is not None
        if mode == "adapter":
            add_adapters(self.module, adapter_rank)
        self._set_adapter_rank(adapter_rank if mode == "adapter" else 0)
        if "responses" in self.fitted_:
            self.fitted_["reference_responses"] = self.fitted_["responses"]
        if "groups" in self.fitted_:
            self.fitted_["reference_groups"] = self.fitted_["groups"]
        if "n_memory" in self.init_params_["non_kwargs"]:
            self.init_params_["non_kwargs"]["n_memory"] = 0
        self.module.eval()
        self.fine_tuning_ = {
            "mode": mode,
            "replay": float(replay),
            "known": {"nuisances": known.nuisances, "conditions": known.conditions},
            "has_denoiser": has_denoiser,
            "n_shared": report.n_model - len(report.missing),
            "missing": report.missing,
            "missing_variable": self._variable(report.missing),
            "n_dropped": report.n_dropped,
        }
        self._report_features()

    @torch.no_grad()
    def _remember(self, reference: Self, missing: list[str]) -> None:
        """Have the encoder fill in missing features, from cells that the reference generates."""
        encoder = self.module.z_encoder
        if not getattr(encoder, "normalize", False):  # of modalities: nothing is filled in
            return
        cells = generate_replay(reference.prior, 1.0, seed=0, n_cells=_N_MEMORY)
        counts: Any = cells.x  # sparse, as counts are
        x = torch.as_tensor(counts.toarray(), device=self.device)
        encoder.fill = FeatureFill(*x.shape).to(self.device)
        is_missing = np.isin(self.var_.index, missing)
        encoder.fill.remember(x, torch.as_tensor(is_missing, device=self.device))
        self.init_params_["non_kwargs"]["n_memory"] = len(x)

    @torch.no_grad()
    def _variable(self, missing: list[str]) -> list[str]:
        """Those of ``missing`` that are among the most variable features over the prior's states."""
        if not missing:
            return []
        means, spec = self.module.prior.means, self.condition_spec
        n = len(means)
        size = means.new_full((n, self.module.n_sizes), np.log(1e4))
        some = torch.zeros(n, 1, dtype=torch.long, device=means.device)  # unspecified; the first
        tensors = {
            SCGM_KEYS.CONDITIONS_KEY: some.expand(-1, len(spec.categorical)),
            SCGM_KEYS.CONDITION_VALUES_KEY: size.new_full((n, sum(spec.value_widths)), np.nan),
            REGISTRY_KEYS.BATCH_KEY: some,
            REGISTRY_KEYS.CAT_COVS_KEY: some.expand(-1, len(spec.covariates)),
            REGISTRY_KEYS.CONT_COVS_KEY: size.new_zeros(n, len(spec.numeric_covariates)),
        }
        mean = self.module.decode_state(torch.cat([means, size], dim=1), tensors).mean
        names = np.asarray(self.var_.index)
        order = np.log1p(mean.clamp(min=0).cpu().numpy()).var(axis=0).argsort()[::-1]
        lacking = set(missing)
        return [str(n) for n in names[order[:_N_VARIABLE]] if n in lacking]

    def _report_features(self) -> None:
        f = self._tuning
        n = f["n_shared"] + len(f["missing"])
        message = (
            f"Query: {f['n_shared']} of the reference's {n} features, {f['n_dropped']} dropped"
        )
        if f["missing"]:
            top = f["missing_variable"]
            message += (
                f"; zeros in place of {len(f['missing'])} missing ones, of which {len(top)} are "
                f"among the {_N_VARIABLE} most variable: {listed(top, 5)}"
            )
        (logger.warning if len(f["missing"]) > 0.2 * n else logger.info)("%s.", message)


def _merged(module: nn.Module) -> nn.Module:
    """A copy without adapters that computes the same."""
    out = copy.deepcopy(module)
    merge_adapters(out)
    return out


def _forget(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Take a reference's memory of other missing features from the module, and from its weights."""
    if hasattr(module.z_encoder, "fill"):
        module.z_encoder.fill = None
    for key in [k for k in state if k.startswith("z_encoder.fill.")]:
        del state[key]


def _require_new(obs: pd.DataFrame, known: dict[str, np.ndarray]) -> None:
    """Raise unless a column of ``obs`` has a category that is not known."""
    for name, categories in known.items():
        if name in obs and not obs[name].dropna().isin(categories).all():
            return
    raise ValueError(
        "mode 'surgery' trains the weights of new categories, and the query has no new batch, type "
        "or other category. Use mode='adapter' or 'full', or the reference as it is."
    )
