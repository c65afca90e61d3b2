"""How far cells lie from all that a model generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._matrices import Matrix
from scgm_scvi.model.data._rows import chosen_rows
from scgm_scvi.model.training._fingerprint import weights_fingerprint

from ._generation import GenerationMixin

__all__ = ["OutlierMixin"]

_N_CELLS = 5000
_N_NEIGHBORS = 50  # a type is known that is one cell in a hundred
_N_AXES = 30
_THETA = 100.0  # as in Lause et al. and scanpy
_CLIP = 10.0
_N_FEATURES = 20_000  # the rest of many are counted too seldom to tell cells apart


class OutlierMixin(GenerationMixin):
    """Compare cells with cells that the model generates."""

    @leaves_random_state
    def ood_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> np.ndarray:
        r"""How strange each cell is to the model: higher for types that it was not trained on.

        The mean distance of a cell to the 50 cells most like it, among 5,000 that the model
        generates with the conditions of training cells. Counts :math:`x` of a cell of depth
        :math:`n` are compared as Pearson residuals against the average generated cell, which has a
        share :math:`p_g` of its counts in feature :math:`g`:

        .. math::
            r_g = \frac{x_g - n p_g}{\sqrt{n p_g + (n p_g)^2 / 100}}
            \ \text{within} \pm 10, \qquad
            y = \big(W^\top r,\ \|r - W W^\top r\|\big), \qquad
            s = \frac{1}{50\,u} \sum_{j \in N(y)} \|y - y_j\|

        Most of a cell's residuals are noise. :math:`W` holds the first 30 principal axes of
        generated cells, the programs by which they differ: a type that is missing stands out by a
        combination of them, or by what they leave out, of which the length alone is kept.
        :math:`N(y)` are the 50 nearest generated cells, and :math:`u` is the median of the same
        mean distance from a generated cell to others: 1 is as far as generated cells are from each
        other. Values that are no counts are standardised by the mean and standard deviation of
        generated cells instead.

        Cells are not encoded, because an encoder maps a type that it has never seen to the likes
        of those that it has. Only counts are read: ``adata`` needs no labels or batches.

        The first call generates the reference. It is kept and saved with the model, and made anew
        once the model is trained again or another seed is given. A type or batch that is less than
        one in a hundred training cells is strange by this score; deep cells are stranger than
        shallow ones of their type, as their counts tell more; and a type between two known ones is
        the hardest to find.

        Parameters
        ----------
        adata
            Cells with the model's features; not changed. Default: the model's data.
        indices
            Rows to score; default: all.
        seed
            Of the generated cells: same seed, same device, same scores.
        batch_size
            Cells scored at a time; does not change the scores. Default:
            1,024, or as many as are encoded within a quarter of a gigabyte.
        progress_bar
            Whether to show one while cells are generated to compare with.

        Returns
        -------
        float64 array of shape ``(n_cells,)``, in the order of ``indices``; no unit.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        ValueError
            If ``batch_size`` makes no sense, or ``adata`` lacks features or counts.

        Examples
        --------
        Cells that are stranger than nearly all held-out cells of the model's own data:

        >>> usual = model.ood_score(indices=model.validation_indices)  # doctest: +SKIP
        >>> strange = model.ood_score(adata) > np.quantile(usual, 0.95)  # doctest: +SKIP

        References
        ----------
        Residuals: Lause et al. 2021, doi:10.1186/s13059-021-02451-7.
        Distance within and from a subspace: Hubert et al. 2005, doi:10.1198/004017004000000563.
        Mean distance to neighbours: Angiulli and Pizzuti 2002, doi:10.1007/3-540-45681-3_2.
        """
        usual = encoding_batch_size(len(self.var_))
        run = self._run(seed, batch_size, progress_bar, usual=usual)
        x = self._features_of(adata)
        rows = chosen_rows(indices, (self.adata if adata is None else adata).obs_names)
        reference = self._outlier_reference(seed, progress_bar)
        neighbors = NearestNeighbors(n_neighbors=min(_N_NEIGHBORS, len(reference["cells"])))
        neighbors.fit(reference["cells"])
        scores = [np.empty(0)]
        for _, chunk in run.chunks(len(rows)):
            part = _dense(x[rows[chunk]], reference["features"])
            places = _places(_residuals(part, reference), reference["axes"])
            scores.append(neighbors.kneighbors(places)[0].mean(axis=1) / reference["unit"])
        return np.concatenate(scores)

    def _features_of(self, adata: AnnData | None) -> Matrix:
        """The matrix of cells by the model's features."""
        if adata is not None:
            return self._cells.features(adata)
        self._require_counts_of("compare")
        self._require_unchanged()
        return self._counts_of(self.adata)

    def _outlier_reference(self, seed: int, progress_bar: bool) -> dict[str, Any]:
        """Generated cells, and the axes along which they are compared."""
        made_for = {"model": weights_fingerprint(self.module.state_dict()), "seed": int(seed)}
        found = self.fitted_.get("outlier_reference")
        if found is not None and all(found[k] == v for k, v in made_for.items()):
            return found
        cells = self.generate(
            conditions=self._conditions_of_training_cells(seed),
            seed=seed,
            progress_bar=progress_bar,
        )
        x = self._cells.unpack(cells).X
        sums = np.asarray(abs(x).sum(axis=0)).ravel()
        features = np.sort(np.argsort(-sums, kind="stable")[:_N_FEATURES])
        x = _dense(x, features)
        ends = np.cumsum(self.module.widths)
        reference: dict[str, Any] = {**made_for, "features": features}
        if self.registry_["setup_args"].get("is_count_data", True):
            modality = np.searchsorted(ends, features, side="right")
            total = x.sum(axis=0, dtype=np.float64) + 1  # no feature is impossible
            reference["share"] = total / np.bincount(modality, total)[modality]
            reference["modality"] = modality
        else:
            reference["mean"] = x.mean(axis=0, dtype=np.float64)
            reference["std"] = x.std(axis=0, dtype=np.float64).clip(1e-6)
        residuals = _residuals(x, reference)
        pca = PCA(min(_N_AXES, x.shape[1]), svd_solver="randomized", random_state=0)
        reference["axes"] = pca.fit(residuals).components_.T.copy()
        reference["cells"] = _places(residuals, reference["axes"])
        neighbors = NearestNeighbors(n_neighbors=_N_NEIGHBORS).fit(reference["cells"])
        reference["unit"] = float(np.median(neighbors.kneighbors()[0].mean(axis=1)))
        self.fitted_["outlier_reference"] = reference
        return reference

    def _conditions_of_training_cells(self, seed: int) -> pd.DataFrame:
        """What cells are generated for: combinations in the proportions of training cells."""
        design, spec = self.fitted_["design"], self.condition_spec
        rows = np.random.default_rng(seed).choice(len(design["tokens"]), size=_N_CELLS)
        table = pd.DataFrame(index=pd.RangeIndex(_N_CELLS))
        for j, (name, categories) in enumerate(spec.categorical.items()):
            table[name] = np.array([np.nan, *categories], dtype=object)[design["tokens"][rows, j]]
        for name, columns in spec.value_columns.items():
            table[name] = spec.numeric[name].described(design["values"][rows, columns])
        return table


def _residuals(x: np.ndarray, reference: dict[str, Any]) -> np.ndarray:
    """What is unusual in cells ``(n, n_features)``, in standard deviations; float32."""
    if "share" in reference:
        share, modality = reference["share"].astype(np.float32), reference["modality"]
        expected = np.empty_like(x)
        for j in np.unique(modality):  # a modality has a depth of its own, or was not measured
            own = modality == j
            expected[:, own] = x[:, own].sum(axis=1, keepdims=True) * share[own]
        spread = np.sqrt(expected + expected**2 / _THETA)
        spread[spread == 0] = 1  # cells without counts
    else:
        expected, spread = reference["mean"], reference["std"]
    return ((x - expected) / spread).clip(-_CLIP, _CLIP).astype(np.float32)


def _places(residuals: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Coordinates along the axes ``(n_features, k)``, and the length of what they leave out."""
    along = residuals @ axes
    square = np.square(residuals).sum(axis=1) - np.square(along).sum(axis=1)
    return np.column_stack([along, np.sqrt(square.clip(0))])


def _dense(x: Matrix, features: np.ndarray) -> np.ndarray:
    """Some columns, as float32."""
    x = x if len(features) == x.shape[1] else x[:, features]
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)
