"""Peak memory of writing generated cells to disk, for two numbers of cells.

    python benchmarks/memory.py [--cells 20000 200000] [--genes 1000]

Each number runs in its own process. The model is trained for moments only: what it knows does not
change how much memory it takes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(n_cells: int, n_genes: int) -> None:
    import warnings

    import anndata as ad
    import h5py
    import numpy as np
    from scipy import sparse

    from scgm_scvi import SCGM

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.3, 1.0, n_genes)
    counts = sparse.csr_matrix(rng.poisson(mean, (2000, n_genes)).astype(np.float32))
    adata = ad.AnnData(counts)
    adata.obs["cell_type"] = rng.choice(list("abcde"), adata.n_obs)
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata)
    quiet = {"enable_progress_bar": False}
    model.train(max_epochs=1, diffusion_kwargs={"max_steps": 10, **quiet}, **quiet)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        conditions = {"cell_type": rng.choice(list("abcde"), n_cells)}
        path = model.generate(
            n_cells, conditions, seed=0, out=Path(folder) / "cells.h5ad", progress_bar=False
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with h5py.File(path) as file:  # reading it as AnnData would load all latents
            assert tuple(file["X"].attrs["shape"]) == (n_cells, n_genes)
    print(f"PEAK {peak:.0f} MB for {n_cells} cells, {time.process_time() - start:.0f} CPU-seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--here", action="store_true", help="measure this very process")
    args = parser.parse_args()
    if args.here:
        run(args.cells[0], args.genes)
        return
    peaks = []
    for n in args.cells:
        command = [
            sys.executable,
            __file__,
            "--here",
            "--cells",
            str(n),
            "--genes",
            str(args.genes),
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        line = next(row for row in out.splitlines() if row.startswith("PEAK"))
        print(line.removeprefix("PEAK "), flush=True)
        peaks.append(float(line.split()[1]))
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
