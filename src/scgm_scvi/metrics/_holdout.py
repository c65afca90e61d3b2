"""Which perturbed cells a model is trained on, and which it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scgm_scvi._errors import listed, nearest
from scgm_scvi._perturbation_sets import parts_of

from ._sets import names_of, require_control
from ._space import require_key

__all__ = ["holdout"]

_KINDS = ("perturbation", "combination", "context")


def holdout(
    adata: AnnData,
    perturbation_key: str,
    *,
    control_value: str,
    kind: Literal["perturbation", "combination", "context"] = "perturbation",
    context_key: str | None = None,
    contexts: Sequence[str] | None = None,
    few_shot: float = 0.0,
    test: float = 0.2,
    validation: float = 0.1,
    separator: str = "+",
    seed: int = 0,
) -> pd.Series:
    r"""Split a screen by what was done to cells, not by cells.

    Control cells are for training, in every context. What is held out is one of three things:

    - ``"perturbation"``: no training cell received it, alone or in a set. A share of the single
      parts is drawn; a set is held out as soon as one of its parts is.
    - ``"combination"``: sets. A share of the parts is held out with all sets that they are in, and
      so is the same share of the sets whose parts all stay: of doubles, some have 0, some 1 and
      some 2 parts that were seen (:func:`~scgm_scvi.metrics.seen_parts`). This is the
      ``simulation`` split of GEARS.
    - ``"context"``: all perturbed cells of some contexts (cell lines, donors), whose control cells
      are all that a model sees of them. ``few_shot`` gives some of their perturbations to
      training.

    Draws are systematic: names are ordered by the contexts that they were applied in and, at
    random, within. Of a share :math:`s`, and one uniform number :math:`u`, name number :math:`i`
    is drawn where :math:`\lfloor (i + 1) s + u \rfloor > \lfloor i s + u \rfloor`. So every group
    of names has its share, to within one name.

    Parameters
    ----------
    adata
        Cells, perturbed and control.
    perturbation_key
        Column of ``obs`` with what was done; sets are written ``"A+B"``, in any order.
    control_value
        Its value for control cells. In a set it is no part: ``"A+control"`` is ``"A"``.
    kind
        What is held out.
    context_key
        Column of ``obs`` with the context. Needed for ``kind="context"``; otherwise perturbations
        are stratified by the contexts that they occur in.
    contexts
        With ``kind="context"``: those for the test. Default: a share ``test`` of them, at least
        one, is drawn.
    few_shot
        With ``kind="context"``: share of the perturbations of each test context that are for
        training.
    test, validation
        Shares, of perturbations, sets or contexts. With ``kind="context"`` the share for
        validation may round to none.
    separator
        Between the parts of a set.
    seed
        Of all draws. The order of cells does not matter.

    Returns
    -------
    A categorical with the categories ``"train"``, ``"validation"`` and ``"test"``, indexed by
    ``obs_names`` and called ``"split"``: put it into ``obs``.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a share is none, the control is not among the values, or nothing can be held out.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from scgm_scvi.metrics import holdout
    >>> adata = AnnData(np.ones((6, 2)))
    >>> adata.obs["target"] = ["control", "A", "B", "C", "D", "E"]
    >>> split = holdout(adata, "target", control_value="control", validation=0)
    >>> split.value_counts().to_dict()
    {'train': 5, 'test': 1, 'validation': 0}

    References
    ----------
    Roohani et al. 2024 (GEARS), doi:10.1038/s41587-023-01905-6; Adduri et al. 2025 (STATE),
    doi:10.1101/2025.06.26.661135; Klein et al. 2025 (CellFlow), doi:10.1101/2025.04.11.648220.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"kind is {kind!r}; it must be one of {listed(_KINDS)}.{nearest(kind, _KINDS)}"
        )
    _require_shares(test, validation, few_shot)
    if kind != "context" and (contexts is not None or few_shot):
        raise ValueError(f"contexts and few_shot are of kind='context', and kind is {kind!r}.")
    require_key({"adata": adata}, perturbation_key, "perturbation_key")
    name = names_of(adata.obs[perturbation_key], "perturbation_key")
    require_control(name, control_value, f"adata.obs[{perturbation_key!r}]")
    if context_key is not None:
        require_key({"adata": adata}, context_key, "context_key")
        context = names_of(adata.obs[context_key], "context_key")
    elif kind == "context":
        raise ValueError("kind='context' needs context_key, the column that names contexts.")
    else:
        context = np.full(len(name), "", dtype=object)
    parts = {n: parts_of(n, control_value, separator) for n in np.unique(name.astype(str))}
    perturbed = np.array([bool(parts[n]) for n in name])
    if not perturbed.any():
        raise ValueError(f"adata.obs[{perturbation_key!r}] holds control cells alone.")

    rng = np.random.default_rng(seed)
    shares = {"test": test, "validation": validation}
    split = np.full(len(name), "train", dtype=object)
    if kind == "context":
        for place, of in _contexts(context, perturbed, contexts, shares, rng).items():
            for where in of:
                rows = np.flatnonzero(perturbed & (context == where))
                kept = _drawn(_sorted_names(name[rows], parts), few_shot, rng)
                split[[r for r in rows if parts[name[r]] not in kept]] = place
    else:
        held = _held_out(name[perturbed], context[perturbed], parts, kind, shares, rng)
        for place in ("validation", "test"):  # a set with a part of each is tested
            split[[bool(held[place](parts[n])) for n in name]] = place
    return pd.Series(
        pd.Categorical(split, categories=["train", "validation", "test"]),
        index=adata.obs_names,
        name="split",
    )


