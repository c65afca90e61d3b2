"""What the mixins need of a module of scvi-tools, which has no types of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ScviModule"]

if TYPE_CHECKING:
    import torch

    class ScviModule:
        """A module with one encoder and one decoder, such as :class:`scvi.module.VAE`."""

        device: torch.device
        dispersion: str
        gene_likelihood: str
        n_input: int
        n_latent: int
        px_r: torch.nn.Parameter
        training: bool
        use_size_factor_key: bool
        z_encoder: Any

        def inference(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """Posterior of the latents, a sample of them, and log sizes."""

        def generative(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """Distribution of the features."""

        def register_buffer(self, name: str, tensor: torch.Tensor, persistent: bool = True) -> None:
            """As of :class:`torch.nn.Module`."""

        def _get_inference_input(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...

        def _get_generative_input(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...
else:
    ScviModule = object
