"""Training curves of both stages."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

__all__ = ["history"]

_PANELS = {
    "stage one: negative ELBO (nats a cell)": ("elbo_train", "elbo_validation"),
    "stage two: denoising loss": ("diffusion_loss_train", "diffusion_loss_validation"),
}


def history(history: Mapping[str, pd.DataFrame]) -> Figure:
    """Training and validation curves by epoch.

    Parameters
    ----------
    history
        ``model.history``.

    Returns
    -------
    A figure with a panel for each stage that was trained.

    Raises
    ------
    ValueError
        If there is no history to draw.

    Examples
    --------
    >>> scgm_scvi.pl.history(model.history)  # doctest: +SKIP
    """
    panels = {title: keys for title, keys in _PANELS.items() if any(k in history for k in keys)}
    if not panels:
        raise ValueError("history holds no curve of either stage; train the model first.")
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for ax, (title, keys) in zip(axes[0], panels.items(), strict=True):
        for key in keys:
            if key in history:
                curve = history[key].iloc[:, 0].astype(float)
                ax.plot(curve.index, curve, label=key.rsplit("_", 1)[1])
        ax.set(title=title, xlabel="epoch")
        ax.legend(frameon=False)
    figure.tight_layout()
    plt.close(figure)
    return figure
