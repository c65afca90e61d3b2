"""Peak memory of training MultiSCGM, and of generating with it, each in a process of its own.

    python benchmarks/multiome_memory.py --data cells.h5mu [--cells 10000]

The model is trained for moments only: how long it is trained does not change how much memory it
takes. Peaks are those of the whole process, libraries and data included.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

LABEL = "cell_type"
QUIET = {"enable_progress_bar": False}


def train(data: Path, folder: Path, cells: int) -> str:
    import mudata

    from scgm_scvi import MultiSCGM

    mdata = mudata.read_h5mu(data)
    MultiSCGM.setup_mudata(mdata, labels_key=LABEL)
    model = MultiSCGM(mdata)
    model.train(max_epochs=2, accelerator="cpu", diffusion_kwargs={"max_steps": 10}, **QUIET)
    model.save(str(folder))
    return f"training on {mdata.n_obs} cells × {mdata.n_vars} features"


def generate(data: Path, folder: Path, cells: int) -> str:
    import mudata

    from scgm_scvi import MultiSCGM

    mdata = mudata.read_h5mu(data)
    model = MultiSCGM.load(str(folder), mdata, accelerator="cpu")
    types = mdata["rna"].obs[LABEL].sample(cells, replace=True, random_state=0).to_list()
    drawn = model.generate(cells, {LABEL: types}, seed=0, progress_bar=False)
    return f"generating {drawn.n_obs} cells × {drawn.n_vars} features"


STEPS = {f.__name__: f for f in (train, generate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="h5mu file")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--here", nargs=2, help="do a step in this very process, with a folder")
    args = parser.parse_args()
    if args.here:
        from worker import peak_memory_mb

        warnings.simplefilter("ignore")
        start = time.process_time()
        what = STEPS[args.here[0]](args.data, Path(args.here[1]), args.cells)
        seconds = time.process_time() - start
        print(json.dumps({"what": what, "peak_mb": peak_memory_mb(), "seconds": seconds}))
        return
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            command = [sys.executable, __file__, "--data", str(args.data)]
            command += ["--cells", str(args.cells), "--here", step, str(Path(folder) / "model")]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(ended.stdout.splitlines()[-1])
            print(
                f"{found['what']}: peak {found['peak_mb']:.0f} MB, "
                f"{found['seconds']:.0f} CPU-seconds",
                flush=True,
            )


if __name__ == "__main__":
    main()
