"""Highly variable genes, from statistics alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.nonparametric.smoothers_lowess import lowess

from scgm_scvi._errors import whole_number

from ._statistics import Statistics

__all__ = ["normalized_dispersion", "variable_genes"]

FLAVORS = {
    "seurat": "cp10k",
    "cell_ranger": "log",
    "scran": "log",
}  # and the scale that each takes moments on
N_BINS = 20
SMALL = 1e-12  # in place of a mean of zero


def normalized_dispersion(
    statistics: Statistics, flavor: str = "seurat", *, min_cells: int = 1
) -> pd.Series:
    """Variance over mean of a gene, next to that of genes with a like mean.

    Parameters
    ----------
    statistics
        Sums over cells.
    flavor
        ``"seurat"`` (Satija et al. 2015) takes the logarithm of the dispersion of counts per
        10,000, and the mean and standard deviation of 20 bins of the mean; ``"cell_ranger"``
        (Zheng et al. 2017) takes the dispersion of ``ln(1 + cp10k)``, and the median and median
        absolute deviation of bins at percentiles of the mean. Both as
        :func:`scanpy.pp.highly_variable_genes` does them.
    min_cells
        Genes above zero in fewer cells are left out first: of an axis of all genes, a tissue
        leaves many silent, and ``"cell_ranger"`` finds no percentiles among these.

    Returns
    -------
    A value a gene; NaN where a gene was not measured, was left out, or is the same in all cells.

    Raises
    ------
    ValueError
        If the flavor is unknown.
    """
    if flavor not in FLAVORS:
        raise ValueError(f"flavor is {flavor!r}; it must be one of {', '.join(FLAVORS)}.")
    heard = statistics.table["n_expressed"] >= whole_number(min_cells, "min_cells")
    moments = statistics.moments(FLAVORS[flavor])[heard].dropna()
    if moments.empty:
        return moments["mean"].reindex(statistics.table.index)
    if flavor == "scran":
        return _above_trend(moments).reindex(statistics.table.index)
    mean = moments["mean"].where(moments["mean"] != 0, SMALL)
    dispersion = moments["variance"] / mean
    if flavor == "seurat":
        dispersion = np.log(dispersion.where(dispersion != 0))
        mean, bins = np.log1p(mean), N_BINS
    else:
        bins = np.r_[-np.inf, np.percentile(mean, np.arange(10, 105, 5)), np.inf]
    groups = dispersion.groupby(pd.cut(mean, bins), observed=True)
    if flavor == "seurat":
        middle, width = groups.transform("mean"), groups.transform("std")
        # a bin with one gene: its normalised dispersion is set to 1
        alone = width.isna() & dispersion.notna()
        width, middle = width.where(~alone, middle), middle.where(~alone, 0)
    else:
        middle, width = groups.transform("median"), groups.transform(_mad)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalized = (dispersion - middle) / width
    return normalized.reindex(statistics.table.index)


def _above_trend(moments: pd.DataFrame) -> pd.Series:
    """Variance beyond that of genes with the same mean."""
    varying = moments[moments["variance"] > 0]
    mean = varying["mean"].to_numpy()
    step = 0.005 * np.ptp(mean)  # between these points the trend is a straight line
    trend = lowess(varying["variance"].to_numpy(), mean, frac=0.3, delta=step, return_sorted=False)
    return varying["variance"] - trend


def _mad(values: pd.Series) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of empty bins
        return float(stats.median_abs_deviation(values, scale="normal"))


def variable_genes(
    datasets: Iterable[Statistics],
    n_top: int,
    *,
    flavor: str = "scran",
    by_dataset: bool = False,
    min_cells: int = 1,
) -> pd.Index:
    """The genes that vary most, in the order of the axis.

    Parameters
    ----------
    datasets
        Statistics of each.
    n_top
        How many.
    flavor, min_cells
        As in :func:`normalized_dispersion`.
    by_dataset
        Rank genes within each dataset and take those that are among the ``n_top`` of most of them,
        ties by the median rank among datasets that measured them (Stuart et al. 2019): what
        differs only between datasets does not count then. Otherwise all cells are one dataset.

    Returns
    -------
    Names of ``n_top`` genes, fewer where fewer vary.

    Notes
    -----
    A gene that a dataset did not measure is no zero there: it has no rank in it, and the dataset's
    cells are left out of its mean.

    References
    ----------
    Satija et al. (2015), Nature Biotechnology 33, 495; Zheng et al. (2017), Nature Communications
    8, 14049; Stuart et al. (2019), Cell 177, 1888; Lun, McCarthy, Marioni (2016), F1000Research 5,
    2122.
    """
    n_top = whole_number(n_top, "n_top")
    if not by_dataset:
        total = Statistics.sum(datasets)
        axis = total.table.index
        value = normalized_dispersion(total, flavor, min_cells=min_cells).dropna()
        top = value.sort_values(ascending=False, kind="stable").index[:n_top]
    else:
        axis, ranks = None, []  # a number a gene and dataset: of hundreds, tables are too much
        for statistics in datasets:
            if axis is not None and not statistics.table.index.equals(axis):
                raise ValueError(
                    "statistics are of other genes, or of another order: use one axis."
                )
            axis = statistics.table.index
            value = normalized_dispersion(statistics, flavor, min_cells=min_cells)
            ranks.append(value.rank(ascending=False, method="first").to_numpy(np.float32))
        if axis is None:
            raise ValueError("there are no datasets to take statistics of: add one to the store.")
        rank = np.stack(ranks, axis=1)
        known = np.isfinite(rank)
        share = pd.DataFrame(rank / np.maximum(known.sum(axis=0), 1), axis)
        order = pd.DataFrame({"n": -(rank <= n_top).sum(axis=1), "rank": share.median(axis=1)})
        top = order.dropna().sort_values(["n", "rank"], kind="stable").index[:n_top]
    return axis[axis.isin(top)]
