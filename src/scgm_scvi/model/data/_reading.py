"""How cells are to be read: what of them is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Reading"]


class Reading(NamedTuple):
    """What of cells is read, and what they may lack.

    Attributes
    ----------
    ignored
        Attributes that are not looked at, whatever the cells have in their place: conditions are
        unspecified, nuisances are any.
    any_nuisance
        Whether batch and covariates may be missing, or unknown to the model. A minibatch has those
        then that explain the counts best.
    may_lack_labels
        Whether cells without a column of labels are unspecified, or an error.
    afresh
        Whether to register a stand-in, which may be written to, even of cells that are registered.
    """

    ignored: Sequence[str] = ()
    any_nuisance: bool = False
    may_lack_labels: bool = True
    afresh: bool = False
