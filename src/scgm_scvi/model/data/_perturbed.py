"""What a set-up says of perturbations: checked, and taken for conditions like others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest, shown
from scgm_scvi.model.requests._perturbations import Perturbations, read_embeddings

__all__ = ["check_perturbations", "name_perturbations"]

_ARGUMENTS = ("control", "dose_key", "condition_embeddings")


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
    if control is None:
        raise ValueError(
            f"perturbation_key is {key!r}, and no control: name the value of control cells, such as "
            "control='non-targeting'."
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
        If no cell is a control, a set is written in two ways, a dose is negative, or vectors are
        of something else.
    """
    perturbations = Perturbations.from_setup(setup_args)
    if perturbations is None or perturbations.key not in obs:
        return
    key, place = perturbations.key, f"{name}.obs[{perturbations.key!r}]"
    values = obs[key].dropna().unique().tolist()
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
        dose = pd.to_numeric(obs[perturbations.dose_key], errors="coerce").to_numpy(float)
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
