"""Real cells topped up with generated ones, so that rare types are no longer rare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgm_scvi._errors import listed, nearest, shown, whole_number
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.prior._encoding import mean_latents
from scgm_scvi.model.requests._condition_tables import require_known
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.model.requests._tokens import condition_tokens

from ._generation import GenerationMixin
from ._verb import fresh_seed

__all__ = ["AugmentationMixin"]

_MARK = "scgm_generated"
_PASSED_ON = (
    "guidance_scale",
    "guidance_interval",
    "composition",
    "energy",
    "sampler",
    "n_steps",
    "sampling_kwargs",
    "batch_size",
    "progress_bar",
)


class AugmentationMixin(GenerationMixin):
    """Balance data with generated cells."""

    @leaves_random_state
    def augment(
        self,
        adata: ad.AnnData | None = None,
        key: str | None = None,
        n_per_category: int | Mapping[str, int] | None = None,
        *,
        seed: int | None = None,
        **generate_kwargs: Any,
    ) -> ad.AnnData:
        """Top up every category with generated cells, to balance data for another method.

        No real cell is dropped: a category that has enough keeps what it has. Generated cells
        take the other conditions, the batch and the categorical covariates of real cells of their
        category, drawn with replacement and a whole cell at a time, so that a category keeps its
        composition. Continuous covariates are drawn as :meth:`generate` draws them.

        Parameters
        ----------
        adata
            Real cells, with the columns and the layer that the model was set up with; may be a
            view, and may have further features, which are left out. Not changed. Default: the
            model's data.
        key
            Categorical condition to balance. Default: the first one that was registered, which is
            ``labels_key`` where there is one.
        n_per_category
            Number of cells, real and generated, that a category shall have at least: one number
            for all categories present in ``adata``, or a dict of category to number for those
            named alone. A dict may name a category without real cells, if the model knows it; its
            other attributes are left unspecified. Default: the size of the largest category.
        seed
            Same seed, same device, same cells. Default: a fresh one, recorded in the result.
        **generate_kwargs
            Passed to :meth:`generate`: guidance, sampler, ``batch_size``, ``progress_bar``.

        Returns
        -------
        A new AnnData, real cells first. ``X``: registered counts of real, drawn counts of
        generated cells, CSR, float32. ``obs``: that of ``adata``, missing for generated cells
        where it is no attribute of the model, and ``scgm_generated``, which marks them. ``var``:
        that of ``adata``. ``obsm["X_scgm"]``: latents, posterior means of real cells.
        ``uns["scgm"]``: as :meth:`generate` writes it, with ``augment``: key, and categories with
        their numbers of real and of generated cells. Layers and embeddings of ``adata`` are left
        out, as generated cells have none. Cells whose ``key`` is missing stay as they are.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError
            If the model has no such condition, or ``adata`` lacks a column.
        ValueError
            If a category is unknown, a number is not a whole one of at least 1, or cells were
            generated already.
        TypeError
            If an argument is not one of :meth:`generate`, or makes no sense here.

        Examples
        --------
        >>> balanced = model.augment(adata, "cell_type", seed=0)  # doctest: +SKIP
        >>> more = model.augment(adata, "cell_type", {"CD34+": 500})  # doctest: +SKIP
        >>> balanced.obs["scgm_generated"].sum()  # doctest: +SKIP
        """
        self._require_diffusion()
        _check_generate_kwargs(generate_kwargs)
        spec = self.condition_spec
        if key is None:
            if not spec.categorical:
                raise ValueError(
                    "The model has no categorical condition to balance. Give setup_anndata a "
                    "labels_key or condition_keys, and train again."
                )
            key = next(iter(spec.categorical))
        require_known(key, list(spec.categorical), "key")
        if seed is None:
            seed = fresh_seed()
        cells = self._cells
        with self._registered(adata) as registered:
            real = self.adata if adata is None else adata
            self._check_real(real, key)
            categories = spec.categorical[key]
            codes = (
                condition_tokens(cells.obs(real)[key], categories, key, spec.unspecified.get(key))
                - 1
            )
            present = np.bincount(codes[codes >= 0], minlength=len(categories))
            n_new = np.maximum(_targets(n_per_category, categories, present, key) - present, 0)
            x = [sparse.csr_matrix(self._counts_of(registered), dtype=np.float32)]
            latent = [mean_latents(self.prior, self._minibatches(registered))]
            var = cells.var_of(real)
        obs = cells.obs(real)
        obs = obs[[c for c in obs if not str(c).startswith("_scvi_")]]
        n_real, names, uns = len(obs), obs.index.astype(str), {}
        if n_new.sum():
            # A stream of its own: `generate` makes those of its chunks from the same seed.
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
            columns = [c for c in spec.names if c in obs]
            conditions = _drawn_conditions(obs[columns], key, codes, categories, n_new, rng)
            conditions = _trained_alone(conditions, spec, key)
            made = self.generate(conditions=conditions, seed=seed, **generate_kwargs)
            new = cells.unpack(made)
            x.append(new.X)
            latent.append(new.obsm[self.latent_key])
            obs, names, uns = _stacked(obs, new.obs), names.append(new.obs_names), new.uns
        counted = np.flatnonzero((present > 0) | (n_new > 0))
        asked = {
            "key": key,
            "categories": [str(categories[i]) for i in counted],
            "n_real": present[counted].tolist(),
            "n_generated": n_new[counted].tolist(),
        }
        obs = obs.assign(**{_MARK: np.arange(len(names)) >= n_real})
        obs.index = ad.utils.make_index_unique(names)
        both = ad.AnnData(
            sparse.vstack(x, format="csr"),
            obs=obs,
            var=var,
            obsm={self.latent_key: np.concatenate(latent)},
            uns={"scgm": {**uns.get("scgm", {}), "augment": asked}},
        )
        return cells.pack(both)

    def _check_real(self, adata: ad.AnnData, key: str) -> None:
        self._require_counts_of("augment")
        obs = self._cells.obs(adata)
        if key not in obs:
            raise KeyError(f"key: {key!r} is not a column of adata.obs.")
        if _MARK in obs:
            raise ValueError(
                f"adata.obs has a column {_MARK!r} already. Augment the real cells alone: "
                f"adata = adata[~adata.obs[{_MARK!r}]].copy(); del adata.obs[{_MARK!r}]."
            )


def _check_generate_kwargs(kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if name not in _PASSED_ON:
            raise TypeError(
                f"augment takes no {name!r}.{nearest(name, _PASSED_ON)} What it passes on to "
                f"generate: {listed(_PASSED_ON)}."
            )


def _targets(
    n: int | Mapping[str, int] | None, categories: np.ndarray, present: np.ndarray, key: str
) -> np.ndarray:
    """Number of cells that each category shall have at least; 0 where none is asked for."""
    if not isinstance(n, Mapping):
        target = max(present) if n is None else whole_number(n, "n_per_category")
        return np.where(present > 0, target, 0)
    out = np.zeros(len(categories), dtype=np.int64)
    known = pd.Index(categories)
    for category, number in n.items():
        if category not in known:
            raise ValueError(
                f"n_per_category: {shown(category)} is not a known category of {key!r}.{nearest(category, known)} "
                f"Known: {listed(known)}."
            )
        out[known.get_loc(category)] = whole_number(number, f"n_per_category[{category!r}]")
    return out


def _drawn_conditions(
    obs: pd.DataFrame,
    key: str,
    codes: np.ndarray,
    categories: np.ndarray,
    n_new: np.ndarray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The attributes of random real cells of each category, one row a cell to generate."""
    rows = []
    for i in np.flatnonzero(n_new):
        alike = np.flatnonzero(codes == i)
        # -1, no such cell: all is missing
        rows.append(rng.choice(alike, n_new[i]) if len(alike) else np.full(n_new[i], -1))
    out = obs.reset_index(drop=True).astype(object).reindex(np.concatenate(rows))
    out[key] = np.repeat(categories, n_new)
    out.index = [f"generated_{i}" for i in range(len(out))]
    return out


