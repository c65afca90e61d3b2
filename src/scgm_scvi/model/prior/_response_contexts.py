"""The contexts that responses are asked for in: those of training, and new ones known by controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from scgm_scvi._perturbations import Perturbations
from scgm_scvi.model.requests._spec import ConditionSpec

from ._response_kernels import Places

__all__ = ["context_conditions", "context_values", "places_of"]

Values = tuple[str | None, ...]


def context_conditions(spec: ConditionSpec) -> dict[str, np.ndarray]:
    """The categorical conditions that make up a context, with their categories."""
    assert spec.perturbations is not None
    return {k: c for k, c in spec.categorical.items() if k != spec.perturbations.key}


def context_values(spec: ConditionSpec, tokens: Sequence[int]) -> Values:
    """A context's values, ``None`` where unspecified."""
    pairs = zip(tokens, context_conditions(spec).values(), strict=True)
    return tuple(None if t == 0 else str(categories[t - 1]) for t, categories in pairs)


def places_of(
    spec: ConditionSpec,
    baselines: np.ndarray,
    values: Sequence[Values],
    trained: Mapping[Values, int],
) -> Places:
    """Contexts by their baselines ``(n, n_features)`` and what the vectors say of their values."""
    assert spec.perturbations is not None
    known = np.array([trained.get(v, -1) for v in values], dtype=int)
    return Places(baselines, _vectors(spec, spec.perturbations, values), known)


def _vectors(
    spec: ConditionSpec, perturbations: Perturbations, values: Sequence[Values]
) -> np.ndarray:
    """The vectors of all values of a context, side by side; NaN where one has none."""
    parts = []
    for j, name in enumerate(context_conditions(spec)):
        table = perturbations.embeddings.get(name)
        if table is not None:
            own = pd.Index([v[j] for v in values], dtype=object)
            parts.append(table.reindex(own).to_numpy(dtype=np.float64))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(values), 0))
