"""The metrics of the Virtual Cell Challenge 2026, by its own evaluator, cell-eval2."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from ._context import TOO_FEW, Context, Scores
from ._screen import Screen, generator
from ._space import LEAST_CELLS

__all__ = [
    "CHALLENGE_METRICS",
    "Challenge",
    "add_challenge",
    "require_cell_eval2",
    "shifted_counts",
]

_DE = "de_wilcoxon_"
_NORM, _NMAE = "expr_mse_unbiased_capped_norm", f"{_DE}lfc_nmae"
CHALLENGE_METRICS = (
    *("pds_cosine", _NORM, f"{_DE}direction_fidelity_yield_raw", f"{_DE}direction_reach_raw"),
    *(f"{_DE}sig_jaccard", _NMAE),
)
_PARTS = ("expr_mse_unbiased_capped", "expr_distance_unbiased")  # of the ratio of sums


def require_cell_eval2() -> ModuleType:
    """The library, or how to get it."""
    try:
        import cell_eval2
    except ImportError as error:
        raise ImportError(
            f"the metrics {', '.join(CHALLENGE_METRICS)} are computed by cell-eval2: pip install "
            "'scgm_scvi[perturbation]', or leave them out of metrics."
        ) from error
    return cell_eval2


class Challenge:
    """Scores of one context, every perturbation against all others.

    Parameters
    ----------
    real
        Counts of real perturbed and control cells.
    key, control_value
        Column of ``obs``, and its value for control cells.
    target_genes
        Gene that each perturbation aims at, which is left out of what is scored; None for none.
        A name that is not there aims at the gene of its name, if there is one.
    """

    def __init__(
        self,
        real: AnnData,
        key: str,
        control_value: str,
        target_genes: Mapping[str, str | None] | None = None,
    ) -> None:
        library = require_cell_eval2()
        self.real, self.key, self.control_value = real, key, control_value
        self.target_genes = target_genes
        names = [n for n in np.unique(real.obs[key].astype(str)) if n != control_value]
        own = {n: n if n in real.var_names else None for n in names}
        preset = library.EvalConfig.from_preset("vcc2026")
        self.config = replace(
            preset,
            pert_col=key,
            control=control_value,
            device="cpu",
            de=replace(preset.de, backend="scanpy"),  # the same numbers with and without a GPU
            target_gene_map={**own, **(target_genes or {})},
        )

    def score(self, cells: AnnData) -> pd.DataFrame:
        """Metrics of predicted cells: a row a perturbation. Predicted control cells are left out.

        ``expr_mse_unbiased_capped_norm`` is a ratio of sums; what a row has is its own error over
        the mean distance, so that the mean over rows is that ratio.
        """
        is_control = (cells.obs[self.key].astype(str) == self.control_value).to_numpy()
        return self._table(_joined(cells[~is_control], self._control), self.real, self.config)

    def score_some(self, cells: AnnData) -> pd.DataFrame:
        """The same of predictions that leave out some perturbations, or have few cells of them.

        They are ranked among those that they speak of, which are fewer, and easier to tell apart.
        """
        size = cells.obs[self.key].astype(str).value_counts()
        name = self.real.obs[self.key].astype(str)
        kept = {n for n, k in size.items() if k >= LEAST_CELLS} & set(name) - {self.control_value}
        if not kept:
            return pd.DataFrame(columns=list(CHALLENGE_METRICS), dtype=float)
        some = self.real[name.isin({*kept, self.control_value}).to_numpy()]
        judge = Challenge(some, self.key, self.control_value, self.target_genes)
        return judge.score(cells[cells.obs[self.key].isin(kept).to_numpy()])

    def replicate(self, seed: int) -> pd.DataFrame:
        """What one half of the real cells scores against the other, each with control cells of its own.

        The error of fold changes is that of cell-eval2's reference, with all cells' fold changes
        below it.
        """
        rng, half = np.random.default_rng(seed), np.zeros(self.real.n_obs, dtype=int)
        for rows in self.real.obs.groupby(self.key, observed=True).indices.values():
            rows = rng.permutation(rows)
            half[rows[: len(rows) // 2]], half[rows[2 * (len(rows) // 2) :]] = 1, 2
        first, second = (self.real[half == i] for i in (0, 1))
        table = self._table(second, first, replace(self.config, control_source="pred"))
        library = require_cell_eval2()
        with _quiet():
            reference, _ = library.compute_lfc_nmae_reference(
                self.real, config=self.config, seed=seed
            )
        found = dict(zip(reference["perturbation"], reference["nmae_ref_raw"], strict=True))
        table[_NMAE] = [found.get(name, np.nan) for name in table.index]
        return table

    @property
    def _control(self) -> AnnData:
        return self.real[(self.real.obs[self.key].astype(str) == self.control_value).to_numpy()]

    def _table(self, predicted: AnnData, real: AnnData, config: Any) -> pd.DataFrame:
        library = require_cell_eval2()
        with _quiet():
            found = library.compute_metrics(predicted.copy(), real.copy(), config=config)
        columns = [found[name].to_list() for name in ("perturbation", "metric", "value")]
        long = pd.DataFrame(dict(zip(("perturbation", "metric", "value"), columns, strict=True)))
        table = long.pivot(index="perturbation", columns="metric", values="value").astype(float)
        error, distance = (table[part] for part in _PARTS)
        both = np.isfinite(error) & np.isfinite(distance)
        below = distance[both].mean()
        table[_NORM] = (error / below).where(both) if below > 0 else np.nan
        return table.reindex(columns=list(CHALLENGE_METRICS))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that the table has as missing numbers, for each of many calls."""
    logger = logging.getLogger("cell_eval2")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _joined(first: AnnData, second: AnnData) -> AnnData:
    return ad.concat([first, second], index_unique="-")


