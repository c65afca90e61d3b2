"""What the guides of a screen are, as CELLxGENE's schema 7.1 has it in ``uns``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["GUIDES", "SEVERAL", "guide_table"]

GUIDES = "genetic_perturbations"
SEVERAL = " || "  # between the parts of a value that has several
# drafts of the schema said "target" in place of "derived"
_REGIONS = ("derived_genomic_regions", "target_genomic_regions")
_FEATURES = ("derived_features", "target_features")
_COLUMNS = ("role", "protospacer_sequence", "protospacer_adjacent_motif")


def guide_table(guides: Mapping[str, Any]) -> pd.DataFrame:
    """A row a guide, indexed by its id.

    Parameters
    ----------
    guides
        ``uns["genetic_perturbations"]``: by id a dict with the guide's ``role`` (``"control"`` or
        ``"targeting"``), sequence, motif, and the regions and genes that the sequence was found in.

    Returns
    -------
    ``role``, ``protospacer_sequence``, ``protospacer_adjacent_motif``, ``derived_genomic_regions``,
    and of the genes ``feature_ids`` and ``feature_names``; several are joined by ``" || "``, and
    what the file does not say is empty.

    Raises
    ------
    ValueError
        If a guide is no dict.

    Examples
    --------
    >>> guides = {"CD4-1": {"role": "targeting", "derived_features": {"ENSG00000010610": "CD4"}}}
    >>> guide_table(guides).loc["CD4-1", ["role", "feature_names"]].to_list()
    ['targeting', 'CD4']
    """
    rows = {}
    for name, about in guides.items():
        if not isinstance(about, Mapping):
            raise ValueError(
                f"uns[{GUIDES!r}][{name!r}] is {about!r}; it must be a dict with the guide's role."
            )
        features = next((about[k] for k in _FEATURES if k in about), {})
        regions = next((about[k] for k in _REGIONS if k in about), [])
        rows[str(name)] = [
            *(str(about.get(k, "")) for k in _COLUMNS),
            SEVERAL.join(map(str, np.atleast_1d(regions))),
            SEVERAL.join(map(str, features)),
            SEVERAL.join(map(str, dict(features).values())),
        ]
    columns = [*_COLUMNS, _REGIONS[0], "feature_ids", "feature_names"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=object)
