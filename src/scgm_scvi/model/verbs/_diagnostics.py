"""Is the latent used, and do held-out cells fare as well as training cells?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from scgm_scvi.model._log import logger
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

__all__ = ["DiagnosticsMixin"]

_ACTIVE_VARIANCE = 0.01


class DiagnosticsMixin(LatentDiffusionMixin):
    """Say how stage one went."""

    def diagnose(self) -> pd.Series:
        """Signs of posterior collapse and of overfitting in stage one.

        Returns
        -------
        Series with ``active_dimensions`` (latent dimensions whose posterior means vary by more
        than 0.01 over cells; Burda et al. 2016, arXiv:1509.00519, section 5.2),
        ``latent_dimensions``, ``kl`` (nats a held-out cell), ``elbo_train`` and
        ``elbo_validation`` (negative ELBO, nats a cell, of the epoch whose weights were kept),
        and ``gap``, how much worse held-out cells fare, as a share of ``elbo_train``. The two
        latter are left out where training drops modalities at random, as in
        :class:`scgm_scvi.MultiSCGM`: they would compare cells with parts of cells.

        Raises
        ------
        RuntimeError
            If the model is not trained.

        Examples
        --------
        >>> model.diagnose()  # doctest: +SKIP
        """
        if not self.is_trained_:
            raise RuntimeError("The model is not trained; call model.train() first.")
        return self._diagnosis(self.get_latent_representation())

    def _diagnosis(self, mean: np.ndarray) -> pd.Series:
        """:meth:`diagnose` with the latent means at hand."""
        out = {
            "active_dimensions": int((mean.var(axis=0) > _ACTIVE_VARIANCE).sum()),
            "latent_dimensions": mean.shape[1],
        }
        history = self.history_ or {}
        kept = self.fitted_.get("kept_epoch")
        if kept is not None and "elbo_validation" in history:
            at_kept = {
                "kl": "kl_local_validation",
                "elbo_train": "elbo_train",
                "elbo_validation": "elbo_validation",
            }
            out |= {  # the last epoch until then that was validated
                k: float(history[v].iloc[:, 0].loc[:kept].iloc[-1]) for k, v in at_kept.items()
            }
            if self.module.drops_modalities:  # in training the ELBO is of less than in validation
                del out["elbo_train"]
            else:
                out["gap"] = out["elbo_validation"] / out["elbo_train"] - 1
        return pd.Series(out)

    def _report(self, mean: np.ndarray) -> None:
        d = self._diagnosis(mean)
        message = (
            f"Stage one: {d['active_dimensions']:.0f} of {d['latent_dimensions']:.0f} latent "
            "dimensions active"
        )
        if "gap" in d:
            message += (
                f", {d['kl']:.1f} nats; held-out cells {100 * d['gap']:+.1f}% worse than training "
                "cells (negative ELBO of the kept epoch)"
            )
        logger.info("%s.", message)
        if d["active_dimensions"] < 2:
            logger.warning(
                "Stage one found almost nothing to encode (posterior collapse): check that the "
                "input holds raw counts of variable genes, and that there are enough cells."
            )
