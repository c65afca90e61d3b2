"""What MULTIVI answers about cells, by a model whose module is another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scgm_scvi._errors import listed, nearest
from scgm_scvi.distributions import positive_probability
from scgm_scvi.model.data._features import require_features
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.data._rows import chosen_rows

from ._modality_reading import Cells, ModalityReadingMixin

__all__ = ["ModalityGettersMixin"]

_MODALITIES = ("joint", "expression", "accessibility")


class ModalityGettersMixin(ModalityReadingMixin):
    """The getters of :class:`scvi.model.MULTIVI`, with its arguments.

    They take what every verb takes: a MuData with some of the modalities, or an AnnData.
    """

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: Cells = None,
        modality: Literal["joint", "expression", "accessibility"] = "joint",
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        return_dist: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Latents of cells, as both modalities have it or as one alone does.

        Parameters
        ----------
        adata
            Cells; default: the model's data.
        modality
            What to look at; the name of a modality will do as well. Cells that were not measured
            in it are NaN.
        indices
            Rows; default: all.
        give_mean
            The posterior's mean, or one sample of it.
        batch_size
            Cells at a time.
        return_dist
            Mean and variance of the posterior instead.

        Returns
        -------
        float32 array ``(n_cells, n_latent)``, or two.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If the modality is unknown.
        """
        self._require_trained()
        keys = [modality.key for modality in self._cells.modalities]
        if modality not in (*_MODALITIES, *keys):
            raise ValueError(
                f"modality is {modality!r}; use one of {listed([*_MODALITIES, *keys])}."
            )
        hidden = None
        if modality != "joint":
            hidden = 1 if modality in (_MODALITIES[1], keys[0]) else 0
        means, variances = [], []
        not_read = self._unseen_by_encoder()
        for tensors in self._minibatches_of(adata, indices, batch_size, not_read):
            if hidden is not None:
                tensors = self._without_modality(tensors, hidden)
            state, variance = self.module.encode_state(tensors)
            mean, variance = (s[:, : self.module.n_latent].clone() for s in (state, variance))
            if hidden is not None:
                unseen = ~self.module.features(tensors).any(dim=1)
                mean[unseen] = variance[unseen] = torch.nan
            if not (give_mean or return_dist):
                mean = mean + variance.sqrt() * torch.randn_like(mean)
            means.append(mean.cpu())
            variances.append(variance.cpu())
        mean = torch.cat(means).numpy()
        return (mean, torch.cat(variances).numpy()) if return_dist else mean

    @torch.inference_mode()
    def get_library_size_factors(
        self,
        adata: Cells = None,
        indices: Sequence[int] | None = None,
        batch_size: int = 128,
    ) -> dict[str, np.ndarray]:
        """Counts of each cell in both modalities, 0 where it was not measured.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`get_latent_representation`.

        Returns
        -------
        Dict of ``"expression"`` and ``"accessibility"`` to float32 arrays ``(n_cells,)``.
        """
        parts = [
            torch.stack([p.sum(dim=1) for p in self._split(self.module.features(t))])
            for t in self._minibatches_of(adata, indices, batch_size, self._unseen_by_encoder())
        ]
        return dict(zip(_MODALITIES[1:], torch.cat(parts, dim=1).cpu().numpy(), strict=True))

    def get_region_factors(self) -> np.ndarray:
        """Not of this model: a peak's share of what is decoded has no factor apart.

        Raises
        ------
        RuntimeError
            Always.
        """
        raise RuntimeError(f"{type(self).__name__} has no region factors.")

    @torch.inference_mode()
    def get_normalized_expression(
        self,
        adata: Cells = None,
        indices: Sequence[int] | None = None,
        n_samples_overall: int | None = None,
        transform_batch: Sequence[float | str] | None = None,
        gene_list: Sequence[str] | None = None,
        use_z_mean: bool = True,
        n_samples: int = 1,
        batch_size: int | None = None,
        return_mean: bool = False,
        return_numpy: bool = False,
        silent: bool = True,
    ) -> np.ndarray | pd.DataFrame:
        """Expected expression of each gene as a share of the cell's, measured or not.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`get_latent_representation`.
        n_samples_overall
            So many cells, drawn from ``indices`` with replacement.
        transform_batch
            Batch, or batches to average over, to decode to. Default: the cell's own.
        gene_list
            Genes; default: all.
        use_z_mean
            Decode the posterior's mean, or samples of it.
        n_samples
            Samples of each cell.
        return_mean
            Whether to average over samples.
        return_numpy
            An array in place of a DataFrame.
        silent
            As in :class:`scvi.model.MULTIVI`; there is no progress bar.

        Returns
        -------
        ``(n_cells, n_genes)``; with ``n_samples > 1``, and no mean of them, an array
        ``(n_samples, n_cells, n_genes)``.
        """
        rows = self._rows(adata, indices, n_samples_overall)
        columns = self._columns_of(0, gene_list)
        out = []
        for tensors in self._minibatches_of(adata, rows, batch_size):
            samples = []
            for _ in range(n_samples):
                state = self._state_of(tensors, use_z_mean and n_samples == 1)
                of_batches = [
                    self._shares(state, some, 0)[:, columns].cpu().numpy()
                    for some in self._in_batches(tensors, transform_batch)
                ]
                samples.append(np.mean(of_batches, axis=0))
            out.append(np.stack(samples))
        values = np.concatenate(out, axis=1)
        if n_samples > 1 and not return_mean:
            return values
        values = values.mean(axis=0)
        return values if return_numpy else self._table(values, adata, rows, 0, columns)

    @torch.inference_mode()
    def get_normalized_accessibility(
        self,
        adata: Cells = None,
        indices: Sequence[int] | None = None,
        n_samples_overall: int | None = None,
        region_list: Sequence[str] | None = None,
        transform_batch: str | int | None = None,
        use_z_mean: bool = True,
        threshold: float | None = None,
        normalize_cells: bool = False,
        normalize_regions: bool = False,
        batch_size: int = 128,
        return_numpy: bool = False,
    ) -> np.ndarray | sparse.csr_matrix | pd.DataFrame:
        """Probability that each peak is seen open in a cell, measured or not.

        Parameters
        ----------
        adata, indices, n_samples_overall, transform_batch, use_z_mean, batch_size, return_numpy
            As in :meth:`get_normalized_expression`.
        region_list
            Peaks; default: all. A dense table of all takes 0.4 MB a cell and 100,000 peaks.
        threshold
            Probability, from 0 to 1, below which a sparse matrix holds nothing.
        normalize_cells
            At each cell's own depth. Default: all at the mean depth of the training cells.
        normalize_regions
            Not here; there are no region factors.

        Returns
        -------
        ``(n_cells, n_peaks)``: a DataFrame, sparse with a ``threshold``; or the array or matrix.

        Raises
        ------
        ValueError
            If the threshold is no probability, or region factors are asked for.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold!r}; it is a probability, from 0 to 1.")
        if normalize_regions:
            raise ValueError(
                f"normalize_regions: {type(self).__name__} has no region factors; leave it out."
            )
        rows = self._rows(adata, indices, n_samples_overall)
        columns = self._columns_of(1, region_list)
        size = None if normalize_cells else self._typical_size(1)
        out = []
        for tensors in self._minibatches_of(adata, rows, batch_size):
            state = self._state_of(tensors, use_z_mean)
            if size is not None:
                state[:, -1] = size
            parts = []
            for some in self._in_batches(tensors, transform_batch):
                p = positive_probability(self.module.decode_state(state, some).parts[1])
                parts.append(p[:, columns].cpu().numpy())
            p = np.mean(parts, axis=0)
            if threshold:
                p[p < threshold] = 0
                p = sparse.csr_matrix(p)
            out.append(p)
        values = sparse.vstack(out, format="csr") if threshold else np.concatenate(out)
        return values if return_numpy else self._table(values, adata, rows, 1, columns)

    # what they share

    def _require_trained(self) -> None:
        if not self.is_trained_:
            raise RuntimeError("The model is not trained. Call model.train().")

    def _minibatches_of(
        self,
        adata: Cells,
        indices: Sequence[int] | np.ndarray | None,
        batch_size: int | None,
        ignored: Sequence[str] = (),
    ) -> Iterator[dict[str, torch.Tensor]]:
        reading = Reading([*self._absent(adata), *ignored])
        yield from self._minibatches(adata, reading, indices=indices, batch_size=batch_size or None)

    def _rows(
        self, adata: Cells, indices: Sequence[int] | None, n_samples: int | None
    ) -> np.ndarray:
        rows = chosen_rows(indices, (self.adata if adata is None else adata).obs_names)
        return rows if n_samples is None else np.random.choice(rows, n_samples)  # scvi's seed

    def _split(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return features.split(list(self.module.widths), dim=1)

    def _without_modality(
        self, tensors: dict[str, torch.Tensor], modality: int
    ) -> dict[str, torch.Tensor]:
        """The minibatch as if a modality had not been measured."""
        if REGISTRY_KEYS.ATAC_X_KEY in tensors:
            key = (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.ATAC_X_KEY)[modality]
            return {**tensors, key: torch.zeros_like(tensors[key])}
        x = tensors[REGISTRY_KEYS.X_KEY].clone()
        start, stop = self._range(modality)
        x[:, start:stop] = 0
        return {**tensors, REGISTRY_KEYS.X_KEY: x}

    def _columns_of(self, modality: int, names: Sequence[str] | None) -> slice | np.ndarray:
        if names is None:
            return slice(None)
        known = self._cells.modalities[modality].names
        require_features(names, known, ("gene_list", "region_list")[modality])
        return np.flatnonzero(known.isin(list(names)))

    def _state_of(self, tensors: dict[str, torch.Tensor], mean: bool) -> torch.Tensor:
        state, variance = (s.clone() for s in self.module.encode_state(tensors))
        if not mean:
            noise = torch.randn_like(state)
            state[:, : self.module.n_latent] += (variance.sqrt() * noise)[:, : self.module.n_latent]
        return state

    def _in_batches(
        self, tensors: dict[str, torch.Tensor], batches: Any
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The minibatch as of each batch."""
        own = tensors[REGISTRY_KEYS.BATCH_KEY]
        ((name, known),) = self.condition_spec.batch.items()
        is_one = isinstance(batches, str) or not isinstance(batches, Iterable)
        for batch in [batches] if is_one else batches:
            if batch is not None and batch not in known:
                raise ValueError(
                    f"transform_batch: the model was trained with no {name} {batch!r}."
                    f"{nearest(batch, known)} Known: {listed(known)}."
                )
            code = None if batch is None else int(np.flatnonzero(known == batch)[0])
            new = own if code is None else torch.full_like(own, code)
            yield {**tensors, REGISTRY_KEYS.BATCH_KEY: new}

    def _shares(
        self, state: torch.Tensor, tensors: dict[str, torch.Tensor], modality: int
    ) -> torch.Tensor:
        mean = self.module.decode_state(state, tensors).parts[modality].mean
        return mean / mean.sum(dim=1, keepdim=True)

    def _typical_size(self, modality: int) -> float:
        """Mean log size of the modality among cells measured in it."""
        if self.is_diffusion_trained:
            return float(self.module.denoiser.shift[self.module.n_latent + modality])
        if self.adata is None:
            raise ValueError(
                "The model was loaded without data and its stage two is not trained, so that no "
                "typical depth is known. Pass normalize_cells=True."
            )
        start, stop = self._range(modality)
        sums = np.asarray(self._counts_of(self.adata)[:, start:stop].sum(axis=1)).ravel()
        return float(np.log(sums[sums > 0]).mean())

    def _table(
        self,
        values: np.ndarray | sparse.csr_matrix,
        adata: Cells,
        rows: np.ndarray,
        modality: int,
        columns: slice | np.ndarray,
    ) -> pd.DataFrame:
        names = (self.adata if adata is None else adata).obs_names[rows]
        features = self._cells.modalities[modality].names[columns]
        if sparse.issparse(values):
            return pd.DataFrame.sparse.from_spmatrix(values, index=names, columns=features)
        return pd.DataFrame(values, index=names, columns=features)
