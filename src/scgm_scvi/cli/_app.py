"""The application that commands are added to."""

from __future__ import annotations

import logging
import warnings

from cyclopts import App, Parameter

__all__ = ["app", "quiet"]

app = App(
    name="scgm",
    help="Generate single cells with a latent diffusion model.",
    default_parameter=Parameter(consume_multiple=True),  # --conditions tissue disease
)


def quiet() -> None:
    """Keep the progress bars, drop what libraries say about themselves."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
