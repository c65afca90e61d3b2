"""A MuData as the data of a model that starts from a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from scgm_scvi._errors import listed

from ._features import FeatureReport, align_features
from ._modalities import holding, make_mudata
from ._modality import Modality
from ._validation import validate_adata

__all__ = ["align_mudata", "check_mudata_query"]


def check_mudata_query(data: Any, modalities: Sequence[Modality]) -> None:
    """Refuse what is no MuData with any of the modalities."""
    if not isinstance(data, MuData):
        raise TypeError(
            f"The query is a {type(data).__name__}; the reference was set up with a MuData, so "
            f"pass one with modalities {listed(b.key for b in modalities)}. One modality is "
            "enough: mudata.MuData({'rna': adata})."
        )
    if not any(b.key in data.mod for b in modalities):
        raise KeyError(
            f"The query has none of the modalities {listed(b.key for b in modalities)}; it "
            f"has {listed(data.mod)}."
        )


def align_mudata(
    data: MuData,
    modalities: Sequence[Modality],
    tables: Mapping[str, pd.DataFrame],
    obs: pd.DataFrame,
    min_share: float,
    columns: Sequence[str],
) -> tuple[MuData, FeatureReport]:
    """Other cells with exactly the features of the modalities, each by itself.

    Parameters
    ----------
    tables
        Of the features, by modality.
    obs
        Attributes of the cells.
    min_share, columns
        As of :func:`align_features`.
    """
    parts, missing, dropped, own = {}, [], 0, True
    for modality in modalities:
        if modality.key not in data.mod:  # measured in no cell: no feature is missing for that
            x = sparse.csr_matrix((data.n_obs, len(modality.names)), dtype=np.float32)
            parts[modality.key] = holding(x, modality.names, data.obs_names, modality.layer)
            own = False
            continue
        part, var = data[modality.key], tables[modality.key]
        validate_adata(part, may_be_view=data.is_view, name=f"mdata[{modality.key!r}]")
        aligned, report = align_features(part, modality.names, var, modality.layer, min_share)
        own = own and aligned is part
        parts[modality.key] = aligned
        missing += report.missing
        dropped += report.n_dropped
    report = FeatureReport(sum(len(m.names) for m in modalities), missing, dropped)
    if own and not columns and set(data.mod) == set(parts):
        return data, report
    obs = obs[[c for c in obs if not str(c).startswith("_scvi_")]]
    query = make_mudata(parts, obs.assign(**dict.fromkeys(columns, np.nan)))
    for key in [k for k in data.obsm if k not in data.mod and not str(k).startswith("_scvi")]:
        query.obsm[key] = data.obsm[key]
    return query, report
