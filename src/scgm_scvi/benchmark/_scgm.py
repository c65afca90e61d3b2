"""SCGM as a generator: with its defaults."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData

from scgm_scvi.model import SCGM

from ._generators import Method
from ._scvi import posterior_predictive

__all__ = ["scgm"]


def scgm(train: AnnData, labels_key: str, seed: int, quick: bool) -> dict[str, Method]:
    """SCGM, and the posterior predictive of the training cells, which is its decoder's ceiling."""
    scvi.settings.seed = seed
    own = train.copy()
    SCGM.setup_anndata(own, labels_key=labels_key)
    model = SCGM(own)
    cpu = [time.process_time()]
    model.train(max_epochs=50 if quick else None, diffusion=False, enable_progress_bar=False)
    cpu.append(time.process_time())
    steps = 500 if quick else None
    model.train_diffusion(max_steps=steps, seed=seed, enable_progress_bar=False)
    cpu.append(time.process_time())
    diagnosis = model.diagnose()

    def generate(conditions: pd.DataFrame, seed: int) -> AnnData:
        cells = model.generate(conditions=conditions, seed=seed, progress_bar=False)
        stages = dict(zip(("stage_one_seconds", "stage_two_seconds"), np.diff(cpu), strict=True))
        signs = diagnosis[["kl", "active_dimensions", "gap"]].to_dict()
        cells.uns["benchmark"] = {"train_seconds": cpu[2] - cpu[0], **stages, **signs}
        return cells

    def ceiling(conditions: pd.DataFrame, seed: int) -> AnnData:
        cells = posterior_predictive(model, train)(conditions, seed)
        cells.uns["benchmark"] = {"train_seconds": cpu[1] - cpu[0]}
        return cells

    # who measures what a model gives away of its training cells needs the model
    generate.model = model  # type: ignore[attr-defined]
    return {"SCGM": generate, "SCGM posterior predictive": ceiling}
