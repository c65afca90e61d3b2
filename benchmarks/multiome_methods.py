"""Generators of cells of two modalities, for ``multiome.py``.

A family is a function of training cells, held-out cells, a seed and a number of epochs that trains
whatever its methods share, and gives for each of its methods what it has drawn: modalities by name,
a cell for each held-out one and of its type; and, for models that translate, ``"rna from atac"``
and ``"atac from rna"``, the modality of each held-out cell drawn from its other one. Held-out cells
are not learnt from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scgm_scvi.benchmark import gaussian_latents, independent_poisson

if TYPE_CHECKING:
    from scvi.model import MULTIVI

__all__ = ["FAMILIES", "LABEL", "MODALITIES", "TRANSLATED", "common_features", "with_modalities"]

LABEL = "cell_type"
MODALITIES = ("rna", "atac")
TRANSLATED = {
    modality: f"{modality} from {other}"
    for modality, other in zip(MODALITIES, MODALITIES[::-1], strict=True)
}
LEAST_SHARE = 0.01  # of training cells that have a common feature

Drawn = dict[str, dict[str, AnnData]]
Family = Callable[[MuData, MuData, int, int | None], tuple[Drawn, dict[str, float]]]

_CHUNK = 200


def independent(
    train: MuData, test: MuData, seed: int, epochs: int | None
) -> tuple[Drawn, dict[str, float]]:
    """Per type and modality, its mean profile times the depth of one of its training cells."""
    asked = test["rna"].obs[[LABEL]]
    drawn = {name: independent_poisson(train[name], LABEL)(asked, seed) for name in MODALITIES}
    return {"independent Poisson": drawn}, {}


def multiscgm(
    train: MuData, test: MuData, seed: int, epochs: int | None
) -> tuple[Drawn, dict[str, float]]:
    """MultiSCGM with its defaults."""
    return _multiscgm(train.copy(), test, seed, epochs, "MultiSCGM")


def unpaired(
    train: MuData, test: MuData, seed: int, epochs: int | None
) -> tuple[Drawn, dict[str, float]]:
    """The same, trained on a third of the cells with both modalities and two thirds with one."""
    own = train.copy()
    third = np.random.default_rng(seed).permutation(own.n_obs) % 3
    for number, name in enumerate(MODALITIES):
        kept = sparse.diags((third != number).astype(np.float32))
        own[name].X = (kept @ own[name].X).tocsr()
    return _multiscgm(own, test, seed, epochs, "MultiSCGM, a third paired")


def _multiscgm(
    own: MuData, test: MuData, seed: int, epochs: int | None, called: str
) -> tuple[Drawn, dict[str, float]]:
    import scvi

    from scgm_scvi import MultiSCGM

    scvi.settings.seed = seed
    MultiSCGM.setup_mudata(own, labels_key=LABEL)
    model = MultiSCGM(own)
    seconds = _train(model, epochs, seed)
    asked = test["rna"].obs[[LABEL]]
    start = time.process_time()
    cells = model.generate(conditions=asked, seed=seed, progress_bar=False)
    seconds["generation"] = time.process_time() - start
    drawn = {name: cells[name] for name in MODALITIES}
    for to, given in zip(MODALITIES, MODALITIES[::-1], strict=True):
        # conditions: the type is to be found, not to be told
        drawn[TRANSLATED[to]] = model.translate(
            test[given], to=to, conditions={}, seed=seed, progress_bar=False
        )
    return {called: drawn}, seconds


def atacscgm(
    train: MuData, test: MuData, seed: int, epochs: int | None
) -> tuple[Drawn, dict[str, float]]:
    """ATACSCGM on the ATAC half alone, with its defaults."""
    import scvi

    from scgm_scvi import ATACSCGM

    scvi.settings.seed = seed
    own = train["atac"].copy()
    ATACSCGM.setup_anndata(own, labels_key=LABEL)
    model = ATACSCGM(own)
    seconds = _train(model, epochs, seed)
    cells = model.generate(conditions=test["rna"].obs[[LABEL]], seed=seed, progress_bar=False)
    return {"ATACSCGM": {"atac": cells}}, seconds


def _train(model: object, epochs: int | None, seed: int) -> dict[str, float]:
    """Both stages; CPU-seconds of each."""
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    start = time.process_time()
    model.train(max_epochs=epochs, diffusion=False, **quiet)
    middle = time.process_time()
    model.train_diffusion(seed=seed, **quiet)
    return {"stage one": middle - start, "stage two": time.process_time() - middle}


def multivi(
    train: MuData, test: MuData, seed: int, epochs: int | None
) -> tuple[Drawn, dict[str, float]]:
    """``scvi.model.MULTIVI`` with its defaults, on the features that 1% of training cells have.

    That is the filter of scvi-tools' own tutorial; on all peaks it takes hours.

    - "MULTIVI prior": N(0, I), whatever the type, with both sizes of a training cell of any type
    - "MULTIVI Gaussian per label": of posterior samples of the label's training cells, with full
      covariance, and both sizes of one of its cells
    - "MULTIVI posterior predictive": the held-out cells' own latents and sizes; no new cells. It
      also translates: latents of one modality, the size of a training cell of any type.

    Counts are drawn from its zero-inflated negative binomial, open peaks from its Bernoulli.
    """
    import scvi
    from scvi.model import MULTIVI

    scvi.settings.seed = seed
    common = {name: common_features(train[name]) for name in MODALITIES}
    parts = [
        MuData({name: m[name][:, common[name]].copy() for name in MODALITIES})
        for m in (train, test)
    ]
    fields = {"rna_layer": "rna", "atac_layer": "atac"}
    MULTIVI.setup_mudata(parts[0], modalities=fields)
    model = MULTIVI(parts[0])
    start = time.process_time()
    limit = {} if epochs is None else {"max_epochs": epochs}
    model.train(accelerator="cpu", enable_progress_bar=False, **limit)
    costs = {
        "training": time.process_time() - start,
        "epochs": float(len(model.history["elbo_train"])),
    }
    label = train["rna"].obs[LABEL].astype(str).to_numpy()
    wanted = test["rna"].obs[LABEL].astype(str).to_numpy()
    _, sizes = _encode(model, parts[0], seed)
    rng = np.random.default_rng(seed)
    anyone = rng.choice(train.n_obs, test.n_obs)
    gaussian = gaussian_latents(model)
    z, alike = np.empty((test.n_obs, model.module.n_latent), np.float32), anyone.copy()
    for name in np.unique(wanted):
        rows, cells = np.flatnonzero(label == name), np.flatnonzero(wanted == name)
        z[cells], alike[cells] = gaussian(rows, len(cells), rng), rng.choice(rows, len(cells))
    noise = rng.standard_normal(z.shape, dtype=np.float32)
    drawn = {
        "MULTIVI prior": _decode(model, noise, sizes[anyone], test, seed),
        "MULTIVI Gaussian per label": _decode(model, z, sizes[alike], test, seed),
        "MULTIVI posterior predictive": _decode(model, *_encode(model, parts[1], seed), test, seed),
    }
    for to, given in zip(MODALITIES, MODALITIES[::-1], strict=True):
        z, _ = _encode(model, with_modalities(parts[1], given), seed)
        cells = _decode(model, z, sizes[anyone], test, seed)
        drawn["MULTIVI posterior predictive"][TRANSLATED[to]] = cells[to]
    return drawn, costs


def common_features(adata: AnnData) -> np.ndarray:
    """Names of the features that at least a hundredth of the cells have."""
    return adata.var_names[adata.X.getnnz(axis=0) >= LEAST_SHARE * adata.n_obs].to_numpy()


def with_modalities(mdata: MuData, *measured: str) -> MuData:
    """The same cells, as if they had been measured in these modalities alone."""
    modalities = {name: mdata[name].copy() for name in MODALITIES}
    for name, a in modalities.items():
        if name not in measured:
            a.X = sparse.csr_matrix(a.shape, dtype=np.float32)
    return MuData(modalities)


def _encode(model: MULTIVI, mdata: MuData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A posterior sample of each cell, and its sizes in the two modalities."""
    import torch

    latents, sizes = [], []
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        mdata.obs["_indices"] = np.arange(mdata.n_obs)  # of weights by cell, which are not used
        cells = model._validate_anndata(mdata)
        for tensors in model._make_data_loader(adata=cells, batch_size=_CHUNK):
            out = model.module.inference(**model.module._get_inference_input(tensors))
            latents.append(out["z"].numpy())
            sizes.append(torch.cat([out["libsize_expr"], out["libsize_acc"]], dim=1).numpy())
    return np.concatenate(latents), np.concatenate(sizes)