def shifted_counts(counts: np.ndarray, delta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Counts of control cells with the log of their mean expression moved by ``delta``.

    With the fold change :math:`f = (e^\delta (1 + m) - 1) / m` of a gene's mean :math:`m` in counts
    per 10,000, counts :math:`c` become :math:`f c` where it falls. Where it rises, half of the gain
    goes to cells that have the gene and half to all alike, :math:`c + (f - 1) (c + m u) / 2` for a
    cell of :math:`u` times 10,000 counts: the mean is the same, and a gene that is induced appears
    in cells that did not have it. Rounded up or down at random, :math:`\lfloor x + u' \rfloor`,
    means are kept.
    """
    unit = np.maximum(counts.sum(axis=1, keepdims=True), 1) / 1e4
    before = (counts / unit).mean(axis=0)
    after = np.maximum(np.exp(delta) * (1 + before) - 1, 0)
    kept = counts * np.minimum(after / np.where(before > 0, before, 1), 1)
    weight = np.where(before > 0, counts / np.where(before > 0, before, 1), unit)
    moved = kept + np.maximum(after - before, 0) * (weight + unit) / 2
    return np.floor(moved + rng.random(counts.shape))


def add_challenge(
    scores: dict[str, Scores],
    context: Context,
    predicted: Mapping[str, Screen],
    baselines: Mapping[str, Mapping[tuple[str, ...], np.ndarray]],
    features: Sequence[str],
    target_genes: Mapping[str, str | None] | None,
    metrics: Sequence[str],
) -> None:
    """Put the challenge's metrics of one context beside the others, for all with enough cells.

    ``baselines`` are responses of the log of mean expression.
    """
    keys, where = context.real.keys, context.name
    names = [n for n, of in scores.items() if of.note != TOO_FEW]
    if not names:
        return
    rows = {n: context.real.rows(where, n) for n in names}
    control = context.control.adata(context.control.rows(where, keys.control), features)
    real = context.real.adata(np.concatenate(list(rows.values())), features)
    judge = Challenge(_joined(real, control), keys.perturbation, keys.control, target_genes)
    tables = {"replicate": judge.replicate(context.seed)}
    for method, screen in predicted.items():
        found = [screen.rows(where, n) for n in names]
        tables[method] = judge.score_some(screen.adata(np.concatenate(found), features))
    for method, responses in baselines.items():
        cells = {}
        for name in names:
            if (delta := responses.get(keys.parts(name))) is not None:
                rng = generator(context.seed, method, where, name)
                drawn = control.X[rng.integers(control.n_obs, size=len(rows[name]))].toarray()
                cells[name] = shifted_counts(drawn.astype(np.float64), delta, rng)
        made = AnnData(np.vstack(list(cells.values())).astype(np.float32))
        made.var_names = control.var_names
        made.obs[keys.perturbation] = np.repeat(list(cells), [len(x) for x in cells.values()])
        tables[method] = judge.score_some(made)
    for method, table in tables.items():
        for name in table.index:
            scores[name].values.setdefault(method, {}).update(
                {m: float(table.loc[name, m]) for m in metrics}
            )
