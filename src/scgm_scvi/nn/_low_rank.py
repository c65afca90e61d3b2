"""Low-rank adapters: a few weights beside each linear layer, to tune in place of all of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from scgm_scvi._errors import whole_number

__all__ = ["LowRankLinear", "add_adapters", "merge_adapters"]


class LowRankLinear(nn.Linear):
    r"""A linear layer with a low-rank addition, :math:`y = x W^T + b + x A^T B^T`.

    :math:`A` has shape ``(rank, in_features)``, :math:`B` ``(out_features, rank)``; :math:`B` starts
    at zero, so that the layer starts as the one it is made of. The names of that one's weights stay.

    Parameters
    ----------
    linear
        The layer; its weights are shared, not copied.
    rank
        Rank of the addition.

    Examples
    --------
    >>> from typing import Any

    import torch
    >>> from scgm_scvi.nn import LowRankLinear
    >>> linear, x = torch.nn.Linear(20, 10), torch.randn(2, 20)
    >>> bool((LowRankLinear(linear, rank=2)(x) == linear(x)).all())
    True

    References
    ----------
    Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        like: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.adapter_down = nn.Parameter(torch.empty(rank, self.in_features, **like))
        self.adapter_up = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.adapter_down, a=math.sqrt(5))
        for p in (self.adapter_down, self.adapter_up):
            p.requires_grad_(linear.weight.requires_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``x`` ``(..., in_features)`` to ``(..., out_features)``."""
        low = nn.functional.linear(x, self.adapter_down)
        return super().forward(x) + nn.functional.linear(low, self.adapter_up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same, with weights of its own."""
        out = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        out.to(self.weight.device, self.weight.dtype)
        out.weight.copy_(self.weight + self.adapter_up @ self.adapter_down)
        if self.bias is not None:
            out.bias.copy_(self.bias)
        return out


def add_adapters(module: nn.Module, rank: int) -> None:
    """Give every linear layer in ``module`` an adapter, but for those that are no larger than it.

    Parameters
    ----------
    module
        Changed in place.
    rank
        Rank of the adapters.

    Raises
    ------
    ValueError
        If the rank is no whole number of at least 1.

    Examples
    --------
    >>> from typing import Any

    import torch
    >>> from scgm_scvi.nn import add_adapters
    >>> network = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.Linear(10, 1))
    >>> add_adapters(network, rank=2)
    >>> [type(layer).__name__ for layer in network]
    ['LowRankLinear', 'Linear']
    """
    rank = whole_number(rank, "adapter_rank")
    for parent, name, layer in _linear_layers(module):
        n_in, n_out = layer.in_features, layer.out_features
        if type(layer) is nn.Linear and rank * (n_in + n_out) < n_in * n_out:
            setattr(parent, name, LowRankLinear(layer, rank))


def merge_adapters(module: nn.Module) -> None:
    """Add the adapters in ``module`` to the weights beside them, and take them away.

    Parameters
    ----------
    module
        Changed in place; computes the same as before, up to rounding.

    Examples
    --------
    >>> from typing import Any

    import torch
    >>> from scgm_scvi.nn import add_adapters, merge_adapters
    >>> network = torch.nn.Sequential(torch.nn.Linear(20, 10))
    >>> add_adapters(network, rank=2)
    >>> merge_adapters(network)
    >>> sorted(network.state_dict())
    ['0.bias', '0.weight']
    """
    for parent, name, layer in _linear_layers(module):
        if isinstance(layer, LowRankLinear):
            setattr(parent, name, layer.merged().requires_grad_(layer.weight.requires_grad))


def _linear_layers(module: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (parent, name, layer)
        for parent in module.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    ]
