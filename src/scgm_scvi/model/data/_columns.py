"""What columns of ``obs`` a model can read, remember and write again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from scgm_scvi._errors import listed, nearest
from scgm_scvi.model.requests._names import RESERVED, is_writable_name

__all__ = ["check_columns", "check_kinds"]

_BOOLEAN = ("bool", "boolean")


def check_columns(
    obs: pd.DataFrame,
    keys: Mapping[str, Sequence[str | None]],
    numeric: Collection[str] = (),
    name: str = "adata",
    *,
    check_names: bool = True,
) -> None:
    """Check that columns hold categories, and have names, that every file can hold.

    A model keeps the categories that it was trained on, and gives them to the cells that it makes.
    What is refused here would be trained on, and then neither saved nor written.

    Parameters
    ----------
    obs
        Table of the cells' attributes, which has the columns.
    keys
        Argument name to the columns given for it.
    numeric
        Arguments whose columns are numbers, not categories.
    name
        What messages call the cells.
    check_names
        Whether to check names too; not where a model has them already.

    Raises
    ------
    ValueError
        If a name is no string, is empty, is ``"_index"``, has a ``"/"`` or is there twice; if categories are not
        all strings, all numbers or all booleans; if numbers are complex, or are booleans to be
        asked for.

    Examples
    --------
    >>> obs = pd.DataFrame({"age": pd.cut([3, 40], [0, 18, 90]), "sex": ["f", "m"]})
    >>> check_columns(obs, {"labels_key": ["sex"]})
    >>> try:
    ...     check_columns(obs, {"condition_keys": ["age"]})
    ... except ValueError as e:
    ...     print(str(e)[:62])
    condition_keys: adata.obs['age'] holds values of type Interval
    """
    for argument, columns in keys.items():
        for column in columns:
            if column is None or column not in obs:
                continue
            place = f"{argument}: {name}.obs[{column!r}]"
            if check_names and not is_writable_name(column):
                raise ValueError(
                    f"{place} has a name that files can't hold: they take strings that are not "
                    f"empty, without '/', and other than {RESERVED!r}. Rename it: {name}.obs = "
                    f"{name}.obs.rename(columns={{{column!r}: {_name_for(column)!r}}})."
                )
            source = f"{name}.obs[{column!r}]"
            if isinstance(obs[column], pd.DataFrame):
                raise ValueError(
                    f"{place} is {obs[column].shape[1]} columns of one name. Rename the others."
                )
            if argument in numeric:
                _check_numbers(obs[column], place, source)
                if argument == "continuous_condition_keys" and obs[column].dtype.name in _BOOLEAN:
                    raise ValueError(
                        f"{place} holds booleans, which are two categories: name it in "
                        f"condition_keys, or make them numbers: {source} = {source}.astype(float)."
                    )
            else:
                _check_categories(obs[column], place, source)


def check_kinds(obs: pd.DataFrame, known: Mapping[str, np.ndarray], name: str) -> None:
    """Check that new categories are of the kind of those that they will stand beside.

    Parameters
    ----------
    known
        Column to the categories that a model has.

    Raises
    ------
    ValueError
        If they are numbers beside strings, or the like.
    """
    for column, categories in known.items():
        if column not in obs or not len(categories):
            continue
        values = obs[column].dropna().unique().tolist()
        both = pd.Index([*categories, *values], dtype=object)
        if pd.api.types.infer_dtype(both, skipna=False) in ("mixed", "mixed-integer"):
            value = next((v for v in values if type(v) is not type(categories[0])), values[0])
            raise ValueError(
                f"{name}.obs[{column!r}] holds {listed(values, 3)}, and the model's categories are "
                f"{listed(categories, 3)}.{nearest(value, categories)} Make them of one kind, as by "
                f"{name}.obs[{column!r}] = {name}.obs[{column!r}].astype(str)."
            )


def _check_numbers(column: pd.Series, place: str, source: str) -> None:
    dtype = column.dtype
    if dtype.kind == "c":
        raise ValueError(
            f"{place} has dtype {dtype}; real numbers are needed. Convert it: {source} = "
            f"{source}.astype(float)."
        )


def _check_categories(column: pd.Series, place: str, source: str) -> None:
    try:
        categories = column.astype("category").cat.categories
    except (TypeError, ValueError):  # of lists, say
        categories = column.dropna()
    else:
        if categories.dtype.kind in "biuf":  # numpy's, and pandas' own that know missing values
            return
        if not len(categories) or pd.api.types.infer_dtype(categories, skipna=False) == "string":
            return
    kinds = sorted({type(c).__name__ for c in categories})
    text = f"{source}.astype(str)"
    if column.isna().any():  # else missing would become the category "nan"
        text += f".where({source}.notna())"
    raise ValueError(
        f"{place} holds values of type {' and '.join(kinds)} ({listed(categories, 3)}), where "
        "categories must be strings, numbers or booleans, and of one kind: others can't be "
        f"written to a file. Make them strings: {source} = {text}."
    )


def _name_for(column: object) -> str:
    """A name like it."""
    text = str(column).replace("/", "_")
    return text if is_writable_name(text) else "column"
