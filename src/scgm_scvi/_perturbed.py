"""What a set-up says of perturbations: checked, and taken for conditions like others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest, shown
from scgm_scvi._perturbation_sets import names_nothing
from scgm_scvi._perturbations import Perturbations, read_embeddings

__all__ = ["check_perturbations", "name_perturbations"]

_ARGUMENTS = ("control", "dose_key", "condition_embeddings")
_SUCH_AS = {"perturbation_key": "target", "dose_key": "dose", "perturbation_separator": "+"}


def name_perturbations(setup_args: dict[str, Any]) -> None:
    """Enter perturbation and dose among the conditions that a set-up names.

    Raises
    ------
    TypeError, ValueError
        If arguments need each other, or vectors make no sense.
    """
    key, control = setup_args.get("perturbation_key"), setup_args.get("control")
    given = [name for name in _ARGUMENTS if setup_args.get(name) is not None]
    if key is None and given:
        raise ValueError(
            f"{' and '.join(given)}: name perturbation_key too, the column of obs that says what was "
            "done to a cell."
        )
    if key is None:
        return
    for name in ("perturbation_key", "dose_key", "perturbation_separator"):
        value = setup_args.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"{name} is {value!r}, a {type(value).__name__}; pass one string, such as "
                f"{name}={_SUCH_AS[name]!r}."
            )
    if control is None:
        raise ValueError(
            f"perturbation_key is {key!r}, and no control: name the value of control cells, such as "
            "control='non-targeting'."
        )
    if np.ndim(control) or not str(control).strip():
        raise TypeError(
            f"control is {control!r}; pass the one value of obs[{key!r}] that control cells have, such "
            "as control='non-targeting'."
        )
    if not setup_args.get("perturbation_separator", "+"):
        raise ValueError("perturbation_separator is empty; pass what stands between 'A' and 'B'.")
    setup_args["condition_embeddings"] = read_embeddings(setup_args.get("condition_embeddings"))
    dose_key = setup_args.get("dose_key")
    for argument, column in {"condition_keys": key, "continuous_condition_keys": dose_key}.items():
        named = setup_args.get(argument)
        if column is not None and not isinstance(named, str) and column not in (named or ()):
            setup_args[argument] = [*(named or ()), column]


def check_perturbations(
    obs: pd.DataFrame, setup_args: Mapping[str, Any], name: str, *, is_first: bool
) -> None:
    """Check what cells say of perturbations.

    Parameters
    ----------
    is_first
        Whether a model is to learn from the cells, as opposed to those that it reads later.

    Raises
    ------
    KeyError, ValueError
        If no cell is a control, a name is empty, a set is written in two ways, a dose is negative
        or missing of a perturbed cell, or vectors are of something else.

    Warns
    -----
    UserWarning
        If vectors of perturbations have names that nothing can be called.
    """
    perturbations = Perturbations.from_setup(setup_args)
    if perturbations is None or perturbations.key not in obs:
        return
    key, place = perturbations.key, f"{name}.obs[{perturbations.key!r}]"
    values = obs[key].dropna().unique().tolist()
    _require_names(obs[key], values, perturbations, place)
    written: dict[tuple[str, ...], Any] = {}
    for value in values:
        parts = perturbations.parts(value)
        if parts in written:
            raise ValueError(
                f"perturbation_key: {place} has {shown(written[parts])} and {shown(value)} for the "
                f"same perturbation. Write both {perturbations.name(parts)!r}."
            )
        written[parts] = value
    if not is_first:
        return
    if perturbations.control not in [str(v) for v in values]:
        raise ValueError(
            f"control: {perturbations.control!r} is not a value of {place}."
            f"{nearest(perturbations.control, values)} Values: {listed(values, 10)}."
        )
    if perturbations.dose_key is not None and perturbations.dose_key in obs:
        dose = pd.to_numeric(obs[perturbations.dose_key], errors="coerce").to_numpy(
            float, na_value=np.nan
        )
        treated = [v for v in values if perturbations.parts(v)]
        lacking = obs[key].isin(treated).to_numpy() & np.isnan(dose)
        if lacking.any():  # not to be read as any dose
            raise ValueError(
                f"dose_key: {int(lacking.sum())} perturbed cells have no dose in "
                f"{name}.obs[{perturbations.dose_key!r}] ({listed(obs.index[lacking], 3)}); give them "
                "one, or leave them out. Control cells may lack it."
            )
        if np.nanmin(dose, initial=0) < 0:
            raise ValueError(
                f"dose_key: {name}.obs[{perturbations.dose_key!r}] holds {np.nanmin(dose):g}; doses "
                "are not negative, and zero is the control."
            )
    conditions = [setup_args.get("labels_key"), *setup_args.get("condition_keys", ())]
    for of, table in perturbations.embeddings.items():
        if of not in conditions:
            raise KeyError(
                f"condition_embeddings: {of!r} is no categorical condition of the set-up."
                f"{nearest(of, conditions)} Conditions: {listed([c for c in conditions if c])}."
            )
        known = {str(v) for v in obs[of].dropna().unique()}
        if of == key:
            known = {part for parts in written for part in parts}
        if known and not known.intersection(table.index):
            raise ValueError(
                f"condition_embeddings[{of!r}] has none of the values of {name}.obs[{of!r}]: its index "
                f"has {listed(table.index, 3)}, and the cells {listed(sorted(known), 3)}. Put the names "
                "into its index."
            )
    _warn_of_names(perturbations)


def _warn_of_names(perturbations: Perturbations) -> None:
    """Warn of vectors that no request and no cell can mean: names are read part by part."""
    never = [n for n in perturbations.vectors.index if perturbations.parts(n) != (n,)]
    if never:
        warnings.warn(
            f"condition_embeddings[{perturbations.key!r}] has rows that are never read: "
            f"{listed(never, 5)}. A row is of one perturbation: not of the control "
            f"({perturbations.control!r}), nor of a set (with {perturbations.separator!r} in it), and "
            "without spaces before or after its name. Rename or drop them.",
            UserWarning,
            stacklevel=5,
        )


def _require_names(
    column: pd.Series, values: list[Any], perturbations: Perturbations, place: str
) -> None:
    """Refuse names that say nothing, and sets whose parts can't be told from the control."""
    control, separator = perturbations.control, perturbations.separator
    empty = [v for v in values if names_nothing(str(v), separator)]
    if empty:
        raise ValueError(
            f"perturbation_key: {place} is {listed(empty, 3)} for {int(column.isin(empty).sum())} "
            f"cells, which names nothing. Write {control!r} if they are controls, and NaN if it is "
            "not known what was done to them."
        )
    if separator not in control.strip():
        return
    unclear = [v for v in values if control in str(v) and perturbations.parts(v)]
    if unclear:
        other = next(c for c in "+|;&/" if c not in control and c != separator)
        raise ValueError(
            f"control: {control!r} holds the perturbation_separator {separator!r}, so that "
            f"{listed(unclear, 3)} in {place} can be read in several ways. Pass another "
            f"perturbation_separator, such as {other!r}, and write sets with it."
        )
