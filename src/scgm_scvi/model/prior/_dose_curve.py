"""How responses grow with the dose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._measured_responses import MeasuredResponses

__all__ = ["DoseCurve"]

_LEAST_PAIRS = 3


@dataclass(frozen=True)
class DoseCurve:
    r"""The size of a response by dose, of that at the largest: 0 at 0, and never falling.

    Attributes
    ----------
    doses, sizes
        Knots, in ascending order; in between, straight in the logarithm of the dose, below the
        smallest in the dose itself, and constant above the largest.

    Examples
    --------
    >>> from scgm_scvi.model.prior._dose_curve import DoseCurve
    >>> DoseCurve((0.1, 10.0), (0.5, 1.0))([0.0, 0.05, 1.0, 100.0])
    array([0.  , 0.25, 0.75, 1.  ])
    """

    doses: tuple[float, ...] = (1.0,)
    sizes: tuple[float, ...] = (1.0,)

    @classmethod
    def learn(cls, measured: MeasuredResponses) -> DoseCurve:
        r"""Of perturbations that were given at several doses, all of which share the curve.

        The size at a dose is :math:`\sum \langle y, y' \rangle / \sum \langle y', y' \rangle`, with
        :math:`y'` the response at the largest dose, and of two factors one of each half of the
        cells, whose noise has nothing in common. Where too few
        were, sizes grow as :math:`\ln(1 + d/d_0)`, with the median dose :math:`d_0`.
        """
        doses = np.array([o.dose for o in measured.observed])
        known = np.unique(doses[doses > 0])
        if len(known) < 2:
            return cls(tuple(known.tolist()) or (1.0,), (1.0,))
        largest = {
            (o.parts, o.context): i for i, o in enumerate(measured.observed) if o.dose == known[-1]
        }
        first, second = measured.halves / measured.noise
        usual = np.log1p(known / np.median(doses))
        sizes = usual / usual[-1]
        for j, dose in enumerate(known[:-1]):
            pairs = [
                (i, largest[o.parts, o.context])
                for i, o in enumerate(measured.observed)
                if o.dose == dose and (o.parts, o.context) in largest
            ]
            if len(pairs) < _LEAST_PAIRS:
                continue
            low, high = (list(rows) for rows in zip(*pairs, strict=True))
            noise = first.shape[1] * (1 / measured.n_cells[high]).sum()
            whole = float((first[high] * second[high]).sum())
            if whole > 0.1 * noise:
                both = (first[low] * second[high] + second[low] * first[high]).sum() / 2
                sizes[j] = np.clip(both / whole, 0.01, 1.0)
        return cls(tuple(known.tolist()), tuple(np.maximum.accumulate(sizes).tolist()))

    def __call__(self, dose: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sizes at some doses."""
        asked, knots = np.asarray(dose, dtype=float), np.array(self.doses)
        out = np.interp(np.log(np.maximum(asked, knots[0])), np.log(knots), self.sizes)
        return out * np.minimum(asked / knots[0], 1.0)
