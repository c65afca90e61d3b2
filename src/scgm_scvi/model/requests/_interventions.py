"""Interventions on genes: targets of the decoded expression of cells, and their energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch.distributions import Distribution

from scgm_scvi.distributions import modality_sums, of_each_feature

from ._energy import DenoisedCells, Energy
from ._gene_targets import (
    PRESERVED,
    Genes,
    GeneTarget,
    Preserve,
    preserved_genes,
    require_apart,
    require_features,
    targets_of,
)

__all__ = ["Genes", "Intervention", "Preserve"]

Decode = Callable[[torch.Tensor], Distribution]

_TOTAL = 1e4  # of a cell, in which targets are counted: CP10K
_DISPERSION = 100.0  # of a target: a coefficient of variation of 10% where expression is high


@dataclass(frozen=True)
class Intervention:
    r"""Targets of the expression of some genes, and a guidance objective, as an energy of cells.

    A target :math:`t` is an expression in CP10K, that is per 10,000 of a cell's expected
    expression :math:`m`, in the gene's own modality where features come in modalities. Its energy is

    .. math::
        E = \frac{(\ln(m + 1) - \ln(t + 1))^2}{2\tau^2}, \qquad
        \tau^2 = \frac{1}{t + 1} + \frac{1}{\theta}

    where :math:`\tau^2` is the relative variance of a negative binomial count with mean
    :math:`t + 1` and dispersion :math:`\theta = 100`: near its target, this is the likelihood of
    the target as the count of a cell with 10,000 counts. Such a count says little where it is
    small, so a knocked-out gene does not drag the others further than cells without it go. What
    the guidance leaves open, :meth:`apply` closes: a target is met exactly.

    The expression is linearised at the present estimate, which leaves it a second derivative
    that is never negative (Gauss-Newton) and thereby steps of the right length.

    Attributes
    ----------
    columns
        Numbers of the features with a target, ``k`` of them.
    gene_targets
        One for each. The target of a gene that is to be preserved is its own expression.
    forced
        Names of the features that shall change, the first of ``columns``.
    preserved
        Names of those that shall not, the others.
    energy
        An energy besides.
    widths
        Numbers of features of each modality; empty: they are all one.

    Examples
    --------
    >>> import pandas as pd, torch
    >>> from scgm_scvi.model.requests._interventions import Intervention
    >>> names = pd.Index(["CD3E", "ISG15", "STAT1", "ACTB"])
    >>> both = Intervention.parse(names, genes={"STAT1": "knockout", "CD3E": "fold:2"})
    >>> own = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    >>> both.apply(own, own)
    tensor([[0.2000, 0.2667, 0.0000, 0.5333]])

    References
    ----------
    The dispersion: Lause et al. 2021, doi:10.1186/s13059-021-02451-7, who find it in counts;
    guidance by a likelihood: Chung et al. 2023, arXiv:2209.14687; Gauss-Newton: Nocedal & Wright
    2006, Numerical Optimization, section 10.3.
    """

    columns: tuple[int, ...]
    gene_targets: tuple[GeneTarget, ...]
    forced: tuple[str, ...] = ()
    preserved: tuple[str, ...] = ()
    energy: Energy | None = None
    widths: tuple[int, ...] = ()

    @classmethod
    def parse(
        cls,
        names: pd.Index,
        genes: Genes = None,
        preserve: Preserve = None,
        energy: Energy | None = None,
        widths: Sequence[int] = (),
    ) -> Intervention | None:
        """Read what a user asked for; ``None`` where that is nothing.

        Parameters
        ----------
        names
            Of the model's features.
        genes
            Gene to its target: ``"knockout"``, a number in CP10K, or ``"fold:x"``, ``x`` times
            the cell's own expression.
        preserve
            Genes whose expression is preserved, or a dict of names of gene sets to their genes.
        energy
            Function of :class:`scgm_scvi.model.DenoisedCells`, one number a cell.
        widths
            Numbers of features of each modality; default: they are all one.

        Raises
        ------
        KeyError
            If a gene is not among the features; the message names those that are near.
        TypeError
            If an argument is of the wrong kind.
        ValueError
            If a target makes no sense, or a gene is to be changed and preserved at once.
        """
        if energy is not None and not callable(energy):
            raise TypeError(
                f"energy is {energy!r}; pass a function of DenoisedCells that returns one number a "
                "cell."
            )
        wanted, kept = targets_of(genes), preserved_genes(preserve)
        require_apart(wanted, kept)
        require_features(wanted, names, "genes")
        require_features(kept, names, "preserve")
        widths = tuple(widths) or (len(names),)
        columns = [int(names.get_loc(gene)) for gene in wanted]
        levels = torch.tensor([[d.level for d in wanted.values()]], dtype=torch.float64)
        total = float(modality_sums(levels, widths, columns).max())
        if total >= _TOTAL:
            raise ValueError(
                f"genes: the targets add up to {total:g} CP10K, which leaves nothing of the "
                "10,000 of a cell for its other genes."
            )
        if not wanted and not kept and energy is None:
            return None
        every = {**wanted, **dict.fromkeys(kept, PRESERVED)}
        return cls(
            columns=tuple(int(names.get_loc(gene)) for gene in every),
            gene_targets=tuple(every.values()),
            forced=tuple(wanted),
            preserved=tuple(kept),
            energy=energy,
            widths=widths,
        )

    def targets(self, source: torch.Tensor) -> torch.Tensor:
        """Target proportions ``(n, k)`` of cells with proportions ``source`` of their own.

        Raises
        ------
        ValueError
            If features are no amounts, or the targets of a cell add up to all of it or more.
        """
        self._require_amounts(source)
        level = source.new_tensor([d.level / _TOTAL for d in self.gene_targets])
        fold = source.new_tensor([d.fold for d in self.gene_targets])
        targets = level + fold * source[:, list(self.columns)]
        columns = list(self.columns)
        total = modality_sums(targets, self.widths, columns)
        number = modality_sums(torch.ones(1, len(columns)), self.widths, columns)
        whole = (number == torch.tensor(self.widths)).to(total.device)
        full = torch.where(whole, total > 1 + 1e-4, total >= 1)
        if bool(full.any()):
            raise ValueError(
                f"genes: in {int(full.any(dim=1).sum())} of {len(source)} cells the targets add up to "
                f"{float(total.max()) * _TOTAL:.0f} CP10K, of 10,000 in a cell. Ask for smaller "
                "folds, or preserve fewer genes."
            )
        return targets

    def guidance_energy(self, source: torch.Tensor, decode: Decode) -> Energy:
        """The energy of these very cells, for stage two.

        Parameters
        ----------
        source
            The cells' own reconstruction: proportions ``(n, n_features)``, modalities sum to 1.
        decode
            From states ``(n, n_latent + n_sizes)``, a latent and log library sizes, to the
            distribution of the features, under the conditions that the cells shall have.

        Returns
        -------
        A function of :class:`scgm_scvi.model.DenoisedCells`, whose rows are those of ``source``.

        Raises
        ------
        ValueError
            As :meth:`targets`; and, when it is called, if the energy's answer is not one number a
            cell.
        """
        further = self.energy
        if further is not None and not self.columns:
            return lambda cells: _one_a_cell(further(cells), cells)
        columns = list(self.columns)
        targets = self.targets(source) * _TOTAL
        variance = 1 / (targets + 1) + 1 / _DISPERSION

        def log_expression(state: torch.Tensor) -> torch.Tensor:
            mean = decode(state).mean
            total = of_each_feature(modality_sums(mean, self.widths), self.widths, columns)
            return (mean[:, columns] / total * _TOTAL + 1).log()

        def energy(cells: DenoisedCells) -> torch.Tensor:
            now = _linearized(log_expression, cells.state)
            missing = now - (targets + 1).log().to(now)
            total = (missing.square() / (2 * variance.to(now))).sum(dim=1)
            return total if further is None else total + _one_a_cell(further(cells), cells)

        return energy

    def apply(self, proportions: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Set the genes with a target to it; the others share the rest as before.

        Parameters
        ----------
        proportions
            Decoded proportions of the edited cells, ``(n, n_features)``.
        source
            Those of the cells that they were made of.

        Returns
        -------
        Proportions ``(n, n_features)``; modalities sum to 1.

        Raises
        ------
        ValueError
            As :meth:`targets`.
        """
        if not self.columns:
            return proportions
        columns = list(self.columns)
        targets = self.targets(source).to(proportions)
        others = proportions.clone()
        others[:, columns] = 0
        rest = (1 - modality_sums(targets, self.widths, columns)).clamp(min=0)
        rest = rest / modality_sums(others, self.widths).clamp(min=1e-30)
        out = others * of_each_feature(rest, self.widths)
        out[:, columns] = targets
        return out

    def describe(self) -> dict[str, Any]:
        """What was asked for, as builtins that any file format takes."""
        out: dict[str, Any] = {}
        if self.forced:  # no dict: a key of uns must not hold the slash that a gene's name may
            out["genes"] = list(self.forced)
            out["targets"] = [d.asked for d in self.gene_targets[: len(self.forced)]]
            out["kind"] = "observational"  # of the genes: what goes with them, not what they cause
        if self.preserved:
            out["preserve"] = list(self.preserved)
        if self.energy is not None:
            out["energy"] = getattr(self.energy, "__name__", type(self.energy).__name__)
        return out

    def _require_amounts(self, source: torch.Tensor) -> None:
        if self.columns and not bool((source >= 0).all()):
            raise ValueError(
                "genes and preserve take shares of a cell's total, and this model decodes to "
                "negative features (gene_likelihood='normal'). Say what you want of them by a "
                "energy."
            )


def _linearized(
    function: Callable[[torch.Tensor], torch.Tensor], state: torch.Tensor
) -> torch.Tensor:
    """``function`` of ``state`` with its true first derivative, and no second one."""
    if not state.requires_grad:
        return function(state)
    with torch.enable_grad():
        here = state.detach().requires_grad_()
        value = function(here)
        # J v is the derivative with respect to u of the product J^T u, which is linear in u.
        u = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, here, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, state - state.detach(), create_graph=True)
    return value.detach() + pushed


def _one_a_cell(energies: Any, cells: DenoisedCells) -> torch.Tensor:
    """Energies of the energy: a single number for all cells would pass for one a cell in a sum."""
    if not isinstance(energies, torch.Tensor) or energies.shape != (len(cells.latent),):
        got = (
            f"shape {tuple(energies.shape)}"
            if isinstance(energies, torch.Tensor)
            else f"a {type(energies).__name__}"
        )
        raise ValueError(
            f"energy returned {got}; it must return a tensor of one number a cell: "
            f"{(len(cells.latent),)}."
        )
    return energies