def _trained_alone(table: pd.DataFrame, spec: ConditionSpec, key: str) -> pd.DataFrame:
    """The table with attributes left open that no training cell had, as a held-out cell may."""
    known = {**spec.categorical, **spec.nuisances}
    for name in [n for n in table if n != key and n in spec.met]:
        tokens = condition_tokens(table[name], known[name], name, spec.unspecified.get(name))
        table[name] = table[name].where(np.isin(tokens, spec.met[name]))
    return table


def _stacked(real: pd.DataFrame, generated: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``real`` for both, missing where ``generated`` has none."""
    out = real.reset_index(drop=True)
    flags = out.columns[[pd.api.types.is_bool_dtype(d) for d in out.dtypes]]
    out = out.astype(dict.fromkeys(flags, "boolean"))  # a plain one can't be missing
    out = out.reindex(range(len(real) + len(generated)))
    for name in generated.columns.intersection(real.columns, sort=False):
        new = generated[name]
        if not isinstance(new.dtype, pd.CategoricalDtype):
            out.loc[len(real) :, name] = new.to_numpy()
            continue
        old = real[name].astype("category")
        further = new.cat.remove_unused_categories().cat.categories.difference(
            old.cat.categories, sort=False
        )
        dtype = pd.CategoricalDtype([*old.cat.categories, *further], old.cat.ordered)
        values = np.concatenate([a.to_numpy(dtype=object) for a in (old, new)])
        out[name] = pd.Categorical(values, dtype=dtype)
    return out