def _decode(
    model: MULTIVI, z: np.ndarray, sizes: np.ndarray, test: MuData, seed: int
) -> dict[str, AnnData]:
    """Cells of latents and sizes, by modality, with the held-out cells' names and types."""
    import torch
    from scvi.distributions import ZeroInflatedNegativeBinomial

    module, counts = model.module, {name: [] for name in MODALITIES}
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        factor = torch.sigmoid(module.region_factors)
        for start in range(0, len(z), _CHUNK):
            latent = torch.tensor(z[start : start + _CHUNK], dtype=torch.float32)
            size = torch.tensor(sizes[start : start + _CHUNK])
            batch = torch.zeros(len(latent), 1, dtype=torch.long)
            out = module.generative(latent, latent, batch, libsize_expr=size[:, :1])
            rna = ZeroInflatedNegativeBinomial(
                mu=out["px_rate"], theta=out["px_r"], zi_logits=out["px_dropout"]
            ).sample()
            is_open = torch.bernoulli(out["p"] * size[:, 1:] * factor)
            for name, x in zip(MODALITIES, (rna, is_open), strict=True):
                counts[name].append(sparse.csr_matrix(x.numpy()))
    obs = test["rna"].obs[[LABEL]]
    out = {name: AnnData(sparse.vstack(x, format="csr"), obs=obs) for name, x in counts.items()}
    for name, a in out.items():
        a.var_names = model.adata[name].var_names
    return out


FAMILIES: dict[str, Family] = {
    f.__name__: f for f in (independent, multiscgm, unpaired, atacscgm, multivi)
}
