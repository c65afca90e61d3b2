"""Speed of both stages and of generation, on one thread, each pair of figures in one run.

    python benchmarks/speed.py --train FILE.h5ad [--label-key group]

Quote the ratios: machines differ, and are shared.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import logging
import time
import warnings
from functools import partial

import anndata as ad
import numpy as np
import scvi
import torch

import scgm_scvi
from scgm_scvi import SCGM
from scgm_scvi.model.requests._request import Request
from scgm_scvi.model.requests._sampling import Sampling

QUIET = {"enable_progress_bar": False}


def timed(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def stage_one(train: ad.AnnData, label_key: str, epochs: int = 12, rounds: int = 3) -> None:
    """Cells a second against scvi.model.SCVI with the same layer sizes, in turn."""
    sizes = {"n_latent": 256, "n_hidden": 256, "n_layers": 2, "gene_likelihood": "nb"}
    ours, theirs = train.copy(), train.copy()
    SCGM.setup_anndata(ours, labels_key=label_key)
    scvi.model.SCVI.setup_anndata(theirs, labels_key=label_key)
    ratios = []
    for _ in range(rounds):
        a, b = SCGM(ours, **sizes), scvi.model.SCVI(theirs, **sizes)
        settings = {"max_epochs": epochs, "early_stopping": True, "batch_size": 128, **QUIET}
        seconds_a = timed(partial(a.train, diffusion=False, **settings))
        seconds_b = timed(partial(b.train, **settings))
        ratios.append(seconds_b / seconds_a)
        print(
            f"stage one: SCGM {epochs * train.n_obs / seconds_a:.0f} cells/s, "
            f"SCVI {epochs * train.n_obs / seconds_b:.0f} cells/s, ratio {ratios[-1]:.2f}"
        )
    print(f"stage one: median ratio {sorted(ratios)[len(ratios) // 2]:.2f}")


def against_ancestral(model: SCGM, n_cells: int, n_ancestral: int) -> None:
    """Latents of ``n_cells`` by the default sampler against 1,000 ancestral steps."""

    def latents(n: int, sampler: str, n_steps: int | None = None) -> float:
        sampling = Sampling.parse(model.condition_spec, sampler=sampler, n_steps=n_steps)
        request = Request.parse(model.condition_spec, n, None)
        tensors = request.draw_nuisances(model.prior.design, np.random.default_rng(0))
        generator = torch.Generator().manual_seed(0)
        return timed(lambda: model.prior.sample(tensors, sampling, generator)) / n

    fast = latents(n_cells, "dpmpp_2m")
    slow = latents(n_ancestral, "ancestral", 1000)
    print(
        f"latents: {1 / fast:.0f} cells/s by default, {1 / slow:.1f} by 1,000 ancestral steps "
        f"({n_cells} and {n_ancestral} cells), ratio {slow / fast:.1f}"
    )


def overhead(model: SCGM, n_cells: int, chunk: int = 2048, rounds: int = 3) -> None:
    """Sampling latents against the network's matrix products alone, of the same shapes, in turn."""
    for scale, name in ((1.0, "no guidance"), (2.0, "guidance")):
        ratios = []
        for _ in range(rounds):
            calls = _calls_of_linear_layers(model, scale, chunk)
            sampling = Sampling.parse(model.condition_spec, guidance_scale=scale)
            generator = torch.Generator().manual_seed(0)
            request = Request.parse(model.condition_spec, chunk, _some_conditions(model))
            tensors = request.draw_nuisances(model.prior.design, np.random.default_rng(0))

            def sample(tensors=tensors, sampling=sampling, generator=generator) -> None:
                for _ in range(0, n_cells, chunk):
                    model.prior.sample(tensors, sampling, generator)

            def products(calls=calls) -> None:
                with torch.no_grad():
                    for _ in range(0, n_cells, chunk):
                        for x, weight, bias in calls:
                            torch.addmm(bias, x, weight.T)

            ratios.append(timed(sample) / timed(products))
        print(f"latents, {name}: {sorted(ratios)[rounds // 2]:.2f} of the matrix products alone")


def _some_conditions(model: SCGM) -> dict:
    key, categories = next(iter(model.condition_spec.categorical.items()))
    return {key: categories[0]}


def _calls_of_linear_layers(model: SCGM, scale: float, n: int) -> list[tuple[torch.Tensor, ...]]:
    """Inputs of the shapes that each linear layer gets in one run of the sampler, and its weights."""
    calls, layers = (
        [],
        [m for m in model.module.denoiser.modules() if isinstance(m, torch.nn.Linear)],
    )
    inputs: dict[tuple[int, ...], torch.Tensor] = {}

    def record(layer: torch.nn.Linear, args: tuple[torch.Tensor]) -> None:
        shape = tuple(args[0].shape)
        x = inputs.setdefault(shape, torch.randn(shape))
        calls.append((x, layer.weight.detach(), layer.bias.detach()))

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    sampling = Sampling.parse(model.condition_spec, guidance_scale=scale)
    request = Request.parse(model.condition_spec, n, _some_conditions(model))
    tensors = request.draw_nuisances(model.prior.design, np.random.default_rng(0))
    model.prior.sample(tensors, sampling, torch.Generator().manual_seed(0))
    for hook in hooks:
        hook.remove()
    return calls


def generation(model: SCGM, n_cells: int) -> None:
    seconds = timed(lambda: model.generate(n_cells, seed=0, progress_bar=False))
    print(
        f"generate: {n_cells / seconds:.0f} cells/s, latents and counts of "
        f"{model.adata.n_vars} genes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--label-key", default="group")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--ancestral-cells", type=int, default=10_000)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    train = ad.read_h5ad(args.train)
    stage_one(train, args.label_key)
    SCGM.setup_anndata(train, labels_key=args.label_key)
    model = SCGM(train)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 20, **QUIET}, **QUIET)
    generation(model, args.cells)
    overhead(model, args.cells)
    against_ancestral(model, args.cells, args.ancestral_cells)
    print(f"scgm_scvi {scgm_scvi.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