def _require_shares(test: float, validation: float, few_shot: float) -> None:
    for argument, share in {"test": test, "validation": validation, "few_shot": few_shot}.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ValueError(f"{argument} is {share!r}; it must be a share, from 0 to below 1.")
    if not 0 < test + validation < 1:
        raise ValueError(
            f"test and validation are {test} and {validation}: their sum must lie between 0 and 1."
        )


def _sorted_names(names: np.ndarray, parts: dict[str, tuple]) -> list[tuple[str, ...]]:
    return sorted({parts[n] for n in names})


def _drawn(units: list, share: float, rng: np.random.Generator, stratum: dict | None = None) -> set:
    """A share of the units, spread evenly over strata."""
    order = [units[i] for i in rng.permutation(len(units))]
    if stratum is not None:
        order.sort(key=stratum.__getitem__)  # stable: random within strata
    at = np.floor(np.arange(len(order) + 1) * share + rng.random())
    return {u for u, before, after in zip(order, at[:-1], at[1:], strict=True) if after > before}


def _two_draws(units: list, shares: dict, rng: np.random.Generator, stratum: dict) -> dict:
    """Test, and validation of what is left; at least one for a share that is not 0."""
    out = {}
    left = units
    for place, share in shares.items():
        share = share / (1 - shares["test"]) if place == "validation" else share
        found = _drawn(left, share, rng, stratum)
        if share and not found and len(left) > 1:
            found = {left[rng.integers(len(left))]}
        out[place] = found
        left = [u for u in left if u not in found]
    return out


def _where(units: list, of_cells: list[tuple], context: np.ndarray) -> dict:
    """The contexts that each unit was applied in, as one word to sort by."""
    found: dict = {u: set() for u in units}
    for mine, where in {(m, str(c)) for m, c in zip(of_cells, context, strict=True)}:
        for unit in (mine, *mine):
            if unit in found:
                found[unit].add(where)
    return {u: "\n".join(sorted(of)) for u, of in found.items()}


def _held_out(
    name: np.ndarray,
    context: np.ndarray,
    parts: dict[str, tuple],
    kind: str,
    shares: dict[str, float],
    rng: np.random.Generator,
) -> dict:
    """Of test and validation: whether a set of parts is held out."""
    of_cells = [parts[n] for n in name]
    sets = sorted(set(of_cells))
    single = sorted({p for of in sets for p in of})
    if len(single) < 2:
        raise ValueError(f"there is one perturbation, {single[0]!r}: nothing would be left.")
    unseen = _two_draws(single, shares, rng, _where(single, of_cells, context))
    whole: dict[str, set] = {place: set() for place in shares}
    if kind == "combination":
        out = set().union(*unseen.values())
        many = [s for s in sets if len(s) > 1]
        if not many:
            raise ValueError(
                "kind='combination', and no name is a set such as 'A+B': see separator."
            )
        both = [s for s in many if not out.intersection(s)]
        whole = _two_draws(both, shares, rng, _where(both, of_cells, context))
    return {
        place: lambda of, place=place: bool(unseen[place].intersection(of)) or of in whole[place]
        for place in shares
    }


def _contexts(
    context: np.ndarray,
    perturbed: np.ndarray,
    wanted: Sequence[str] | None,
    shares: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, list[str]]:
    """Contexts for test and validation: each has control cells, and one is left to train on."""
    known = sorted(np.unique(context.astype(str)))
    if wanted is not None:
        wanted = [wanted] if isinstance(wanted, str) else [str(w) for w in wanted]
        for w in wanted:
            if w not in known:
                raise ValueError(
                    f"contexts: {w!r} is none.{nearest(w, known)} Known: {listed(known)}."
                )
    if len(known) < 2:
        raise ValueError(f"there is one context, {known[0]!r}: none would be left to learn from.")
    count = lambda share: int(np.floor(share * len(known) + 0.5))
    order = [known[i] for i in rng.permutation(len(known))]
    if wanted is None:
        wanted = order[: max(count(shares["test"]), bool(shares["test"]))]
    left = [c for c in order if c not in wanted]
    out = {"test": list(wanted), "validation": left[: count(shares["validation"])]}
    if len(out["test"]) + len(out["validation"]) == len(known):
        raise ValueError("every context is held out: none is left to learn from.")
    for c in (*out["test"], *out["validation"]):
        if not (~perturbed & (context == c)).any():
            raise ValueError(f"context {c!r} has no control cells, and can't be held out.")
    return out
