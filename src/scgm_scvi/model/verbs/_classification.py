"""Tell the attributes of cells by asking under which of them the model explains the cells best."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from scgm_scvi._errors import whole_number
from scgm_scvi.model._batch_sizes import encoding_batch_size
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._changes import changed_matrix, is_written
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.data._rows import chosen_rows
from scgm_scvi.model.prior._class_evidence import UNCALIBRATED, Weighing, class_evidence
from scgm_scvi.model.requests._condition_tables import require_known
from scgm_scvi.model.training._fingerprint import weights_fingerprint
from scgm_scvi.module import SCGM_KEYS

from ._verb import Verb

__all__ = ["ClassificationMixin"]

_LEAST_CELLS, _MOST_CELLS = 20, 1000
_MOST_PAIRS = 100_000  # of a cell and a category, to calibrate by
_FEW = {"n_samples": 4, "n_levels": 6}  # where classification is a step on the way


class ClassificationMixin(Verb):
    """Classify cells by a model that generates them."""

    @leaves_random_state
    def classify(
        self,
        adata: AnnData | None = None,
        key: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        prior: Literal["train", "uniform"] = "train",
        n_samples: int = 8,
        n_levels: int = 6,
        seed: int = 0,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> pd.DataFrame:
        r"""Probabilities of every category of a condition, by comparing what it explains.

        Each category in turn is taken to be the cell's; both stages say how well it fits. Stage
        two: posterior samples of the latent are noised and denoised, and the conditional denoising
        losses along the path give a log-likelihood (:func:`scgm_scvi.diffusion.path_evidence`).
        Stage one: the log-likelihood of the features, decoded from the mean of the posterior under
        that category. Both are weighed, and the category's frequency is the prior:

        .. math::
            p(c\,|\,cell) \propto \pi_c\, e^{\,a\,\ell_c^{latent} + b\,\ell_c^{features}}

        The two weights :math:`a` and :math:`b` are what calibrates the probabilities: they are
        fitted once for each ``n_samples`` and ``n_levels``, by maximum likelihood on cells that were
        held out of training, and saved with the model. Other conditions of a cell, where it has
        them, are given.

        Parameters
        ----------
        adata
            Cells, registered like the model's own if they are not yet; not changed. The column
            ``key`` may be missing, and is not looked at. Default: the model's data.
        key
            Categorical condition. Default: the first one that was registered, which is
            ``labels_key`` where there is one.
        indices
            Rows to classify; default: all.
        prior
            ``"train"``: how often a category occurs among training cells; ``"uniform"``.
        n_samples
            Posterior samples, each with a path of its own. Time is proportional to
            ``n_samples * n_levels``, and to the number of categories up to 32. Of more, those that
            may matter by one short path and the features are looked at closely, 32 to 256.
        n_levels
            Noise levels of a path.
        seed
            Same seed, same device, same probabilities.
        batch_size
            Cells at a time; bounds the memory. Part of what the seed determines. Default:
            1,024, or as many as are encoded within a quarter of a gigabyte.
        progress_bar
            Whether to show one.

        Returns
        -------
        DataFrame with a row a cell, named as in ``obs``, and a column a category; rows sum to 1.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError
            If the model has no such condition.
        ValueError
            If a number makes no sense, the model's data are minified, or ``adata`` lacks features,
            columns or counts.

        Warns
        -----
        UserWarning
            If there are no held-out cells to calibrate by: a model without data that was never
            calibrated for these numbers, or one trained on all cells.

        Examples
        --------
        >>> probabilities = model.classify(adata, "cell_type")  # doctest: +SKIP
        >>> adata.obs["predicted"] = probabilities.idxmax(axis=1)  # doctest: +SKIP
        >>> adata.obs["certainty"] = probabilities.max(axis=1)  # doctest: +SKIP

        References
        ----------
        Li et al. 2023, arXiv:2303.16203; Clark & Jaini 2023, arXiv:2303.15233. Temperatures:
        Guo et al. 2017, arXiv:1706.04599.
        """
        usual = encoding_batch_size(len(self.var_))
        run = self._run(seed, batch_size, progress_bar, usual=usual)
        spec = self.condition_spec
        if key is None:
            key = next(iter(spec.categorical), "cell_type")
        require_known(key, list(spec.categorical), "key")
        if prior not in ("train", "uniform"):
            raise ValueError(f"prior is {prior!r}; use 'train' or 'uniform'.")
        self._require_counts_of("compare")
        settings = {
            "n_samples": whole_number(n_samples, "n_samples"),
            "n_levels": whole_number(n_levels, "n_levels"),
        }
        weights = self._classifier_weights(key, settings)
        weighing = Weighing(*weights, self._log_frequencies(key) if prior == "train" else 0.0)
        parts = [np.empty((0, len(spec.categorical[key])))]
        with self._registered(adata, Reading([key], self._may_lack_nuisances())) as cells:
            rows = chosen_rows(indices, cells.obs_names)
            names = cells.obs_names[rows]
            loader = self._make_data_loader(adata=cells, indices=rows, batch_size=run.batch_size)
            loader = map(self._with_nuisances, loader)
            found = class_evidence(self.prior, loader, key, seed, weighing, **settings)
            with run.bar(len(names), "Classifying") as bar:
                for latent, features in found:
                    parts.append(softmax(weighing.logits(latent, features), axis=1))
                    bar.update(len(latent))
        return pd.DataFrame(np.concatenate(parts), index=names, columns=spec.categorical[key])

    def _weights_for_minibatches(self, key: str) -> tuple[float, float]:
        """What :meth:`_probabilities` weighs by; to be found once, as it reads the whole model."""
        with warnings.catch_warnings():  # of weights that can't be fitted: what there is will do
            warnings.filterwarnings("ignore", "The probabilities are not calibrated")
            return self._classifier_weights(key, _FEW)

    def _probabilities(
        self, tensors: Any, key: str, seed: int, weights: tuple[float, float]
    ) -> np.ndarray:
        """Those of the categories of ``key`` ``(n, n_categories)``, for the cells of a minibatch."""
        weighing = Weighing(*weights, self._log_frequencies(key))
        found = class_evidence(self.prior, [tensors], key, seed, weighing, **_FEW)
        ((latent, features),) = found
        return softmax(weighing.logits(latent, features), axis=1)

    def _log_frequencies(self, key: str) -> np.ndarray:
        """Log shares of the categories among training cells, none of them 0."""
        n = len(self.condition_spec.categorical[key])
        j = self.condition_spec.position(key)
        design = self.fitted_["design"]
        tokens = design["tokens"][~design["replayed"]] if "replayed" in design else design["tokens"]
        counts = np.bincount(tokens[:, j], minlength=n + 1)[1:]
        return np.log((counts + 1) / (counts + 1).sum())

    def _classifier_weights(self, key: str, settings: dict[str, int]) -> tuple[float, float]:
        """The weights of latents and of features, fitted if they are not yet."""
        fingerprint = weights_fingerprint(self.module.state_dict())
        kept = self.fitted_.get("classifier", {})
        known: dict[tuple[str, int, int], tuple[float, float]] = {}
        if kept.get("fingerprint") == fingerprint:  # weights of other networks are stale
            known = kept["weights"]
        n_samples, n_levels = settings["n_samples"], settings["n_levels"]
        which = (key, n_samples, n_levels)  # more samples and levels are to be trusted more
        if which not in known:
            with self._calibrating_cells() as cells:
                rows, labels = self._held_out(key, cells)
                if len(rows) < _LEAST_CELLS:
                    warnings.warn(
                        f"The probabilities are not calibrated: {len(rows)} held-out cells with a "
                        f"known {key!r} are at hand, and {_LEAST_CELLS} are needed. Classify once "
                        "with the data that the model was trained on, by the same n_samples and "
                        "n_levels, and save the model.",
                        UserWarning,
                        stacklevel=4,
                    )
                    return UNCALIBRATED
                size = min(_MOST_CELLS, encoding_batch_size(len(self.var_)))
                loader = self._make_data_loader(adata=cells, indices=rows, batch_size=size)
                frequencies = self._log_frequencies(key)
                weighing = Weighing(prior=frequencies)
                found = class_evidence(self.prior, loader, key, 0, weighing, **settings)
                latent, features = (np.concatenate(parts) for parts in zip(*found, strict=True))
            known = {**known, which: _fit(latent, features, frequencies, labels)}
            self.fitted_["classifier"] = {"fingerprint": fingerprint, "weights": known}
        return known[which]

    @contextmanager
    def _calibrating_cells(self) -> Iterator[Any]:
        """The model's cells with the attributes it was trained on; ``None`` where they are gone."""
        manager = None if self.adata is None else self.adata_manager
        with ExitStack() as stack:
            if manager is None or changed_matrix(manager) is not None:
                yield None
            elif is_written(manager):
                yield self.adata
            else:  # set up for another model since
                try:
                    cells = stack.enter_context(self._registered(None, Reading(afresh=True)))
                except (KeyError, ValueError):  # columns are gone, or say what is not known
                    cells = None
                yield cells

    def _held_out(self, key: str, cells: Any) -> tuple[np.ndarray, np.ndarray]:
        """Held-out rows of the model's cells whose category is known, and the category's number."""
        rows = np.asarray([] if self.validation_indices is None else self.validation_indices)
        rows = rows.astype(np.int64)
        if cells is None or not len(rows):
            return rows[:0], rows[:0]
        j = self.condition_spec.position(key)
        manager = self.get_anndata_manager(cells, required=True)
        labels = np.asarray(manager.get_from_registry(SCGM_KEYS.CONDITIONS_KEY))[rows, j]
        rows, labels = rows[labels > 0], labels[labels > 0] - 1
        most = _MOST_PAIRS // len(self.condition_spec.categorical[key])
        most = min(_MOST_CELLS, max(_LEAST_CELLS, most))
        keep = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
        return rows[keep], labels[keep]


def _fit(
    latent: np.ndarray, features: np.ndarray, prior: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Positive weights of greatest likelihood, held near the usual ones by a weak prior."""
    start, rows = np.log(UNCALIBRATED), np.arange(len(labels))

    def loss(log_weights: np.ndarray) -> float:
        a, b = np.exp(log_weights)
        log_p = log_softmax(a * latent + b * features + prior, axis=1)
        return -log_p[rows, labels].sum() + ((log_weights - start) ** 2).sum() / 2

    a, b = np.exp(minimize(loss, start, method="L-BFGS-B").x)
    return float(a), float(b)
