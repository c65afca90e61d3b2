"""What energy guidance sees: the present estimate of the clean cells, decoded where needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.distributions import Distribution

from scgm_scvi.module import modality_sums, of_each_feature

from ._attributes import Attributes

__all__ = ["DenoisedCells", "Energy", "energy_of_states"]


class DenoisedCells:
    """Cells as a sampler estimates them on its way, all differentiable.

    An energy is a function of these: ``energy(cells)`` returns one number a cell, lower where the
    cell is more to one's liking, and sampling draws from the model's density times
    :math:`e^{-energy}`. It is an energy of clean cells: how uncertain they still are at a noise
    level is counted in for it (:func:`scgm_scvi.diffusion.energy_guidance`, ``curvature``), for
    which it has to have a second derivative.

    Attributes
    ----------
    latent
        Latents ``(n, n_latent)``, as in ``obsm["X_scgm"]``.
    log_size
        Log library sizes ``(n,)``; ``(n, n_sizes)`` where a model has several, one a modality.
    state
        Both, as stage two has them: ``(n, n_latent + n_sizes)``.
    sigma
        Noise level that was removed, in units of the standardised latent, 0-d.

    Examples
    --------
    >>> def energy(cells):  # ten thousand counts a cell, give or take 5%
    ...     return ((cells.log_size - 9.21) / 0.05) ** 2 / 2
    >>> cells = model.generate(100, {"cell_type": "CD19+ B"}, energy=energy)  # doctest: +SKIP
    >>> def energy(cells):  # of one gene, an e-fold more
    ...     return -20 * cells.proportions[:, 3].log()
    >>> cells = model.generate(100, {"cell_type": "CD19+ B"}, energy=energy)  # doctest: +SKIP
    """

    def __init__(
        self,
        state: torch.Tensor,
        sigma: torch.Tensor,
        decode: Callable[[torch.Tensor], Distribution],
        widths: Sequence[int],
    ) -> None:
        n = len(widths)
        self.state, self.sigma, self._widths = state, sigma, widths
        self.latent, self.log_size = state[:, :-n], state[:, -n:]
        if n == 1:
            self.log_size = self.log_size.squeeze(1)
        self._decode = lambda: decode(state)

    @cached_property
    def distribution(self) -> Distribution:
        """Distribution of the features that the cells decode to."""
        return self._decode()

    @property
    def expression(self) -> torch.Tensor:
        """Expected features ``(n, n_features)``, counts where the model is one of counts."""
        return self.distribution.mean

    @property
    def proportions(self) -> torch.Tensor:
        """Expected features as parts of a cell's total, where they come in modalities of its modality's."""
        totals = modality_sums(self.expression, self._widths)
        return self.expression / of_each_feature(totals, self._widths)


Energy = Callable[[DenoisedCells], torch.Tensor]


def energy_of_states(
    energy: Energy, module: Any, attributes: Attributes
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A user's energy as a function of standardised states, for stage two."""

    def of_states(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        state = module.denoiser.unstandardize(x)

        def decode(state: torch.Tensor) -> Distribution:
            return module.decode_state(state, attributes.tensors)

        return energy(DenoisedCells(state, sigma, decode, module.widths))

    return of_states
