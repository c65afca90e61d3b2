"""Cells of many perturbations, found by context and by what was done to them.

Features are in the order of their names, and so are cells: no number depends on the order that
either came in.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from anndata import AnnData
from scipy import sparse

from scgm_scvi._perturbation_sets import parts_of

from ._sets import names_of
from ._space import ALL, log_normalize, require_counts, require_key

__all__ = ["Keys", "Screen", "check_expression", "generator", "require_expression", "responses"]

_HIGHEST = np.log1p(1e4)  # that log1p of counts per 10,000 can be


@dataclass(frozen=True)
class Keys:
    """Where a screen says what was done to a cell, and in what context."""

    perturbation: str
    control: str
    context: str | None = None
    separator: str = "+"

    def parts(self, name: str) -> tuple[str, ...]:
        """What a set consists of; nothing, for the control."""
        return parts_of(name, self.control, self.separator)


def generator(seed: int, *words: str) -> np.random.Generator:
    """Randomness of its own for each name, whichever others there are."""
    return np.random.default_rng([seed, *(zlib.crc32(w.encode()) for w in words)])


@dataclass(frozen=True, eq=False)
class Screen:
    """Counts, or their logarithms, of cells with the name and the context of each."""

    x: sparse.csr_matrix
    name: np.ndarray
    context: np.ndarray
    keys: Keys
    is_log: bool = False

    @classmethod
    def read(
        cls,
        adata: AnnData,
        features: list[str],
        keys: Keys,
        place: str,
        *,
        control: bool | None = None,
        is_log: bool = False,
    ) -> Screen:
        """Cells of an AnnData: control cells alone, all others, or (``None``) both."""
        require_key({place: adata}, keys.perturbation, "perturbation_key")
        name = names_of(adata.obs[keys.perturbation], f"perturbation_key of {place}")
        spelt = {n: n if keys.parts(n) else keys.control for n in np.unique(name.astype(str))}
        name = np.array([spelt[n] for n in name], dtype=object)  # "control+control" is the control
        context = np.full(len(name), ALL, dtype=object)
        if keys.context is not None:
            require_key({place: adata}, keys.context, "context_key")
            context = names_of(adata.obs[keys.context], f"context_key of {place}")
        keep = np.ones(len(name), dtype=bool) if control is None else (name == keys.control)
        keep = ~keep if control is False else keep
        rows = np.flatnonzero(keep)
        rows = rows[np.argsort(np.asarray(adata.obs_names[rows], dtype=str), kind="stable")]
        x = adata.X[rows] if sparse.issparse(adata.X) else np.asarray(adata.X)[rows]
        columns = adata.var_names.get_indexer(sorted(features))
        x = sparse.csr_matrix(sparse.csr_matrix(x)[:, columns], dtype=np.float64)
        check_expression(x.data, place, is_log)
        return cls(x, name[rows], context[rows], keys, is_log)

    def __len__(self) -> int:
        return self.x.shape[0]

    @cached_property
    def groups(self) -> dict[tuple[str, str], np.ndarray]:
        """Rows of each context and perturbation, in the order of their names."""
        found: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(zip(self.context, self.name, strict=True)):
            found.setdefault(key, []).append(row)
        return {key: np.array(found[key]) for key in sorted(found)}

    def rows(self, context: str, name: str) -> np.ndarray:
        """Rows of cells of one kind; none where there are none."""
        return self.groups.get((context, name), np.array([], dtype=int))

    @property
    def contexts(self) -> list[str]:
        """Sorted."""
        return sorted({context for context, _ in self.groups})

    def names(self, context: str) -> list[str]:
        """What was done to cells of a context, sorted; the control is not among them."""
        return [n for c, n in self.groups if c == context and n != self.keys.control]

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Counts, or logarithms where it has those."""
        return self.x[rows].toarray()

    def log(self, rows: np.ndarray) -> np.ndarray:
        """log1p of counts per 10,000."""
        return self.dense(rows) if self.is_log else log_normalize(self.dense(rows))

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Mean log expression, without making all cells dense at once."""
        return sum(self.log(b).sum(axis=0) for b in _blocks(rows)) / len(rows)

    def bulk(self, rows: np.ndarray) -> np.ndarray:
        """Log of mean expression, where the cells are one."""
        total = sum(np.expm1(self.log(b)).sum(axis=0) for b in _blocks(rows))
        return np.log1p(total / len(rows))

    def adata(self, rows: np.ndarray, features: Iterable[str]) -> AnnData:
        """The rows as an AnnData, with the perturbation in ``obs``."""
        out = AnnData(self.x[rows].astype(np.float32))
        out.var_names = sorted(features)
        out.obs[self.keys.perturbation] = self.name[rows].astype(str)
        return out


def require_expression(expression: str) -> None:
    """Refuse what ``predicted_expression`` can't be."""
    if expression not in ("counts", "log1p"):
        raise ValueError(f"predicted_expression is {expression!r}; it must be 'counts' or 'log1p'.")


def check_expression(values: np.ndarray, place: str, is_log: bool) -> None:
    """Refuse values that are not what they are said to be; warn of those that hardly are."""
    if is_log:
        return _require_logs(values, place)
    require_counts(values, place)
    highest = values.max(initial=0)
    if highest <= _HIGHEST and (values % 1).any():
        warnings.warn(
            f"{place}.X holds fractions, and nothing above {highest:.1f}: these look like "
            "logarithms, and are taken to be counts. Of predicted cells, say so with "
            "predicted_expression='log1p'; of others, put the counts in X.",
            UserWarning,
            stacklevel=4,
        )


def _require_logs(values: np.ndarray, place: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{place}.X holds infinite or NaN values: leave those cells out.")
    if values.max(initial=0) > 1.5 * _HIGHEST:  # predictions may overshoot, but not by so much
        raise ValueError(
            f"{place}.X holds {values.max():.1f}, and log1p of counts per 10,000 is at most "
            f"{_HIGHEST:.1f}: if these are counts, say so with predicted_expression='counts'."
        )


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, len(rows) // 1000))


def responses(
    screen: Screen,
    control: Mapping[str, np.ndarray],
    profile: Callable[[Screen, np.ndarray], np.ndarray],
) -> dict[str, dict[tuple[str, ...], np.ndarray]]:
    """Of each context, the change of the profile that each set of parts brought.

    ``control`` has the profile of control cells of each context. Names of one set count alike.
    """
    out: dict[str, dict[tuple, list[np.ndarray]]] = {}
    for (context, name), rows in screen.groups.items():
        if parts := screen.keys.parts(name):
            of = out.setdefault(context, {}).setdefault(parts, [])
            of.append(profile(screen, rows) - control[context])
    return {c: {p: np.mean(d, axis=0) for p, d in of.items()} for c, of in out.items()}
