"""The encoder of stage one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from scvi.nn import Encoder
from torch import nn

from ._feature_fill import FeatureFill

__all__ = ["ExpressionEncoder", "bounded_variance"]


def bounded_variance(log_variance: torch.Tensor) -> torch.Tensor:
    """Variance of a posterior, neither 0 nor infinite."""
    return log_variance.clamp(-10, 5).exp()


class ExpressionEncoder(Encoder):
    """scvi's encoder on expression with the depth divided out, ``log1p`` of counts per 10,000.

    The depth is modelled beside the latent, so the latent need not carry it.

    Parameters
    ----------
    n_features
        How many of the leading inputs are expression; the rest are covariates, passed as they are.
    normalize
        ``False`` for input that is normalised already.
    n_memory
        Cells of the memory from which missing features are filled in, see :class:`FeatureFill`; 0:
        none.
    n_input, n_output, n_cat_list, **kwargs
        See :class:`scvi.nn.Encoder`; by default with layer and without batch normalisation.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import ExpressionEncoder
    >>> encoder = ExpressionEncoder(10, 4, n_features=10, return_dist=True)
    >>> posterior, z = encoder(torch.ones(2, 10))
    >>> z.shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Iterable[int] | None = None,
        *,
        n_features: int,
        normalize: bool = True,
        n_memory: int = 0,
        **kwargs: Any,
    ) -> None:
        kwargs = {"use_batch_norm": False, "use_layer_norm": True} | kwargs
        super().__init__(
            n_input, n_output, n_cat_list=n_cat_list, var_activation=bounded_variance, **kwargs
        )
        self.n_features = n_features
        self.normalize = normalize
        self.fill = FeatureFill(n_memory, n_features) if n_memory else None
        # A posterior that starts narrow lets the decoder see the cell from the first step.
        nn.init.constant_(self.var_encoder.bias, -3.0)

    def forward(self, x: torch.Tensor, *cat_list: torch.Tensor) -> Any:
        """Encode ``x`` of shape ``(n, n_input)``; returns as :class:`scvi.nn.Encoder`."""
        if self.normalize:
            counts, rest = x[:, : self.n_features], x[:, self.n_features :]
            if self.fill is not None:
                x = self.fill(counts)
            else:
                depth = counts.sum(1, keepdim=True).clamp(min=1e-8)
                x = torch.log1p(counts * (1e4 / depth))
            x = torch.cat([x, rest], dim=1) if rest.shape[1] else x
        return super().forward(x, *cat_list)
