"""Classification by the model against logistic regression on its latents, on held-out cells.

    python benchmarks/classification.py --model FOLDER --train FILE.h5ad --test FILE.h5ad

The model is one that was saved after training on --train; the test cells' labels are taken away
before they are classified. Reported: accuracy, negative log-likelihood of the true class (nats),
expected calibration error in ten bins, CPU-seconds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from scgm_scvi import SCGM


def calibration_error(certainty: np.ndarray, correct: np.ndarray, n_bins: int = 10) -> float:
    """How far certainty and accuracy lie apart, averaged over bins of certainty (Guo et al. 2017)."""
    bins = np.minimum((certainty * n_bins).astype(int), n_bins - 1)
    gaps = pd.Series(certainty - correct).groupby(bins).mean().abs()
    return float((gaps * pd.Series(bins).value_counts() / len(bins)).sum())


def scores(probabilities: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    correct = classes[probabilities.argmax(axis=1)] == labels
    order = np.argsort(classes)
    return {
        "accuracy": float(correct.mean()),
        "nll": float(log_loss(labels, probabilities[:, order], labels=classes[order])),
        "ece": calibration_error(probabilities.max(axis=1), correct),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "train", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--label-key", default="group")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    train, test = ad.read_h5ad(args.train), ad.read_h5ad(args.test)
    model = SCGM.load(args.model, train)
    known, labels = (a.obs[args.label_key].astype(str).to_numpy() for a in (train, test))

    regression = LogisticRegression(max_iter=3000).fit(model.get_latent_representation(), known)
    latents = model.get_latent_representation(test.copy())
    rows = {
        "logistic regression on latents": scores(
            regression.predict_proba(latents), regression.classes_, labels
        )
    }
    del test.obs[args.label_key]
    started = time.process_time()
    table = model.classify(test, args.label_key, progress_bar=False)
    rows["classify"] = scores(table.to_numpy(), table.columns.astype(str).to_numpy(), labels)
    rows["classify"]["cpu_seconds"] = time.process_time() - started
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    main()
