"""Predictions of many perturbations, as the field scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scgm_scvi._errors import listed, nearest, whole_number

from . import _baselines as baselines
from ._baselines import BASELINES, read_vectors, training_responses
from ._challenge import CHALLENGE_METRICS, add_challenge, require_cell_eval2
from ._context import Context, cut
from ._response import SCORES
from ._scaled import rows_of
from ._screen import Keys, Screen, generator, require_expression
from ._sets import require_control
from ._space import fit_pca, shared_features

__all__ = ["SCREEN_METRICS", "evaluate_perturbations"]

SCREEN_METRICS = (
    *("r2_mean", "r2_mean_top", "pearson_delta", "pearson_centered"),
    *("e_distance", "mmd2", "variance_ratio"),
)
_MOST_FOR_PCA = 5000  # cells


def evaluate_perturbations(
    predicted: AnnData | Mapping[str, AnnData] | None,
    real: AnnData,
    control: AnnData,
    *,
    perturbation_key: str,
    control_value: str,
    context_key: str | None = None,
    train: AnnData | None = None,
    embeddings: pd.DataFrame | Mapping[str, np.ndarray] | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] = SCREEN_METRICS,
    predicted_expression: Literal["counts", "log1p"] = "counts",
    target_genes: Mapping[str, str | None] | None = None,
    separator: str = "+",
    n_top: int = 50,
    n_pcs: int = 30,
    n_max: int = 500,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Score predictions of many perturbations, between a baseline and a replicate of the experiment.

    Each perturbation's real cells are cut into halves. In the place of one half are scored the
    predicted cells, as many of them, and the other half, the **replicate**; and so the other way
    round. The **scaled** score of a metric is :math:`(v - b) / (r - b)`, with the value :math:`v`,
    that of the replicate :math:`r`, and that of the **baseline** :math:`b`: 0 is what is got
    without a model, 1 is as good as doing it again.

    With ``train``, what :func:`~scgm_scvi.metrics.baseline_responses` makes of the training cells
    is scored as predictions are, each baseline a method. Its cells are control cells moved by the
    predicted change: of mean log expression for the metrics of this package; for those of the
    challenge, of the log of mean expression, by factors on counts.

    In log1p of counts per 10,000, on the genes that all objects share:

    - ``r2_mean``, ``r2_mean_top``: coefficient of determination of mean expression, of all genes
      and of the ``n_top`` that differ most from control cells by Welch's t
    - ``pearson_delta``: correlation of predicted and real change of the mean,
      :math:`r(\hat m - m_0, m - m_0)`, from one half of the control cells
    - ``pearson_centered``: the same from the mean perturbed profile, :math:`m_0 = \frac1n \sum_p
      m_p` over the training perturbations of the context (without any, over the real ones). What
      all perturbations share, such as stress, counts for nothing here (Systema)
    - ``e_distance``, ``mmd2``: energy distance and maximum mean discrepancy in principal components
    - ``variance_ratio``: variance of predicted over real cells, summed over genes; scaled by
      :math:`|\log|` of it
    - on request ``interval_coverage``: share of real values that lie within the central 90% of
      predicted ones, mean over genes; below .9 the prediction is surer than it should be. Scaled by
      the distance from .9; baselines that are shifts of control cells leave no zero where it was,
      so that a score against them flatters: read the value beside the replicate
    - on request ``de_overlap``, ``de_direction``, ``de_logfc_pearson``, ``w2`` (see
      :func:`~scgm_scvi.metrics.evaluate_perturbation`) and ``rf_auc`` (see
      :func:`~scgm_scvi.metrics.classifier_auc`, in principal components; scaled by its distance
      from .5), which take longer

    The six of ``metrics.CHALLENGE_METRICS`` are those of the Virtual Cell Challenge 2026, computed
    by ``cell-eval2`` with its preset: ``pip install 'scgm_scvi[perturbation]'``. As there, values
    are against all real cells, and the replicate is one half against the other, with control
    cells of its own.

    Parameters
    ----------
    predicted
        Predicted cells with the perturbation in ``obs``, for one method, or for several by name;
        None scores the baselines alone. Their control cells, if they have any, are left out.
    real
        Raw counts in ``X`` of perturbed cells that no model was trained on; control cells among
        them are left out.
    control
        Raw counts of control cells of each context; perturbed cells are left out.
    perturbation_key, control_value, context_key, separator
        As of :func:`~scgm_scvi.metrics.holdout`. Contexts are scored one by one.
    train
        Raw counts of training cells, perturbed and control. PCA is fitted on them; without them, on
        a fifth of the cells, which the metrics of this package then leave out.
    embeddings
        A vector for each perturbation, by name, for the baselines that need them.
    baseline
        Of ``metrics.BASELINES``, the one that is 0 of the scaled score. Default: ``"mean"``, or in
        a context without training perturbations ``"mean_across"``, or without ``train``
        ``"control"``.
    metrics
        Which to compute.
    predicted_expression
        What ``X`` of predicted cells holds: raw counts, or log1p of counts per 10,000. The
        challenge's metrics need counts.
    target_genes
        For the challenge's metrics: the gene that each perturbation aims at, or None; a name that
        is a gene's is taken to aim at it.
    n_top, n_pcs, n_max
        Number of genes called different, of principal components, and of cells a side at most.
    alpha
        Level of the question whether a perturbation has an effect: half of it is for the E-test in
        principal components, half for Mann-Whitney tests of the genes (adjusted for their number by
        Benjamini and Hochberg), which see a target that went down alone.
    seed
        Of halves and subsamples. Names of cells and genes decide with it, their order does not.

    Returns
    -------
    DataFrame with the columns ``method``, ``context``, ``perturbation``, ``metric``, ``value``,
    ``replicate``, ``baseline``, ``scaled``, ``n`` (cells a side) and ``note``. The perturbation
    ``"all"`` has means over perturbations, scaled after averaging, with their number for ``n``.
    ``note`` says why numbers are missing: ``"too few cells"`` (fewer than 10 a side), ``"not
    predicted"``, ``"no baseline"``, ``"undefined"`` (a correlation of no change, a metric of
    differing genes where too few differ); or why a score is not scaled: ``"no effect"``, where real and
    control cells do not differ, and ``"the baseline is as good as a replicate"``.

    Warns
    -----
    UserWarning
        If ``X`` looks like logarithms and is said to hold counts.

    Raises
    ------
    ImportError
        If the challenge's metrics are asked for and ``cell-eval2`` is not installed.
    KeyError
        If a column is missing.
    ValueError
        If the objects share too few features, hold values that ``X`` should not, a context has no
        control cells, or an argument is none of its values.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from scgm_scvi.metrics import evaluate_perturbations
    >>> rng = np.random.default_rng(0)
    >>> name = np.repeat(["control", "A", "B"], 60)
    >>> rate = np.exp(rng.normal(1, 1, size=30) + (name == "A")[:, None] * rng.normal(size=30))
    >>> cells = AnnData(rng.poisson(rate).astype(float))
    >>> cells.obs["target"] = name
    >>> table = evaluate_perturbations(
    ...     None, cells, cells, perturbation_key="target", control_value="control", n_top=5
    ... )
    >>> table.set_index(["perturbation", "metric"]).loc[("B", "r2_mean"), "note"]
    'no effect'

    References
    ----------
    Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6 (baselines); Viñas Torné et al. 2025,
    doi:10.1038/s41587-025-02777-8 (Systema); Peidli et al. 2024, doi:10.1038/s41592-023-02144-y
    (E-test); cell-eval2, https://pypi.org/project/cell-eval2.
    """
    n_top, metrics = whole_number(n_top, "n_top"), _known_metrics(metrics)
    official = [m for m in metrics if m in CHALLENGE_METRICS]
    own = [m for m in metrics if m not in CHALLENGE_METRICS]
    is_log = _is_log(predicted_expression, official)
    if official:
        require_cell_eval2()
    if baseline is not None and baseline not in BASELINES:
        raise ValueError(
            f"baseline is {baseline!r}; it must be one of {listed(BASELINES)}."
            f"{nearest(baseline, BASELINES)}"
        )
    if baseline not in (None, "control") and train is None:
        raise ValueError(f"baseline is {baseline!r}, which is made of training cells: give train.")
    keys = Keys(perturbation_key, control_value, context_key, separator)
    named = _named(predicted)
    objects = {"real": real, "control": control, **named}
    objects |= {} if train is None else {"train": train}
    features = shared_features(objects, first="real")
    if n_top >= len(features):
        raise ValueError(
            f"n_top is {n_top}, and {len(features)} features are shared: it must be lower."
        )
    screens = {
        place: Screen.read(a, features, keys, place, control=False, is_log=is_log)
        for place, a in named.items()
    }
    cells = Screen.read(real, features, keys, "real", control=False)
    unperturbed = Screen.read(control, features, keys, "control", control=True)
    _require_cells(cells, unperturbed, keys)
    vectors = read_vectors(embeddings, keys)
    of_contexts, of_bulk, trained = {}, {}, None
    if train is not None:
        trained = Screen.read(train, features, keys, "train")
        require_control(trained.name, control_value, f"train.obs[{perturbation_key!r}]")
        of_contexts = training_responses(trained)
        of_bulk = training_responses(trained, Screen.bulk) if official else {}

    pca = fit_pca(_pca_cells(trained, cells, unperturbed, seed), n_pcs)
    tables = []
    for name in cells.contexts:
        wanted = sorted({keys.parts(n) for n in cells.names(name)})
        found = baselines.predict(of_contexts, name, wanted, vectors, len(features))
        if trained is None:
            found = {"control": found["control"]}
        zero = baseline or next(b for b in ("mean", "mean_across", "control") if b in found)
        center = _mean_perturbed(trained, name)
        context = Context(
            **{"name": name, "real": cells, "control": unperturbed, "baselines": found},
            center=_mean_perturbed(cells, name) if center is None else center,
            **{"pca": pca, "aside": trained is None, "n_top": n_top, "n_max": n_max, "seed": seed},
        )
        scores = {n: context.score(n, screens, own, alpha) for n in cells.names(name)}
        if official:
            bulk = baselines.predict(of_bulk, name, wanted, vectors, len(features))
            bulk = {method: bulk[method] for method in found}
            add_challenge(scores, context, screens, bulk, features, target_genes, official)
        tables.append(rows_of(scores, name, [*screens], [*found], metrics, zero))
    return pd.concat(tables, ignore_index=True)


