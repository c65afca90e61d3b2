r"""What is known of a response without a model: each prediction that a model has to beat.

A response is the change :math:`\Delta_p` of mean log expression that a perturbation brings, a
vector over genes. A baseline is a function of the responses of training cells, a :class:`Pool`, and
of the names that are asked for; it answers with the responses of those that it can speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from scgm_scvi._errors import listed

from ._screen import Keys, Screen, responses
from ._sets import require_control
from ._space import pearson, shared_features

__all__ = ["BASELINES", "Pool", "baseline_responses", "pools", "read_vectors"]

Parts = tuple[str, ...]
Responses = Mapping[Parts, np.ndarray]


@dataclass(frozen=True, eq=False)
class Pool:
    """What training cells tell of responses in a context.

    ``responses`` are those of this context, or means over other contexts; ``elsewhere`` has the
    other contexts' one by one; ``vectors`` describe single parts, or whole sets.
    """

    responses: Responses
    vectors: Mapping[Parts, np.ndarray] = field(default_factory=dict)
    elsewhere: Mapping[str, Responses] = field(default_factory=dict)
    n_features: int = 0

    def vector(self, parts: Parts) -> np.ndarray | None:
        """Of a set: its own, or else the sum of its parts'."""
        if parts in self.vectors:
            return self.vectors[parts]
        found = [self.vectors[(p,)] for p in parts if (p,) in self.vectors]
        return np.sum(found, axis=0) if len(found) == len(parts) else None

    def described(self, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
        """The vectors of those that have one."""
        found = {parts: self.vector(parts) for parts in wanted}
        return {parts: v for parts, v in found.items() if v is not None}


def control(pool: Pool, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
    r"""No change, :math:`\hat\Delta_p = 0`."""
    return {parts: np.zeros(pool.n_features) for parts in wanted}


def mean(pool: Pool, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
    r"""The mean response, :math:`\hat\Delta_p = \frac1n \sum_q \Delta_q`, each weighing the same."""
    if not pool.responses:
        return {}
    response = np.mean(list(pool.responses.values()), axis=0)
    return dict.fromkeys(wanted, response)


def additive(pool: Pool, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
    r"""The sum of the parts' responses, :math:`\hat\Delta_{A+B} = \Delta_A + \Delta_B`.

    What was seen itself keeps its own response, which is what it answers across contexts.
    """
    out = {}
    for parts in wanted:
        known = [pool.responses[(p,)] for p in parts if (p,) in pool.responses]
        if parts in pool.responses:
            out[parts] = pool.responses[parts]
        elif len(known) == len(parts):
            out[parts] = np.sum(known, axis=0)
    return out


def nearest(pool: Pool, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
    r"""The response of the perturbation with the nearest vector, by Euclidean distance."""
    seen = pool.described(sorted(pool.responses))
    if not seen:
        return {}
    names, at = list(seen), np.stack(list(seen.values()))
    return {
        parts: pool.responses[names[int(np.argmin(((at - v) ** 2).sum(axis=1)))]]
        for parts, v in pool.described(wanted).items()
    }


def nearest_profile(pool: Pool, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
    r"""The response here of the perturbation that is most like it elsewhere.

    Likeness is Pearson's correlation of the two responses, a mean over the other contexts in which
    both were seen.
    """
    out = {}
    for parts in wanted:
        likeness = {}
        for other in sorted(pool.responses):
            both = [of for of in pool.elsewhere.values() if parts in of and other in of]
            found = [pearson(of[parts], of[other]) for of in both]
            if np.isfinite(found).any():
                likeness[other] = np.nanmean(found)
        if likeness:
            out[parts] = pool.responses[max(likeness, key=likeness.__getitem__)]
    return out


def ridge(pool: Pool, wanted: Sequence[Parts]) -> dict[Parts, np.ndarray]:
    r"""Linear in the vectors, :math:`\hat\Delta_p = \bar\Delta + W^T z_p`, with a penalty on ``W``.

    :math:`z` are the vectors, each coordinate standardised over the training perturbations, and
    :math:`W = (Z^T Z + \lambda I)^{-1} Z^T (\Delta - \bar\Delta)`. The penalty is the one of
    :math:`n \cdot 10^{-3}, \ldots, n \cdot 10^{3}` with the smallest squared error where each
    training perturbation in turn is left out, which needs no refitting: a residual is divided by
    one minus its leverage. The linear model of Ahlmann-Eltze et al. 2025, without its projection
    of the genes.
    """
    seen = pool.described(sorted(pool.responses))
    asked = pool.described(wanted)
    if len(seen) < 3 or not asked:
        return {}
    x, y = np.stack(list(seen.values())), np.stack([pool.responses[parts] for parts in seen])
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    u, s, vt = np.linalg.svd((x - center) / scale, full_matrices=False)
    average = y.mean(axis=0)
    target = u.T @ (y - average)

    def left_out(penalty: float) -> float:
        kept = s**2 / (s**2 + penalty)
        leverage = 1 / len(y) + (u**2 * kept).sum(axis=1)
        residual = y - average - u @ (kept[:, None] * target)
        return float(((residual / (1 - leverage)[:, None]) ** 2).sum())

    penalty = min(len(y) * 10.0 ** np.arange(-3, 3.5, 0.5), key=left_out)
    weights = vt.T @ ((s / (s**2 + penalty))[:, None] * target)
    return {parts: average + ((v - center) / scale) @ weights for parts, v in asked.items()}


_WITHIN: Mapping[str, Callable] = {
    "control": control,
    "mean": mean,
    "additive": additive,
    "nearest": nearest,
    "nearest_profile": nearest_profile,
    "ridge": ridge,
}
_ACROSS = ("mean", "additive", "nearest", "ridge")
BASELINES: tuple[str, ...] = (*_WITHIN, *(f"{name}_across" for name in _ACROSS))


def pools(
    of_contexts: Mapping[str, Responses],
    context: str,
    vectors: Mapping[Parts, np.ndarray],
    n_features: int,
) -> tuple[Pool, Pool]:
    """What is known within a context, and from all other contexts."""
    others = {c: of for c, of in of_contexts.items() if c != context}
    seen = sorted({parts for of in others.values() for parts in of})
    across = {p: np.mean([of[p] for of in others.values() if p in of], axis=0) for p in seen}
    return (
        Pool(of_contexts.get(context, {}), vectors, others, n_features),
        Pool(across, vectors, {}, n_features),
    )


def predict(
    of_contexts: Mapping[str, Responses],
    context: str,
    wanted: Sequence[Parts],
    vectors: Mapping[Parts, np.ndarray],
    n_features: int,
) -> dict[str, dict[Parts, np.ndarray]]:
    """All baselines that have an answer."""
    within, across = pools(of_contexts, context, vectors, n_features)
    out = {name: baseline(within, wanted) for name, baseline in _WITHIN.items()}
    out |= {f"{name}_across": _WITHIN[name](across, wanted) for name in _ACROSS}
    return {name: found for name, found in out.items() if found}


def read_vectors(
    embeddings: pd.DataFrame | Mapping[str, np.ndarray] | None, keys: Keys
) -> dict[Parts, np.ndarray]:
    """Vectors by the parts of what they describe."""
    if embeddings is None:
        return {}
    if isinstance(embeddings, pd.DataFrame):
        if not embeddings.index.is_unique:
            twice = embeddings.index[embeddings.index.duplicated()].unique()
            raise ValueError(f"embeddings has more than one row for {listed(twice, 3)}.")
        embeddings = dict(zip(embeddings.index, embeddings.to_numpy(dtype=np.float64), strict=True))
    out = {keys.parts(str(k)): np.asarray(v, dtype=np.float64) for k, v in embeddings.items()}
    out.pop((), None)  # the control's
    if len({v.shape for v in out.values()}) > 1:
        raise ValueError("embeddings holds vectors of different lengths.")
    bad = [keys.separator.join(k) for k, v in out.items() if not np.isfinite(v).all()]
    if bad:
        raise ValueError(f"embeddings holds infinite or NaN values for {listed(bad, 3)}.")
    return out


def baseline_responses(
    train: AnnData,
    wanted: Sequence[str],
    *,
    perturbation_key: str,
    control_value: str,
    context_key: str | None = None,
    contexts: Sequence[str] | None = None,
    embeddings: pd.DataFrame | Mapping[str, np.ndarray] | None = None,
    separator: str = "+",
) -> pd.DataFrame:
    r"""Predict responses from training cells alone, by every baseline that can.

    A response is the change of mean log1p of counts per 10,000. The baselines:

    - ``control``: no change
    - ``mean``: the mean response of the training perturbations
    - ``additive``: of ``"A+B"``, the sum of the responses to A and to B
    - ``nearest``: the response of the perturbation with the nearest vector
    - ``nearest_profile``: that of the perturbation whose responses in other contexts are most like
      those of the one asked for
    - ``ridge``: ridge regression from vectors to responses, with the penalty that
      leaving-one-out finds

    They learn from the same context; those with ``_across`` in their name from means over the
    other contexts, where ``additive_across`` is a perturbation's own mean response. A set without
    a vector of its own has the sum of its parts'.

    Parameters
    ----------
    train
        Raw counts in ``X`` of training cells, perturbed and control.
    wanted
        Names of the perturbations.
    perturbation_key, control_value, context_key, separator
        As of :func:`~scgm_scvi.metrics.holdout`.
    contexts
        Where responses are wanted. Default: all contexts of ``train``.
    embeddings
        A vector for each perturbation, by name: a row each, or a mapping. Without them there is no
        ``nearest`` and no ``ridge``.

    Returns
    -------
    DataFrame of responses with a column a feature, indexed by ``method``, ``context`` and
    ``perturbation``; what a baseline cannot answer is left out.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a context has perturbed cells and no control cells to compare them with, or vectors are
        not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from scgm_scvi.metrics import baseline_responses
    >>> rng = np.random.default_rng(0)
    >>> train = AnnData(rng.poisson(5, size=(60, 4)).astype(float))
    >>> train.obs["target"] = np.repeat(["control", "A", "B"], 20)
    >>> table = baseline_responses(
    ...     train, ["A+B"], perturbation_key="target", control_value="control"
    ... )
    >>> list(table.index.get_level_values("method"))
    ['control', 'mean', 'additive']

    References
    ----------
    Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6.
    """
    keys = Keys(perturbation_key, control_value, context_key, separator)
    features = shared_features({"train": train}, first="train")
    screen = Screen.read(train, features, keys, "train")
    require_control(screen.name, control_value, f"train.obs[{perturbation_key!r}]")
    of_contexts = training_responses(screen)
    vectors = read_vectors(embeddings, keys)
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    rows = {}
    for context in screen.contexts if contexts is None else contexts:
        asked = [parts for n in wanted if (parts := keys.parts(n))]
        for method, found in predict(of_contexts, context, asked, vectors, len(features)).items():
            for name in wanted:
                if keys.parts(name) in found:
                    rows[method, context, name] = found[keys.parts(name)]
    index = pd.MultiIndex.from_tuples(rows, names=["method", "context", "perturbation"])
    return pd.DataFrame(list(rows.values()), index=index, columns=sorted(features))[features]


def training_responses(
    screen: Screen, profile: Callable[[Screen, np.ndarray], np.ndarray] = Screen.mean
) -> dict[str, dict[Parts, np.ndarray]]:
    """Responses of each context, to its own control cells."""
    means = {}
    for context in screen.contexts:
        rows = screen.rows(context, screen.keys.control)
        if len(rows):
            means[context] = profile(screen, rows)
        elif screen.names(context):
            where = "" if screen.keys.context is None else f" of context {context!r}"
            raise ValueError(
                f"train holds perturbed cells{where} and no control cells to compare them with."
            )
    return responses(screen, means, profile)
