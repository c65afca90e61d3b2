"""From what was measured of cells in one modality to what would have been in another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi._errors import listed, nearest, whole_number
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._matrices import stacked
from scgm_scvi.model.data._mudata_cells import MuDataCells
from scgm_scvi.model.data._reading import Reading
from scgm_scvi.model.data._results import used_categories
from scgm_scvi.model.prior._posterior import fit_posterior
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._request import Request

from ._classification import ClassificationMixin
from ._refusals import refused
from ._verb import fit_steps, require_expression

__all__ = ["TranslationMixin"]

_ALIASES = (("rna", "expression"), ("atac", "accessibility"))


class TranslationMixin(ClassificationMixin):
    """The missing modality of cells that were measured in one."""

    _cells: MuDataCells

    @leaves_random_state
    def translate(
        self,
        data: AnnData | MuData,
        to: str = "atac",
        *,
        conditions: Conditions = None,
        n_samples: int = 1,
        n_fit_steps: int = 0,
        expression: Literal["counts", "normalized"] = "counts",
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData:
        r"""What would have been measured of cells in another modality.

        The encoder, which training showed cells with one modality hidden, says what a cell's
        latent may be; the other modality is decoded from samples of it, under the cell's
        conditions, at a depth that such cells have in it.

        Parameters
        ----------
        data
            Cells with raw counts of one modality: an AnnData, or a MuData, whose modality ``to`` is
            not looked at if it has one. It may have features that the model does not know. Not
            changed.
        to
            Modality to predict, ``"atac"`` or ``"rna"``, or its name in the model's data.
        conditions
            What is known of the cells, as in :meth:`generate`: a dict, or a DataFrame with a row a
            cell, by name where its index names them. ``{}``: nothing. A categorical condition that
            is left open is drawn for each sample from its probabilities given the counts, as
            :meth:`classify` has them. Default: the cells' own columns, where they have them; a cell
            type among these helps the prediction, and must be left out where one is to find out how
            good it is.
        n_samples
            Predictions of each cell, which differ as far as its counts leave it open.
        n_fit_steps
            Steps by which the encoder's posterior is fitted to the cell, as in :meth:`enhance`. None
            by default: what fits a cell's own counts better told less of its other modality.
        expression
            ``"counts"``: as they would have been measured. ``"normalized"``: the mean over samples,
            scaled to 10,000 a cell; dense, which takes 0.4 MB for each cell and 100,000 features.
        seed
            Same seed, same device, same result. Default: a fresh one, recorded in the result.
        batch_size
            Cells at a time; bounds the memory. Part of what the seed determines.
        progress_bar
            Whether to show one.

        Returns
        -------
        AnnData of the cells by the features of ``to``, with the ``obs`` of the cells, of its
        categories those in use, and

        - ``X``: counts, CSR, or their normalised mean, float32. Of several samples of counts, one
          after the other: all cells of the first, then of the second; ``obs["scgm_sample"]`` is
          the sample's number and ``obs["scgm_cell"]`` the cell's name.
        - ``obs["scgm_uncertainty"]``, with several samples: the distance between their means and
          the mean of these in log1p of counts per 10,000, the root of the mean square.
        - ``obsm["X_scgm"]``: means of the latents' posteriors; ``uns["scgm"]``: every parameter.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since.
        KeyError, TypeError, ValueError
            If the modality is unknown, a cell has no counts to translate from, or an attribute or
            number makes no sense.

        Examples
        --------
        >>> peaks = model.translate(adata_rna, to="atac", seed=0)  # doctest: +SKIP
        >>> blind = model.translate(mdata, to="rna", conditions={}, n_samples=10)  # doctest: +SKIP

        References
        ----------
        Wu et al. 2021, BABEL, doi:10.1073/pnas.2023070118; missing modalities: Wu & Goodman 2018,
        arXiv:1802.05335.
        """
        run = self._run(seed, batch_size, progress_bar)
        number = self._modality_to(to)
        n_samples = whole_number(n_samples, "n_samples")
        n_fit_steps = fit_steps(n_fit_steps)
        require_expression(expression)
        cells = self._cells
        if not cells.is_cells(data):
            raise TypeError(f"data is a {type(data).__name__}; pass an AnnData or a MuData.")
        request = None
        if conditions is not None:
            request = Request.parse(self.condition_spec, None, conditions, data.obs_names)
        source = self._without(data, number)
        generator = self.prior.generator(run.seed)
        counts: list[list[Any]] = [[] for _ in range(n_samples)]
        parts, done = [], 0
        weights: dict[str, tuple[float, float]] = {}
        with run.bar(data.n_obs, "Translating") as bar:
            for tensors in self._to_translate(source, request, run.batch_size):
                own = run.seed + done
                part = self._translated(
                    tensors, number, n_samples, n_fit_steps, expression, own, generator, weights
                )
                for kept, x in zip(counts, part.counts, strict=False):
                    kept.append(x)
                parts.append(part)
                done += len(part.latent)
                bar.update(len(part.latent))
        obs = cells.obs(data)
        obs = obs[[c for c in obs if not str(c).startswith("_scvi_")]].copy()
        if n_samples > 1:
            obs["scgm_uncertainty"] = np.concatenate([p.spread for p in parts])
        latent = np.concatenate([p.latent for p in parts])
        if expression == "normalized":
            x = np.concatenate([p.mean for p in parts])
        else:
            x = stacked([x for sample in counts for x in sample])
            if n_samples > 1:
                obs = _repeated(obs, n_samples)
                latent = np.tile(latent, (n_samples, 1))
        uns = self._provenance(
            run,
            to=cells.modalities[number].key,
            conditions="of the cells" if conditions is None else sorted(map(str, conditions)),
            n_samples=n_samples,
            n_fit_steps=n_fit_steps,
            expression=expression,
            batch_size=run.batch_size,
        )
        return AnnData(
            x,
            obs=used_categories(obs),
            var=self._var_of_modality(number),
            obsm={self.latent_key: latent},
            uns={"scgm": uns},
        )

    impute = refused(
        " of several modalities: :meth:`translate` predicts one that was not measured",
        "{name} predicts whole modalities: call translate(data, to=...).",
    )

    def _modality_to(self, to: str) -> int:
        """Number of the modality that a user names."""
        keys = [modality.key for modality in self._cells.modalities]
        for i, (key, aliases) in enumerate(zip(keys, _ALIASES, strict=True)):
            if to == key or (to in aliases and to not in keys):
                return i
        known = [*keys, *(a[0] for a in _ALIASES if a[0] not in keys)]
        raise KeyError(
            f"to is {to!r}, which is no modality of the model.{nearest(to, known)} "
            f"Known: {listed(known)}."
        )

    def _without(self, data: AnnData | MuData, number: int) -> AnnData | MuData:
        """The cells without what was measured of a modality, and checked to have been measured."""
        modalities = self._cells.modalities
        hidden, shown = modalities[number], modalities[1 - number]
        source = data
        if isinstance(data, MuData):
            held = self._cells.held(data)
            if shown.key not in held:
                raise KeyError(
                    f"data has no modality {shown.key!r} to translate from; it has "
                    f"{listed(data.mod)}."
                )
            source = held[shown.key]
        elif not data.var_names.isin(shown.names).any():
            raise ValueError(
                f"data has none of the features of {shown.key!r} ({listed(shown.names[:3])}, …), "
                f"from which {hidden.key!r} is predicted. Its var_names begin "
                f"{listed(data.var_names[:3])}."
            )
        if isinstance(data, AnnData) and data.var_names.isin(hidden.names).any():
            source = data[:, ~data.var_names.isin(hidden.names)]
        x = self._cells.by_modality(source)[shown.key]
        empty = np.asarray(x.sum(axis=1)).ravel() == 0
        if isinstance(data, MuData) and source.n_obs < data.n_obs:
            missing = data.obs_names.difference(source.obs_names, sort=False)
            raise ValueError(
                f"{len(missing)} of the {data.n_obs} cells of data were not measured in "
                f"{shown.key!r}: {listed(missing, 3)}. Leave them out."
            )
        if empty.any():
            raise ValueError(
                f"{int(empty.sum())} of the {len(empty)} cells have no count in {shown.key!r}: "
                f"{listed(source.obs_names[empty], 3)}. There is nothing to translate; leave them "
                "out."
            )
        if not isinstance(data, MuData):
            return source
        out = source[:, shown.names].copy() if source.is_view else source
        return AnnData(
            out.X,
            obs=self._cells.obs(data).loc[source.obs_names],
            var=out.var[[]],
            layers=out.layers,
        )

    def _to_translate(
        self, source: AnnData, request: Request | None, batch_size: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches, with the conditions that were asked for."""
        steered, done = self.condition_spec.steered, 0
        ignored = steered if request is not None else [n for n in steered if n not in source.obs]
        for tensors in self._minibatches(source, Reading(ignored), batch_size=batch_size):
            if request is not None:
                own = Attributes.of(self.condition_spec, tensors)
                part = request.rows(done, done + len(own))
                tensors = {**tensors, **part.instead_of(own).tensors}
            done += len(next(iter(tensors.values())))
            yield tensors

    def _translated(
        self,
        tensors: dict[str, torch.Tensor],
        number: int,
        n_samples: int,
        n_fit_steps: int,
        expression: str,
        seed: int,
        generator: torch.Generator,
        weights: dict[str, tuple[float, float]],
    ) -> _Translated:
        """Predictions for a minibatch."""
        prior = self.prior
        posterior = fit_posterior(prior, tensors, n_fit_steps, generator)
        own, mean = posterior.attributes, posterior.latents
        open_ended = self._probabilities_of_open(tensors, own, seed, weights)
        seeds = np.random.SeedSequence(seed).generate_state(n_samples, np.uint64) >> 1
        counts: list[sparse.csr_matrix] = []
        total = torch.zeros(1, device=mean.device)
        with torch.no_grad():
            for i, drawn in enumerate(seeds.tolist(), 1):
                z = posterior.unstandardized(posterior.draw(generator))
                sizes = self._sizes_with(mean, posterior.log_size, number, generator)
                told = _drawn_conditions(own, open_ended, drawn)
                both: Any = prior.decode(torch.cat([z, sizes], dim=1), told)
                px = both.part(number)
                if expression == "counts":
                    counts.append(prior.draw(px, "counts", drawn))
                if expression == "counts" and n_samples == 1:
                    continue
                share = px.mean / px.mean.sum(dim=1, keepdim=True) * 1e4
                total = total + share / n_samples
                log = torch.log1p(share)
                if i == 1:
                    log_mean, squares = log, torch.zeros_like(log)
                    continue
                step = log - log_mean  # Welford's, without large differences
                log_mean = log_mean + step / i
                squares = squares + step * (log - log_mean)
            spread = None
            if n_samples > 1:
                spread = (squares.sum(dim=1) / (n_samples - 1)).sqrt().cpu().numpy()
        return _Translated(
            counts,
            total.cpu().numpy() if expression == "normalized" else None,
            mean.cpu().numpy(),
            spread,
        )

    def _probabilities_of_open(
        self,
        tensors: dict[str, torch.Tensor],
        own: Attributes,
        seed: int,
        weights: dict[str, tuple[float, float]],
    ) -> dict[str, np.ndarray]:
        """Of the categories of each condition that cells leave open.

        ``weights`` keeps those of conditions that were met before.
        """
        out = {}
        for j, key in enumerate(self.condition_spec.categorical):
            if bool((own.tokens[:, j] == 0).any()):
                if key not in weights:
                    weights[key] = self._weights_for_minibatches(key)
                out[key] = self._probabilities(tensors, key, seed, weights[key])
        return out

    def _sizes_with(
        self, latent: torch.Tensor, sizes: torch.Tensor, number: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Log sizes of cells, with that of a modality drawn as if it had not been measured."""
        measured = torch.ones_like(sizes, dtype=torch.bool)
        measured[:, number] = False
        mean, variance = self.module.missing_sizes(latent, sizes, measured)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + variance.sqrt() * noise

    def _var_of_modality(self, number: int) -> pd.DataFrame:
        if self.modality_var_ is not None:
            return self.modality_var_[self._cells.modalities[number].key].copy()
        return self.var_.loc[self._cells.modalities[number].names].copy()


class _Translated(NamedTuple):
    """Some cells: a matrix for each sample, the mean, the latents, how far samples differ."""

    counts: list[sparse.csr_matrix]
    mean: np.ndarray | None
    latent: np.ndarray
    spread: np.ndarray | None


def _drawn_conditions(
    own: Attributes, probabilities: dict[str, np.ndarray], seed: int
) -> Attributes:
    """A category drawn for each cell that leaves a condition open."""
    rng, out = np.random.default_rng(seed), own
    for name, each in probabilities.items():
        u = rng.random((len(each), 1))
        drawn = torch.as_tensor((each.cumsum(axis=1)[:, :-1] < u).sum(axis=1))
        token = own.tokens[:, own.spec.position(name)]
        category = torch.where(token == 0, drawn.to(token.device), token - 1)
        out = out.with_category(name, category)
    return out


def _repeated(obs: pd.DataFrame, n_samples: int) -> pd.DataFrame:
    """A row for each cell of each sample."""
    names = obs.index.astype(str)
    out = pd.concat([obs.assign(scgm_sample=i, scgm_cell=names) for i in range(n_samples)])
    out.index = [f"{name}_{i}" for i in range(n_samples) for name in names]
    return out
