"""Genes and peaks that differ between groups of cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.model.base._de_core import _de_core

from scgm_scvi.model.data._groups import require_groups
from scgm_scvi.model.data._modalities import gathered_obs
from scgm_scvi.model.data._reading import Reading

from ._modality_reading import Cells, ModalityReadingMixin

__all__ = ["DifferencesMixin"]


class DifferencesMixin(ModalityReadingMixin):
    """Differential expression and accessibility, as :class:`scvi.model.MULTIVI` has them.

    Genes and peaks have their names from the model, whatever the order of the cells' modalities.
    """

    def differential_expression(self, adata: Cells = None, **kwargs: Any) -> pd.DataFrame:
        """Genes that differ between groups of cells.

        Parameters
        ----------
        adata
            Cells; default: the model's data.
        **kwargs
            Those of :meth:`scvi.model.MULTIVI.differential_expression`: ``groupby``, ``group1``,
            ``group2``, ``idx1``, ``idx2``, ``mode``, ``delta``, ...

        Returns
        -------
        As of :meth:`scvi.model.MULTIVI.differential_expression`.
        """
        return self._differential(adata, 0, self.get_normalized_expression, 0.25, **kwargs)

    def differential_accessibility(self, adata: Cells = None, **kwargs: Any) -> pd.DataFrame:
        """Peaks that differ between groups of cells.

        Parameters
        ----------
        adata
            Cells; default: the model's data.
        **kwargs
            Those of :meth:`scvi.model.MULTIVI.differential_accessibility`.

        Returns
        -------
        As of :meth:`scvi.model.MULTIVI.differential_accessibility`.
        """
        fdr, mode = kwargs.get("fdr_target", 0.05), kwargs.get("mode", "change")
        getter = partial(self.get_normalized_accessibility, use_z_mean=False)
        result = self._differential(adata, 1, getter, 0.05, **kwargs)
        columns = {
            "prob_da": result["proba_de" if mode == "change" else "proba_m1"],
            "is_da_fdr": result[f"is_de_fdr_{fdr}"] if mode == "change" else None,
            "bayes_factor": result.bayes_factor,
            "effect_size": result.scale2 - result.scale1,
            "est_prob1": result.scale1,
            "est_prob2": result.scale2,
        }
        if "emp_mean1" in result:
            columns["emp_effect"] = result.emp_mean2 - result.emp_mean1
            columns |= {"emp_prob1": result.emp_mean1, "emp_prob2": result.emp_mean2}
        groups = {k: result[k] for k in ("comparison", "group1", "group2") if k in result}
        return pd.DataFrame({**columns, **groups}, index=result.index)

    def _differential(
        self,
        adata: Cells,
        modality: int,
        getter: Any,
        delta: float,
        groupby: str | None = None,
        group1: Iterable[str] | None = None,
        group2: str | None = None,
        idx1: Sequence[int] | Sequence[bool] | None = None,
        idx2: Sequence[int] | Sequence[bool] | None = None,
        mode: Literal["vanilla", "change"] = "change",
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Iterable[str] | None = None,
        batchid2: Iterable[str] | None = None,
        fdr_target: float = 0.05,
        silent: bool = False,
        pseudocounts: float | None = 1e-6,
        **kwargs: Any,
    ) -> pd.DataFrame:
        data = self.adata if adata is None else adata
        reading = Reading(self._absent(data), afresh=True)  # it may be written to
        with self._registered(data, reading) as cells:
            if groupby is not None and groupby not in cells.obs and isinstance(data, MuData):
                keys = [b.key for b in self._cells.modalities]
                cells.obs[groupby] = gathered_obs(data, {groupby: "groupby"}, {}, keys)[groupby]
            if groupby is not None:
                require_groups(cells.obs, groupby, group1, group2)
            return _de_core(
                adata_manager=self.get_anndata_manager(cells, required=True),
                model_fn=partial(getter, batch_size=batch_size or 128),
                representation_fn=None,
                groupby=groupby,
                group1=group1,
                group2=group2,
                idx1=idx1,
                idx2=idx2,
                all_stats=all_stats,
                all_stats_fn=partial(self._count_statistics, modality),
                col_names=self._cells.modalities[modality].names,
                mode=mode,
                batchid1=batchid1,
                batchid2=batchid2,
                delta=kwargs.pop("delta", delta),
                batch_correction=batch_correction,
                fdr=fdr_target,
                silent=silent,
                pseudocounts=pseudocounts,
                **kwargs,
            )

    def _count_statistics(
        self, modality: int, manager: AnnDataManager, idx1: np.ndarray, idx2: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What was counted in two groups of cells, by those that were measured."""
        start, stop = self._range(modality)
        x = sparse.csr_matrix(self._counts_of(manager.adata))[:, start:stop]
        out = {}
        for i, rows in enumerate((idx1, idx2), 1):
            some = x[rows]
            depth = np.asarray(some.sum(axis=1)).ravel()
            some, depth = some[depth > 0], depth[depth > 0]
            share = np.asarray((some != 0).mean(axis=0)).ravel()
            if modality == 1:
                out[f"emp_mean{i}"] = share
                continue
            out[f"raw_mean{i}"] = np.asarray(some.mean(axis=0)).ravel()
            out[f"non_zeros_proportion{i}"] = share
            scaled = sparse.diags_array(1e4 / depth) @ some
            out[f"raw_normalized_mean{i}"] = np.asarray(scaled.mean(axis=0)).ravel()
        return out
