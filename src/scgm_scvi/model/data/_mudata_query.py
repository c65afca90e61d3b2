"""A MuData as the data of a model that starts from a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi._errors import listed

from ._features import FeatureReport, align_features
from ._modalities import holding, make_mudata
from ._validation import validate_adata

__all__ = ["MuDataQueryMixin"]


class MuDataQueryMixin:
    """Bring a query to the features of a model, each modality by itself.

    A part of ``MuDataMixin``.
    """

    def _check_query(self, data: Any) -> None:
        if not self._is_of_mudata:
            super()._check_query(data)
            return
        if not isinstance(data, MuData):
            raise TypeError(
                f"The query is a {type(data).__name__}; the reference was set up with a MuData, so "
                f"pass one with modalities {listed(b.key for b in self._modalities)}. One modality is "
                "enough: mudata.MuData({'rna': adata})."
            )
        if not any(b.key in data.mod for b in self._modalities):
            raise KeyError(
                f"The query has none of the modalities {listed(b.key for b in self._modalities)}; it "
                f"has {listed(data.mod)}."
            )

    def _aligned_query(
        self, data: AnnData | MuData, min_share: float, columns: Sequence[str]
    ) -> tuple[AnnData | MuData, FeatureReport]:
        if not self._is_of_mudata:
            return super()._aligned_query(data, min_share, columns)
        parts, missing, dropped, own = {}, [], 0, True
        for modality in self._modalities:
            if modality.key not in data.mod:  # measured in no cell: no feature is missing for that
                x = sparse.csr_matrix((data.n_obs, len(modality.names)), dtype=np.float32)
                parts[modality.key] = holding(x, modality.names, data.obs_names, modality.layer)
                own = False
                continue
            part, var = data[modality.key], self.modality_var_[modality.key]
            validate_adata(part, may_be_view=data.is_view, name=f"mdata[{modality.key!r}]")
            aligned, report = align_features(part, modality.names, var, modality.layer, min_share)
            own = own and aligned is part
            parts[modality.key] = aligned
            missing += report.missing
            dropped += report.n_dropped
        report = FeatureReport(len(self.var_), missing, dropped)
        if own and not columns and set(data.mod) == set(parts):
            return data, report
        obs = self._obs(data)
        obs = obs[[c for c in obs if not str(c).startswith("_scvi_")]]
        query = make_mudata(parts, obs.assign(**dict.fromkeys(columns, np.nan)))
        for key in [k for k in data.obsm if k not in data.mod and not str(k).startswith("_scvi")]:
            query.obsm[key] = data.obsm[key]
        return query, report
