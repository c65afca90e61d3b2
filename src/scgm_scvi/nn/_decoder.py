"""The decoder of stage one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from scvi.nn import FCLayers
from torch import nn

__all__ = ["ExpressionDecoder"]


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: nn.Softmax(dim=-1),
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
}


class ExpressionDecoder(nn.Module):
    """From a latent to the parameters of a count distribution.

    Like :class:`scvi.nn.DecoderSCVI`, with dropout, and with only the heads that the likelihood
    needs: an unused zero-inflation head would cost a third of every training step.

    Parameters
    ----------
    n_input
        Width of the latent and of what is concatenated to it.
    n_output
        Number of features.
    n_cat_list
        Categories of each nuisance, the batch first, given one-hot to every layer.
    n_layers, n_hidden, dropout_rate
        Of the hidden layers.
    zero_inflation
        Whether to build a head for it.
    n_dispersion_factors
        Factors by which log dispersions differ between cells; 0: no head for them. A full head
        would learn more of the noise of training cells, and lengthen a training step by a fifth.
    scale_activation
        ``"softmax"``: proportions; ``"softplus"``: for user-given size factors; ``"sigmoid"``: the
        mean is a probability whose log odds the log size is added to.
    n_factors
        Width of the last hidden layer, the rank of the matrix of all cells' logits; default:
        ``n_hidden``. Where features are many, most of a training step is spent on it.
    **kwargs
        See :class:`scvi.nn.FCLayers`; by default with layer and without batch normalisation, so
        that a decoded cell does not depend on its neighbours.

    Examples
    --------
    >>> import torch
    >>> from scgm_scvi.nn import ExpressionDecoder
    >>> decoder = ExpressionDecoder(4, 10)
    >>> scale, _, rate, _ = decoder(torch.zeros(2, 4), torch.zeros(2, 1))
    >>> rate.shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 1,
        n_hidden: int = 128,
        dropout_rate: float = 0.0,
        zero_inflation: bool = False,
        n_dispersion_factors: int = 0,
        scale_activation: str = "softmax",
        n_factors: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        n_factors = n_factors or n_hidden
        kwargs = {"use_batch_norm": False, "use_layer_norm": True} | kwargs
        self.px_decoder = FCLayers(
            n_in=n_input,
            n_out=n_factors,
            n_cat_list=n_cat_list,
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            **kwargs,
        )
        self.scale = nn.Linear(n_factors, n_output)
        # Log shift of each feature in each batch: zero, and frozen, until a model meets a new one.
        n_batch = n_cat_list[0] if n_cat_list else 1
        zeros = torch.zeros(max(1, n_batch), n_output)
        self.batch_shifts = nn.Embedding.from_pretrained(zeros, freeze=True)
        self.activation = _ACTIVATIONS[scale_activation]()
        self.zero_logits = nn.Linear(n_factors, n_output) if zero_inflation else None
        self.dispersion_factors = self.dispersion_loadings = None
        if n_dispersion_factors:
            self.dispersion_factors = nn.Linear(n_factors, n_dispersion_factors)
            self.dispersion_loadings = nn.Linear(n_dispersion_factors, n_output, bias=False)
            nn.init.zeros_(self.dispersion_loadings.weight)
        # A tenth of the usual weights: training starts near the mean expression of the bias.
        with torch.no_grad():
            self.scale.weight.mul_(0.1)

    @property
    def px_scale_decoder(self) -> tuple[nn.Module, nn.Module]:
        """The layers that give the proportions, as :class:`scvi.nn.DecoderSCVI` calls them."""
        return self.scale, self.activation

    def set_mean(self, mean: torch.Tensor) -> None:
        """Start from the mean proportions ``mean`` of shape ``(n_output,)``."""
        if not isinstance(self.activation, nn.Softplus):
            with torch.no_grad():
                self.scale.bias.copy_(torch.log(mean / mean.sum() + 1e-8))

    def forward(
        self, z: torch.Tensor, log_size: torch.Tensor, *cat_list: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
        """Proportions, shift of the log dispersion (or ``None``), mean, zero logits (or ``None``).

        ``z`` has shape ``(..., n, n_input)``, ``log_size`` (log library size or log size factor)
        ``(..., n, 1)``; the batch comes first in ``cat_list``, ``(n, 1)`` each.
        """
        h = self.px_decoder(z, *cat_list)
        logits = self.scale(h)
        if cat_list and len(self.batch_shifts.weight) > 1:
            logits = logits + self.batch_shifts(cat_list[0].squeeze(-1).long())
        elif cat_list:
            logits = logits.add_(self.batch_shifts.weight[0])
        if isinstance(self.activation, nn.Sigmoid):
            scale, rate = logits, self.activation(logits + log_size)
        else:
            scale = self.activation(logits)
            rate = torch.exp(log_size) * scale
        shift = None
        if self.dispersion_factors is not None and self.dispersion_loadings is not None:
            shift = self.dispersion_loadings(self.dispersion_factors(h))
        zero_logits = None if self.zero_logits is None else self.zero_logits(h)
        return scale, shift, rate, zero_logits
