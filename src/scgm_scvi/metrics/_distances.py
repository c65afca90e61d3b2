"""How far apart two samples are: arrays of shape ``(n, d)`` in, numbers out."""

from __future__ import annotations

import numpy as np
import ot
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors

__all__ = [
    "classifier_auc",
    "energy_distance",
    "median_bandwidth2",
    "mixing",
    "mmd2",
    "prdc",
    "wasserstein2",
]


def classifier_auc(
    real: np.ndarray, generated: np.ndarray, *, seed: int = 0, n_folds: int = 3
) -> float:
    """Cross-validated ROC AUC of a random forest that tells real from generated; 0.5 is ideal.

    Trees grow to two cells a leaf: shallow trees understate differences.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.metrics import classifier_auc
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> classifier_auc(x, x + 10)
    1.0
    """
    x = np.vstack([real, generated])
    y = np.repeat([0, 1], [len(real), len(generated)])
    p = np.zeros(len(y))
    for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(x, y):
        # one thread: in several, scikit-learn 1.9 resets Python's warning filters at the same time
        forest = RandomForestClassifier(100, min_samples_leaf=2, random_state=seed)
        p[test] = forest.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return float(roc_auc_score(y, p))


def wasserstein2(x: np.ndarray, y: np.ndarray) -> float:
    """Exact 2-Wasserstein distance with Euclidean cost, by POT.

    Large for samples of one and the same distribution, and falling with their size: read it
    against the distance between two real samples.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.metrics import wasserstein2
    >>> round(wasserstein2(np.zeros((4, 1)), np.full((4, 1), 3.0)), 6)
    3.0
    """
    weights = ot.unif(len(x)), ot.unif(len(y))
    cost = ot.emd2(*weights, euclidean_distances(x, y, squared=True), numItermax=2_000_000)
    return float(np.sqrt(max(cost, 0)))


def mmd2(x: np.ndarray, y: np.ndarray, bandwidth2: float) -> float:
    r"""Unbiased squared maximum mean discrepancy, kernel :math:`e^{-d^2 / (2 \cdot bandwidth2)}`.

    Around 0, and at times below it, for samples of one distribution. Gretton et al. 2012,
    equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.metrics import mmd2
    >>> x = np.random.default_rng(0).normal(size=(2, 200, 2))
    >>> abs(mmd2(x[0], x[1], 1.0)) < 0.02
    True
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-euclidean_distances(a, b, squared=True) / (2 * bandwidth2))

    def within(a: np.ndarray) -> float:
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def median_bandwidth2(x: np.ndarray, y: np.ndarray) -> float:
    """Half the median squared distance between two samples, the usual ``bandwidth2``."""
    return float(np.median(euclidean_distances(x, y, squared=True))) / 2


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    r"""Unbiased energy distance, :math:`2 E|x-y| - E|x-x'| - E|y-y'|`, distances not squared.

    Around 0, and at times below it, for samples of one distribution: pairs of a point with itself
    are left out, as in the ``edistance`` of pertpy 1.0.4 to 1.2. With them (other versions of pertpy, and
    the original statistic) it is larger by the mean distance within a sample over its size. With
    squared distances it would see means only. Székely & Rizzo 2013,
    doi:10.1016/j.jspi.2013.03.018; for single cells, Peidli et al. 2024,
    doi:10.1038/s41592-023-02144-y.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.metrics import energy_distance
    >>> energy_distance(np.zeros((5, 1)), np.full((5, 1), 3.0))
    6.0
    """

    def within(a: np.ndarray) -> float:
        return euclidean_distances(a).sum() / (len(a) * (len(a) - 1))

    return float(2 * euclidean_distances(x, y).mean() - within(x) - within(y))


def mixing(x: np.ndarray, y: np.ndarray, n_neighbors: int = 30) -> float:
    """Local inverse Simpson index of the two samples, scaled to 0 (apart) … 1 (mixed).

    Korsunsky et al. 2019, with equal weights for the neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.metrics import mixing
    >>> mixing(np.zeros((40, 1)), np.ones((40, 1)))
    0.0
    """
    z = np.vstack([x, y])
    is_y = np.repeat([0.0, 1.0], [len(x), len(y)])
    neighbors = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(z)
    p = is_y[neighbors.kneighbors(z, return_distance=False)[:, 1:]].mean(axis=1)
    return float((1 / (p**2 + (1 - p) ** 2) - 1).mean())


def prdc(real: np.ndarray, generated: np.ndarray, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage by ``k`` nearest neighbours.

    Recall and coverage fall where modes are lost; precision and density where cells are generated
    that are like none. Naeem et al. 2020, arXiv:2002.09797.

    Examples
    --------
    >>> import numpy as np
    >>> from scgm_scvi.metrics import prdc
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> prdc(x, x)["coverage"]
    1.0
    """

    def radius(z: np.ndarray) -> np.ndarray:
        return NearestNeighbors(n_neighbors=k + 1).fit(z).kneighbors(z)[0][:, -1]

    distance = euclidean_distances(real, generated)
    inside_real = distance < radius(real)[:, None]
    return {
        "precision": float(inside_real.any(axis=0).mean()),
        "recall": float((distance < radius(generated)[None]).any(axis=1).mean()),
        "density": float(inside_real.sum(axis=0).mean() / k),
        "coverage": float((distance.min(axis=1) < radius(real)).mean()),
    }