def _known_metrics(metrics: Sequence[str]) -> list[str]:
    known = (*SCORES, *CHALLENGE_METRICS)
    metrics = [metrics] if isinstance(metrics, str) else list(dict.fromkeys(metrics))
    for m in metrics:
        if m not in known:
            raise ValueError(
                f"metrics: {m!r} is none.{nearest(m, known)} Known: {listed(known, 99)}."
            )
    if not metrics:
        raise ValueError("metrics is empty.")
    return metrics


def _is_log(expression: str, official: Sequence[str]) -> bool:
    require_expression(expression)
    if expression == "log1p" and official:
        raise ValueError(f"{official[0]} needs counts, and predicted_expression is 'log1p'.")
    return expression == "log1p"


def _named(predicted: AnnData | Mapping[str, AnnData] | None) -> dict[str, AnnData]:
    """Predicted cells by the name of their method."""
    if predicted is None or isinstance(predicted, AnnData):
        return {} if predicted is None else {"predicted": predicted}
    taken = {"real", "control", "train", "replicate", *BASELINES}.intersection(predicted)
    if taken:
        raise ValueError(f"predicted: a method can't be called {listed(sorted(taken))}: rename it.")
    return dict(predicted)


def _require_cells(real: Screen, control: Screen, keys: Keys) -> None:
    if not len(real):
        raise ValueError(
            f"real holds control cells alone: obs[{keys.perturbation!r}] is {keys.control!r} for all."
        )
    for context in real.contexts:
        if not len(control.rows(context, keys.control)):
            where = "" if keys.context is None else f" of context {context!r}"
            raise ValueError(
                f"control holds no cells{where} whose obs[{keys.perturbation!r}] is "
                f"{keys.control!r}."
            )


def _pca_cells(trained: Screen | None, real: Screen, control: Screen, seed: int) -> np.ndarray:
    """Log expression of the cells that the PCA is fitted on: none that are compared."""
    if trained is not None:
        rows = generator(seed, "pca").permutation(len(trained))[:_MOST_FOR_PCA]
        return trained.log(np.sort(rows))
    aside = []
    for screen in (real, control):
        rows = [cut(screen, c, n, seed, aside=True)[2] for c, n in screen.groups]
        rows = generator(seed, "pca").permutation(np.concatenate(rows))[:_MOST_FOR_PCA]
        aside.append(screen.log(np.sort(rows)))
    return np.vstack(aside)


def _mean_perturbed(screen: Screen | None, context: str) -> np.ndarray | None:
    """Mean profile of the perturbations of a context, each weighing the same."""
    names = [] if screen is None else screen.names(context)
    return np.mean([screen.mean(screen.rows(context, n)) for n in names], axis=0) if names else None
