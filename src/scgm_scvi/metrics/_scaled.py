"""Scores between a baseline and a replicate, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ._context import NO_EFFECT, TOO_FEW, Scores
from ._response import INTERVAL
from ._space import ALL

__all__ = ["NO_ROOM", "rows_of", "scaled"]

NO_ROOM = "the baseline is as good as a replicate"
_NO_BASELINE, _NOT_PREDICTED, _UNDEFINED = "no baseline", "not predicted", "undefined"
_LOWER = {
    *("e_distance", "mmd2", "w2", "rf_auc", "variance_ratio", "interval_coverage"),
    *("expr_mse_unbiased_capped_norm", "de_wilcoxon_lfc_nmae"),
}
# what is best in the middle is scored by how far from there it is
_FROM_BEST: dict[str, Callable[[float], float]] = {
    "variance_ratio": lambda x: abs(np.log(max(x, 1e-12))),
    "rf_auc": lambda x: abs(x - 0.5),
    "interval_coverage": lambda x: abs(x - INTERVAL),
}


def scaled(metric: str, value: float, replicate: float, baseline: float) -> float:
    """``(value - baseline) / (replicate - baseline)``; NaN where a replicate is no better."""
    away = _FROM_BEST.get(metric, lambda x: x)
    room = away(replicate) - away(baseline)
    if metric in _LOWER:
        room = -room
    if not room > 0:
        return float("nan")
    gain = away(value) - away(baseline)
    return float((-gain if metric in _LOWER else gain) / room + 0.0)  # 0, not -0


def rows_of(
    scores: Mapping[str, Scores],
    context: str,
    predicted: Sequence[str],
    baselines: Sequence[str],
    metrics: Sequence[str],
    zero: str,
) -> pd.DataFrame:
    """A row a method, perturbation and metric of a context, those of all perturbations first."""
    rows = []
    for method in (*predicted, *baselines):
        for name, of in scores.items():
            mine = of.values.get(method, {})
            if not mine and method in baselines and of.values:
                continue  # it has no answer
            note = of.note if mine or of.note == TOO_FEW else _NOT_PREDICTED
            sources = {"value": method, "replicate": "replicate", "baseline": zero}
            for metric in metrics:
                row = {"method": method, "perturbation": name, "metric": metric}
                for column, source in sources.items():
                    row[column] = of.values.get(source, {}).get(metric, np.nan)
                rows.append(row | {"n": of.n, "note": note})
    table = pd.DataFrame(rows)
    table = pd.concat([_means(table), table], ignore_index=True)
    table.insert(1, "context", context)
    table.insert(7, "scaled", [_scaled_row(row) for row in table.to_dict("records")])
    table["note"] = [_note(row) for row in table.to_dict("records")]
    methods = pd.Categorical(table["method"], [*predicted, *baselines])
    return table.iloc[np.argsort(methods.codes, kind="stable")].reset_index(drop=True)


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the perturbations that have a value; what has none has no say."""
    columns = ["value", "replicate", "baseline"]
    has_value = np.isfinite(table["value"])
    valued = table.assign(**{c: table[c].where(has_value) for c in columns}, n=has_value)
    by = valued.groupby(["method", "metric"], sort=False)
    means = by.agg(**{c: (c, "mean") for c in columns}, n=("n", "sum")).reset_index()
    notes = table.groupby(["method", "metric"], sort=False)["note"].agg(lambda x: x.mode()[0])
    means["note"] = np.where(means["n"] == 0, notes.to_numpy(), "")
    return means.assign(perturbation=ALL)[list(table.columns)]


def _scaled_row(row: Mapping) -> float:
    if row["note"] == NO_EFFECT:
        return float("nan")
    return scaled(row["metric"], row["value"], row["replicate"], row["baseline"])


def _note(row: Mapping) -> str:
    if row["note"]:
        return row["note"]
    if not np.isfinite(row["value"]):
        return _UNDEFINED
    if not np.isfinite(row["baseline"]):
        return _NO_BASELINE
    return NO_ROOM if np.isfinite(row["replicate"]) and not np.isfinite(row["scaled"]) else ""
