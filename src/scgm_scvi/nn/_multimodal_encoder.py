"""An encoder of features in modalities, of which a cell may lack some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from scvi.nn import Encoder
from torch import nn

from ._encoder import bounded_variance
from ._sparse_linear import SparseLinear

__all__ = ["MultimodalEncoder"]


class MultimodalEncoder(nn.Module):
    """From the modalities of features that a cell was measured in to a Gaussian of its latent.

    Each modality has an input layer of its own, on ``log1p`` of counts per 10,000 of the modality; what
    they say is joined. In place of a modality that is not shown stands a learnt vector.

    Parameters
    ----------
    widths
        Number of features of each modality.
    n_output
        Number of latent dimensions.
    n_covariates
        Width of covariates that are concatenated after the input layers.
    n_cat_list, n_hidden, n_layers, dropout_rate, **kwargs
        As of :class:`scvi.nn.Encoder`; the input layers are the first of ``n_layers``.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import MultimodalEncoder
    >>> encoder = MultimodalEncoder([10, 20], 4)
    >>> counts, shown = torch.ones(2, 30), torch.tensor([[True, True], [True, False]])
    >>> posterior, z = encoder(counts, shown)
    >>> z.shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        *,
        n_covariates: int = 0,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.widths = list(widths)
        self.inputs = nn.ModuleList(SparseLinear(n, n_hidden) for n in self.widths)
        self.norms = nn.ModuleList(nn.LayerNorm(n_hidden) for _ in self.widths)
        self.absent = nn.Parameter(torch.zeros(len(self.widths), n_hidden))
        self.trunk = Encoder(
            n_hidden * len(self.widths) + n_covariates,
            n_output,
            n_cat_list=n_cat_list,
            n_layers=max(1, n_layers - 1),
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            var_activation=bounded_variance,
            return_dist=True,
            **{"use_batch_norm": False, "use_layer_norm": True} | kwargs,
        )
        # A posterior that starts narrow lets the decoder see the cell from the first step.
        nn.init.constant_(self.trunk.var_encoder.bias, -3.0)

    def z_transformation(self, z: torch.Tensor) -> torch.Tensor:
        """None: the latent is Gaussian."""
        return z

    def forward(
        self,
        counts: torch.Tensor,
        shown: torch.Tensor,
        *cat_list: torch.Tensor,
        covariates: torch.Tensor | None = None,
    ) -> tuple[torch.distributions.Normal, torch.Tensor]:
        """Posterior and a sample of ``counts`` ``(n, n_features)``; ``shown`` is ``(n, n_modalities)``."""
        hidden = [] if covariates is None else [covariates]
        for j, part in enumerate(counts.split(self.widths, dim=1)):
            rows, columns = part.nonzero(as_tuple=True)
            values = part[rows, columns]
            depth = values.new_zeros(len(part)).index_add(0, rows, values)
            values = torch.log1p(values * (1e4 / depth)[rows])
            layer = cast(SparseLinear, self.inputs[j])
            h = layer.of_entries(rows, columns, values, len(part))
            h = nn.functional.silu(self.norms[j](h))
            hidden.append(torch.where(shown[:, j : j + 1], h, self.absent[j]))
        return self.trunk(torch.cat(hidden, dim=1), *cat_list)
