"""Edit real cells: change what is named, keep the rest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import torch
from anndata import AnnData

from scgm_scvi._errors import whole_number
from scgm_scvi.diffusion import strength_sigma
from scgm_scvi.model._random_state import leaves_random_state
from scgm_scvi.model.data._matrices import stacked
from scgm_scvi.model.prior._borrowed_responses import BorrowedResponses
from scgm_scvi.model.prior._edited_states import (
    Edit,
    EditedCells,
    change_scale,
    check_method,
    check_samples,
    parse_sampling,
)
from scgm_scvi.model.requests._condition_tables import Conditions
from scgm_scvi.model.requests._energy import Energy
from scgm_scvi.model.requests._interventions import Genes, Intervention, Preserve
from scgm_scvi.model.requests._request import Request

from ._edit_borrowing import EditBorrowingMixin
from ._edit_curve import EditCurveMixin
from ._edit_record import (
    asked_genes,
    changed,
    described,
    expected,
    say_observational,
    say_unused,
)
from ._edit_response import EditResponseMixin, ResponseEdit, perturbation_kept
from ._moved_cells import Moves
from ._moved_edit import MovedEditMixin
from ._network_edit import NetworkEditMixin
from ._verb import require_expression

__all__ = ["EditingMixin"]

_INTERVENTION_STRENGTH = 0.5  # where genes or an energy alone are to act


class EditingMixin(
    EditCurveMixin, EditBorrowingMixin, EditResponseMixin, MovedEditMixin, NetworkEditMixin
):
    """Simulate an intervention on real cells."""

    @overload
    def edit(
        self,
        adata: AnnData,
        conditions: Conditions = None,
        *,
        copy: Literal[True],
        genes: Genes = None,
        energy: Energy | None = None,
        preserve: Preserve = None,
        method: Literal["sdedit", "inversion", "shift"] = "sdedit",
        strength: float | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        composition: Literal["auto", "joint", "additive"] = "auto",
        n_samples: int = 1,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
        edit_library_size: bool = False,
        expression: Literal["counts", "normalized"] = "counts",
        key_added: str = "scgm_edited",
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData: ...

    @overload
    def edit(
        self,
        adata: AnnData,
        conditions: Conditions = None,
        *,
        genes: Genes = None,
        energy: Energy | None = None,
        preserve: Preserve = None,
        method: Literal["sdedit", "inversion", "shift"] = "sdedit",
        strength: float | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        composition: Literal["auto", "joint", "additive"] = "auto",
        n_samples: int = 1,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
        edit_library_size: bool = False,
        expression: Literal["counts", "normalized"] = "counts",
        key_added: str = "scgm_edited",
        copy: Literal[False] = False,
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData | None: ...

    @leaves_random_state
    def edit(
        self,
        adata: AnnData,
        conditions: Conditions = None,
        *,
        genes: Genes = None,
        energy: Energy | None = None,
        preserve: Preserve = None,
        method: Literal["sdedit", "inversion", "shift"] = "sdedit",
        strength: float | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        composition: Literal["auto", "joint", "additive"] = "auto",
        n_samples: int = 1,
        sampler: str = "dpmpp_2m",
        n_steps: int | None = None,
        sampling_kwargs: Mapping[str, Any] | None = None,
        edit_library_size: bool = False,
        expression: Literal["counts", "normalized"] = "counts",
        key_added: str = "scgm_edited",
        copy: bool = False,
        seed: int | None = None,
        batch_size: int | None = None,
        progress_bar: bool = True,
    ) -> AnnData | None:
        r"""Change what is named in real cells, and keep the rest: simulate an intervention.

        A cell's latent is noised to an intermediate level and denoised under its attributes with
        those in ``conditions`` put in (SDEdit); genes and ``energy`` intervene at every step on the
        way. Attributes that are not named stay as the cell has them, or unspecified.

        Parameters
        ----------
        adata
            Cells with raw counts, registered like the model's own if they are not yet. Nothing
            that they hold is changed; results are written beside it, as said below.
        conditions
            What the cells shall become, as in :meth:`generate`: a dict of attribute to one value,
            or to a list with one a cell; or a DataFrame with a row a cell. A DataFrame, or Series,
            whose index names the cells goes by these names, one that counts its rows by position.
            A value of ``None`` leaves the attribute open. Naming the batch changes the batch. A
            perturbation that no cell had is answered as by :meth:`predict`, for control cells, with
            the response of the context that is asked for. Without a dose, a perturbation is at the
            largest that was seen; control cells that get none, or at no dose, stay as they are.
            Sets are the same in any order.
        genes
            Target of single features: ``"knockout"``; a number, expression in counts per 10,000;
            or ``"fold:x"``, ``x`` times the cell's own expression. Genes that belong to a condition
            which the cell is known not to have move more freely if it is left open:
            ``{"condition": None}``. The answer is observational: cells as they are with that much
            of the gene, not what setting it would cause; ``uns`` says so as ``kind``. But a
            ``"knockout"`` is the perturbation, where the model knows a screen that silences its
            targets and the gene is one, or has a vector: together with those in ``conditions``.
        energy
            Function of :class:`scgm_scvi.model.DenoisedCells` that returns one number a cell, lower
            where better: any differentiable objective.
        preserve
            Features, or a dict of name to list of features, whose expression is to stay, whatever
            else responds.
        method
            ``"sdedit"``: noised at random, so that samples differ, which is the uncertainty of the
            outcome. ``"inversion"``: carried up the probability flow under the cell's own
            attributes and down under the target's, deterministic and reversible. ``"shift"``:
            the difference of the means of both attributes, added to the latent; a baseline.
        strength
            From 0, the model's reconstruction of the cell, to 1: all of the latent is drawn anew,
            or the whole shift is made. In between, noise of standard deviation
            :math:`\tan(\pi s/2)`, that of the latent being 1. Default: that which
            :meth:`edit_curve` chooses, kept in the model; 0.5 where no condition is named; 0 where
            a response that no such cell showed is all: it moves the cell's own counts, and neither
            ``method`` nor ``strength`` plays a part.
        guidance_scale
            As in :meth:`generate`; above 1 exaggerates the change, a borrowed one too. Default: 1.
        composition
            ``"auto"``: the target's attributes are asked for jointly where training showed a cell
            that had them all. Where it did not, as for a cell type that was never stimulated, the
            change of mean log expression is borrowed from the groups that were seen both ways, and
            moves the cells' own counts, as in :meth:`predict`: :math:`s \sum_k w_k \Delta_k`, with
            weights that rebuild the cells' group before the change out of the others, shrunk, and
            a size; how far, and which, is chosen by leaving each group out in turn. ``"joint"`` and
            ``"additive"``: as in :meth:`generate`, of networks throughout.
        n_samples
            Edits of each cell, to tell how certain the outcome is. Of responses they are what the
            response may be as well: draws from its posterior, or as far off as borrowed ones were of
            the groups that were seen.
        sampler, n_steps, sampling_kwargs
            As in :meth:`generate`.
        edit_library_size
            Whether library sizes change with the rest. By default each cell keeps its own; but
            where a response moves a cell's own counts, what does not respond keeps its very count,
            so that the sum changes with what does.
        expression
            ``"counts"``: integers drawn from the decoder's distribution. ``"normalized"``: its
            mean, scaled to 10,000 a cell, and averaged over samples.
        key_added
            Name under which the results are written.
        copy
            Whether to leave ``adata`` as it is and return a copy with the results. Of a view, a
            copy is returned in any case.
        seed
            Same seed, same device, same cells. Default: a fresh one, recorded in the result.
        batch_size
            Cells edited at a time, as in :meth:`generate`.
        progress_bar
            Whether to show one.

        Returns
        -------
        ``None``, or the copy. Written are, for ``key_added="scgm_edited"``:

        - ``layers["scgm_edited"]``: expression; of the first sample where it is counts.
        - ``obsm["X_scgm_edited"]``: latents, of the first sample.
        - ``obs["scgm_edited_effect"]``: how much a cell changed, the Euclidean distance between its
          own reconstruction and its mean edit in log1p of counts per 10,000;
          ``obs["scgm_edited_uncertainty"]``: that between samples and their mean, the root of the
          mean square, if there are several.
        - ``uns["scgm_edited"]``: every parameter, the features that ``changed`` most, and of
          ``borrowed`` changes who borrows from whom, and what is ``expected`` of them: means over the
          groups seen both ways, each left out in turn, of R² of the mean log expression after the
          change, ``borrowed``, by ``mean_shift`` and for ``identity``, and the ``pearson_delta`` of
          borrowed and true change; NaN where fewer than three groups were. Of a perturbation that
          no cell had, ``expected`` is as of :meth:`predict`. Where responses are all, the ``method``
          is ``"response"``.

        Warns
        -----
        UserWarning
            If ``genes`` are set, once a session: the answer is observational.
            If a change is borrowed, and nothing tells how good that is, or it is expected to be no
            better than to leave the cells as they are; or if there is nobody to borrow from.
            If ``method`` or ``strength`` is named where they play no part.

        Raises
        ------
        RuntimeError
            If stage two is not trained, or stage one changed since; or cells went off to infinity.
        KeyError, TypeError, ValueError
            If an attribute, category, gene, method or number makes no sense, or ``adata`` can't be
            written to; the message names it, and nothing is written.

        Examples
        --------
        >>> model.edit(adata, {"condition": "stimulated"})  # doctest: +SKIP
        >>> b = model.edit(b_cells, {"dose": 10.0}, method="inversion", copy=True)  # doctest: +SKIP
        >>> model.edit(adata, genes={"STAT1": "knockout", "ISG15": 3.0})  # doctest: +SKIP

        References
        ----------
        Meng et al. 2022, SDEdit, arXiv:2108.01073; Su et al. 2023, Dual diffusion implicit
        bridges, arXiv:2203.08382; latent arithmetic: Lotfollahi et al. 2019, scGen,
        doi:10.1038/s41592-019-0494-8; synthetic controls: Abadie, Diamond & Hainmueller 2010,
        doi:10.1198/jasa.2009.ap08746.
        """
        run = self._run(seed, batch_size, progress_bar)
        self._cells.require_writable(adata, key_added)
        own, state = self._states(adata)
        asked = self._asked_response(adata, own, conditions, genes, preserve, energy)
        left, left_genes = conditions, genes  # to networks
        if asked is not None:
            left, left_genes = asked.conditions, asked.genes
        intervention = Intervention.parse(
            self.var_.index,
            genes=left_genes,
            preserve=preserve,
            energy=energy,
            widths=self.module.widths,
        )
        named = {str(name) for name in ({} if left is None else left)}
        if not named and intervention is None and asked is None:
            raise ValueError(
                "Nothing is to be changed: name conditions, such as {'condition': 'stimulated'}, "
                "or genes, or pass an energy. To denoise cells as they are, use model.enhance."
            )
        require_expression(expression)
        check_method(method)
        n_samples = whole_number(n_samples, "n_samples")
        check_samples(method, n_samples, intervention is not None)
        request = Request.parse(self.condition_spec, None, left, adata.obs_names)
        sampling = parse_sampling(
            self.condition_spec,
            guidance_scale,
            composition,
            sampler=sampler,
            n_steps=n_steps,
            sampling_kwargs=sampling_kwargs,
        )
        if strength is not None:
            strength_sigma(strength)  # refuses what is no strength
        target = self._target(request, own, named)
        n_draws = n_samples if n_samples > 1 else 0
        moves = Moves.none(len(own), len(self.var_), n_draws)
        response: ResponseEdit | None = None
        if asked is not None:
            target = perturbation_kept(own, target, asked.rows)
            response = self._respond(adata, asked, own, target, run, n_draws)
            moves = response.moves
        borrowed: BorrowedResponses | None = None
        if composition == "auto" and named:
            scale = change_scale(guidance_scale, named)
            found = self._borrow(adata, own, target, named, scale, run, n_draws)
            moves, borrowed = moves.joined(found.moves), found.found
            target = target.where(torch.as_tensor(found.moves.row > 0)[:, None], own)
        by_networks = np.arange(len(own))
        if not left_genes and energy is None:  # nothing is left to do to cells that are moved
            done = (moves.row > 0) & ~own.differs(target).numpy()
            by_networks = np.flatnonzero(~done)
        moved = np.setdiff1d(np.arange(len(own)), by_networks)
        if not len(by_networks):
            say_unused(method, strength)
            strength = 0.0
        elif strength is None and not named:
            strength = _INTERVENTION_STRENGTH
        elif strength is None:
            strength = self._default_strength(adata, left, method, guidance_scale, composition)
        edit = Edit(method, float(strength), sampling, edit_library_size)
        cells = EditedCells(own, target, state).rows(torch.as_tensor(by_networks))
        if left_genes:
            say_observational()
        for doubt in [
            *(borrowed.doubts if borrowed else []),
            *(response.doubts if response else []),
        ]:
            warnings.warn(doubt, UserWarning, stacklevel=3)
        parts = []
        with run.bar(len(state), "Editing") as bar, torch.no_grad():
            if len(moved):
                controls = self._as_asked(own, asked).rows(torch.as_tensor(moved))
                for part in self._edited_by_moves(
                    adata, moved, controls, moves.of_cells(moved), intervention, expression, run
                ):
                    parts.append(part)
                    bar.update(len(part.latent))
            for i, rows in run.chunks(len(by_networks)):
                some = cells.rows(rows)
                seeds = run.seeds(i, n_samples) >> 1
                of_rows = moves.of_cells(by_networks[rows])
                move = of_rows.each() if of_rows.row.any() else None
                parts.append(self._edited_part(some, edit, intervention, expression, seeds, move))
                bar.update(len(some.own))
        lenders = [] if borrowed is None else borrowed.kinds
        place = np.argsort(np.concatenate([moved, by_networks]))
        obs = {"_effect": np.concatenate([p.effect for p in parts])[place]}
        if n_samples > 1:
            obs["_uncertainty"] = np.concatenate([p.uncertainty for p in parts])[place]
        x = stacked([p.x for p in parts])
        uns = {
            **self._provenance(run, **sampling.describe(), expression=expression),
            "method": method if len(by_networks) else "response",
            "strength": edit.strength,
            "conditions": described(conditions),
            "composition": composition,
            "borrowed": [str(b) for b in lenders],
            "expected": expected(lenders) if response is None else response.expected,
            **({} if response is None else {"kind": "interventional"}),
            **({} if intervention is None else intervention.describe()),
            **asked_genes(genes),
            "n_samples": n_samples,
            "edit_library_size": bool(edit_library_size),
            "batch_size": run.batch_size,
            "changed": changed(parts, self.var_.index),
        }
        return self._cells.write(
            adata,
            key_added,
            layers={"": x[place] if len(moved) and len(by_networks) else x},
            latent=np.concatenate([p.latent for p in parts])[place],
            obs=obs,
            uns=uns,
            copy=copy,
        )
