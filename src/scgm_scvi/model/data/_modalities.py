"""What a MuData says of its cells, wherever it says it; and modalities of different cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi._errors import listed, nearest
from scgm_scvi._mudata import columns_stay

__all__ = ["gathered_obs", "holding", "make_mudata", "pad_modalities", "rows_placed"]


def make_mudata(modalities: Mapping[str, AnnData], obs: pd.DataFrame | None = None) -> MuData:
    """A MuData of these modalities, whose own ``obs`` is ``obs`` and nothing of theirs."""
    with columns_stay():  # else columns would be repeated, with a warning
        mdata = MuData(dict(modalities))
    if obs is not None:
        mdata.obs = obs.loc[mdata.obs_names].copy()
    return mdata


def pad_modalities(mdata: MuData) -> MuData:
    """Give every modality all cells, with rows of zeros where it was not measured in them.

    That is how :class:`scgm_scvi.MultiSCGM`, as scvi-tools' models, takes cells that were measured
    in one modality only, beside those measured in both.

    Parameters
    ----------
    mdata
        Modalities with different cells, or with the same in another order. Not changed.

    Returns
    -------
    MuData with the cells of ``mdata`` in its order in each modality. Matrices and layers of a
    padded modality are CSR, in which a row of zeros takes no room. Arrays of ``obsm`` are NaN where
    the modality was not measured; ``obsp`` is left out. Columns of the modalities' ``obs`` are
    gathered in ``mdata.obs`` where that has none of the name and the modalities do not contradict
    each other. What needed no padding is shared with ``mdata``.

    Raises
    ------
    TypeError
        If it is no MuData.
    ValueError
        If names of cells are not unique within a modality.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from mudata import MuData
    >>> from scgm_scvi.model import pad_modalities
    >>> rna = AnnData(np.ones((2, 3), "float32"))
    >>> rna.obs_names, rna.var_names = ["a", "b"], ["A1BG", "ACTB", "CD3E"]
    >>> atac = AnnData(np.ones((2, 1), "float32"))
    >>> atac.obs_names, atac.var_names = ["b", "c"], ["chr1:100-600"]
    >>> padded = pad_modalities(MuData({"rna": rna, "atac": atac}))  # doctest: +SKIP
    >>> padded["atac"].X.toarray().ravel()  # doctest: +SKIP
    array([0., 1., 1.], dtype=float32)
    """
    if not isinstance(mdata, MuData):
        raise TypeError(f"mdata is a {type(mdata).__name__}; a MuData is needed.")
    for key, adata in mdata.mod.items():
        if not adata.obs_names.is_unique:
            twice = adata.obs_names[adata.obs_names.duplicated()].unique()
            raise ValueError(
                f"mdata[{key!r}].obs_names holds {len(twice)} duplicated names: {listed(twice, 5)}, "
                "so that cells can't be matched."
            )
    columns = [str(c) for adata in mdata.mod.values() for c in adata.obs]
    obs = mdata.obs.copy()
    for name in dict.fromkeys(columns):
        if name not in obs:
            found = _united(mdata, name, list(mdata.mod))
            if found is not None:
                obs[name] = found
    mods = {key: _padded(adata, mdata.obs_names) for key, adata in mdata.mod.items()}
    out = make_mudata(mods, obs)
    for key, value in mdata.obsm.items():
        if key not in mdata.mod:  # which cells a modality has: all, now
            out.obsm[key] = value
    out.uns = {k: v for k, v in mdata.uns.items() if not str(k).startswith("_scvi")}
    return out


def _padded(adata: AnnData, names: pd.Index) -> AnnData:
    """``adata`` with the cells ``names``."""
    if adata.obs_names.equals(names):
        return adata
    at = adata.obs_names.get_indexer(names)
    obsm = {}
    for key, value in adata.obsm.items():
        if isinstance(value, pd.DataFrame):
            obsm[key] = value.reindex(names)
        elif sparse.issparse(value):
            obsm[key] = rows_placed(value, at)
        else:
            taken = np.asarray(value)[at]
            obsm[key] = np.where((at >= 0).reshape(-1, *[1] * (taken.ndim - 1)), taken, np.nan)
    return AnnData(
        None if adata.X is None else rows_placed(adata.X, at),
        obs=adata.obs.reindex(names),
        var=adata.var.copy(),
        obsm=obsm,
        varm=dict(adata.varm),
        layers={k: rows_placed(v, at) for k, v in adata.layers.items() if k is not None},
        uns={k: v for k, v in adata.uns.items() if not str(k).startswith("_scvi")},
    )


def rows_placed(x: np.ndarray | sparse.spmatrix, at: np.ndarray) -> sparse.csr_matrix:
    """Rows ``at`` of ``x``, of zeros where that is -1."""
    x, there = sparse.csr_matrix(x), np.flatnonzero(at >= 0)
    ones = np.ones(len(there), dtype=x.dtype)
    pick = sparse.csr_matrix((ones, (there, at[there])), shape=(len(at), x.shape[0]))
    return pick @ x


def holding(
    x: np.ndarray | sparse.spmatrix, names: pd.Index, cells: pd.Index, layer: str | None
) -> AnnData:
    """Counts where a model looks for them."""
    return AnnData(
        x if layer is None else None,
        obs=pd.DataFrame(index=cells),
        var=pd.DataFrame(index=names),
        layers=None if layer is None else {layer: x},
    )


def gathered_obs(
    mdata: MuData,
    columns: Mapping[str, str],
    modalities: Mapping[str, str | None],
    first: Sequence[str],
) -> pd.DataFrame:
    """Columns of cells, from ``mdata.obs`` or from the ``obs`` of the modalities.

    Parameters
    ----------
    columns
        Column to the argument that names it.
    modalities
        Argument to the modality that holds its columns, ``None`` being ``mdata.obs``. Where an
        argument is not named: ``mdata.obs``, else the modalities.
    first
        Modalities to ask first.

    Returns
    -------
    Those columns that there are, in the order of ``mdata.obs_names``.

    Raises
    ------
    ValueError
        If modalities contradict each other.
    """
    order = [*(k for k in first if k in mdata.mod), *(k for k in mdata.mod if k not in first)]
    out = {}
    for name, argument in columns.items():
        place = modalities.get(argument)
        if argument in modalities and place is not None:
            found = _united(mdata, name, [place])
            if found is None:
                known = mdata[place].obs.columns
                raise KeyError(
                    f"{argument}: {name!r} is not a column of mdata[{place!r}].obs, where "
                    f"modalities says that it is.{nearest(name, known)} Columns: {listed(known)}."
                )
        elif name in mdata.obs:
            found = mdata.obs[name]
        elif argument in modalities:
            continue
        else:
            holders = [k for k in order if name in mdata[k].obs]
            found = _united(mdata, name, holders)
            if found is None and holders:
                at_setup = f"modalities={{{argument!r}: {holders[0]!r}}} at set-up, or "
                raise ValueError(
                    f"{argument}: {name!r} is a column of the obs of {listed(holders)}, and they "
                    f"do not agree. Say which is meant: {at_setup if argument.endswith(('_key', '_keys')) else ''}"
                    f"mdata.obs[{name!r}] = mdata[{holders[0]!r}].obs[{name!r}]."
                )
        if found is not None:
            out[name] = found
    return pd.DataFrame(out, index=mdata.obs_names)


def _united(mdata: MuData, name: str, holders: Iterable[str]) -> pd.Series | None:
    """A column of several modalities; ``None`` if none has it, or two contradict each other.

    Missing values are no statement: what another modality says of the cell is taken.
    """
    names, out = mdata.obs_names, None
    for key in holders:
        if name not in mdata[key].obs:
            continue
        column = mdata[key].obs[name]
        column = column if column.index.equals(names) else column.reindex(names)
        if out is None:
            out = column
            continue
        both = (out.notna() & column.notna()).to_numpy()
        if (out[both].astype(object) != column[both].astype(object)).any():
            return None
        gap = (out.isna() & column.notna()).to_numpy()
        if gap.any():
            out = _filled(out, column, gap)
    return out


def _filled(a: pd.Series, b: pd.Series, gap: np.ndarray) -> pd.Series:
    """``a`` with the values of ``b`` in its gaps; categories keep their order."""
    if isinstance(a.dtype, pd.CategoricalDtype) and isinstance(b.dtype, pd.CategoricalDtype):
        further = [c for c in b.cat.categories if c not in set(a.cat.categories)]
        values = np.where(gap, b.to_numpy(dtype=object), a.to_numpy(dtype=object))
        categories = [*a.cat.categories, *further]
        return pd.Series(pd.Categorical(values, categories, a.cat.ordered), index=a.index)
    if isinstance(a.dtype, pd.CategoricalDtype):
        a = a.astype(object)
    return a.where(~gap, b)
