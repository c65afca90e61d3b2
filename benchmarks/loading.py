"""Minibatches from a training store: how fast, how well mixed, and what training makes of them.

    python benchmarks/loading.py [--cells 200000] [--genes 4000] [--steps 60] [--repeats 3]

One synthetic store of 40 data sets, in random order; every row of the table is a process of its own.
"theirs" is what annbatch (Python 3.12 and later) or scDataset does with the same file by itself,
reading as many cells at once. Entropy is that of the data sets in a minibatch, as a share of that
of independent draws. Rates are of cells, after the first minibatches, by the clock and by the time
that the processor worked: on a machine with other work the latter compares better. The ratios are of
the latter for training.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

BATCH_SIZE, N_DATASETS, FETCH = 512, 40, 16


def write(path: Path, n_cells: int, n_genes: int, n_at_once: int = 50_000) -> None:
    """Counts of 225 genes a cell, in two members, sharded."""
    import anndata as ad
    import pandas as pd
    import zarr
    from scipy import sparse

    rng = np.random.default_rng(0)
    root = zarr.open_group(path, mode="w", zarr_format=3)

    def in_shards(write, group, key, elem, dataset_kwargs, iospec):
        if iospec.encoding_type == "csr_matrix":
            chunk = 64 * 225
            dataset_kwargs = {**dataset_kwargs, "chunks": (chunk,), "shards": (256 * chunk,)}
        write(group, key, elem, dataset_kwargs=dataset_kwargs)

    for i, part in enumerate(np.array_split(np.arange(n_cells), max(2, n_cells // n_at_once))):
        n = len(part)
        indptr = np.concatenate([[0], np.cumsum(rng.poisson(225, n).clip(1))])
        # the genes of a cell are of its type's program, so that there is something to learn
        types = rng.integers(0, 10, n)
        of = np.repeat(types, np.diff(indptr))
        genes = (rng.beta(0.6, 3, indptr[-1]) * n_genes + of * n_genes // 10).astype(int) % n_genes
        values = rng.geometric(0.6, indptr[-1]).astype(np.uint16)
        x = sparse.csr_matrix((values, genes.astype(np.int32), indptr), shape=(n, n_genes))
        x.sum_duplicates()
        sizes = np.arange(1, N_DATASETS + 1) ** 2.0
        datasets = rng.choice(N_DATASETS, n, p=sizes / sizes.sum())
        obs = pd.DataFrame(
            {
                "dataset": pd.Categorical.from_codes(
                    datasets, [f"d{j}" for j in range(N_DATASETS)]
                ),
                "cell_type": pd.Categorical.from_codes(types, [f"t{j}" for j in range(10)]),
            },
            index=[f"cell_{j}" for j in part],
        )
        var = pd.DataFrame(index=[f"g{j}" for j in range(n_genes)])
        ad.experimental.write_dispatched(
            root, f"/dataset_{i}", ad.AnnData(x, obs=obs, var=var), in_shards
        )


def data_module(path: str, **kwargs):
    from scgm_scvi.atlas.stream._datamodule import AtlasDataModule

    return AtlasDataModule(path, labels_key="cell_type", fetch_factor=FETCH, **kwargs)


def codes(path: str) -> np.ndarray:
    from scgm_scvi.atlas.stream._training_cells import TrainingCells

    return TrainingCells(path).column("dataset").codes


def ours(path: str, weights: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    dm = data_module(path, batch_size=BATCH_SIZE, weights=weights, validation_size=0)
    for minibatch in dm.train_dataloader():
        yield minibatch["X"].numpy(), minibatch["batch"][:, 0].numpy()


def theirs(path: str, block_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The engine with its own shuffling, over anndata's own reading, decoded by zarrs as ours."""
    import zarr
    import zarrs  # noqa: F401

    from scgm_scvi.atlas.stream._training_cells import TrainingCells

    of = codes(path)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        matrices = TrainingCells(path).matrices
        if sys.version_info >= (3, 12):
            from annbatch import Loader

            loader = Loader(
                chunk_size=block_size,
                preload_nchunks=FETCH * BATCH_SIZE // block_size,
                batch_size=BATCH_SIZE,
                shuffle=True,
                return_index=True,
                preload_to_gpu=False,
            )
            for minibatch in loader.add_datasets(matrices):
                yield minibatch["X"].astype(np.float32).toarray(), of[minibatch["index"]]
            return
        from scdataset import BlockShuffling, scDataset
        from scipy import sparse

        ends = np.cumsum([m.shape[0] for m in matrices])

        def read(_, rows: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
            member = np.searchsorted(ends, rows, side="right")
            starts = np.concatenate([[0], ends])
            parts = [matrices[m][rows[member == m] - starts[m]] for m in np.unique(member)]
            return sparse.vstack(parts, format="csr").astype(np.float32), rows

        yield from scDataset(
            range(int(ends[-1])),
            BlockShuffling(block_size),
            BATCH_SIZE,
            FETCH,
            fetch_callback=read,
            batch_callback=lambda data, some: (data[0][some].toarray(), of[data[1][some]]),
            seed=0,
        )


def entropy(labels: np.ndarray) -> float:
    p = np.bincount(labels) / len(labels)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def measure(
    minibatches: Iterable[tuple[np.ndarray, np.ndarray]], frequencies: np.ndarray, seconds: float
) -> tuple[float, float, float]:
    """Cells a second from the second read on, by clock and by processor, and entropy as a share of independent draws'."""
    import torch

    found, n, start, worked = [], 0, None, None
    for i, (x, labels) in enumerate(minibatches):
        torch.from_numpy(x)
        found.append(entropy(labels))
        if i == FETCH - 1:
            start, worked = time.perf_counter(), time.process_time()
        if i >= FETCH:
            n += len(x)
            if time.perf_counter() - start > seconds:
                break
    rates = n / (time.perf_counter() - start), n / (time.process_time() - worked)
    rng = np.random.default_rng(0)
    p = frequencies / frequencies.sum()
    iid = [entropy(rng.choice(len(p), BATCH_SIZE, p=p)) for _ in range(200)]
    return *rates, float(np.mean(found[:-1]) / np.mean(iid))


def train(path: str, where: str, steps: int) -> tuple[float, float]:
    """Cells a second of stage one, by clock and by processor, in the second half of the steps."""
    import anndata as ad
    import scvi
    import zarr
    from lightning.pytorch import Callback

    from scgm_scvi import SCGM

    class Clock(Callback):
        def __init__(self) -> None:
            self.at: list[np.ndarray] = []

        def on_train_batch_end(self, *args, **kwargs) -> None:
            self.at.append(np.array([time.perf_counter(), time.process_time()]))

    scvi.settings.seed = 0
    dm = data_module(path, weights=None)
    if where == "disk":
        model, data = SCGM(registry=dm.registry), {"datamodule": dm}
    else:
        root = zarr.open_group(path, mode="r")
        names = sorted(root.group_keys(), key=lambda name: int(name.split("_")[1]))
        adata = ad.concat([ad.io.read_elem(root[name]) for name in names], merge="same")
        adata.X = adata.X.astype(np.float32)
        SCGM.setup_anndata(adata, batch_key="dataset", labels_key="cell_type")
        model, data = SCGM(adata), {"max_epochs": 1, "validation_size": 0, "train_size": 0.95}
    clock = Clock()
    model.train(
        max_steps=steps,
        diffusion=False,
        callbacks=[clock],
        enable_progress_bar=False,
        accelerator="cpu",
        limit_val_batches=0,
        **data,
    )
    half = len(clock.at) // 2
    by_clock, by_processor = 128 * (len(clock.at) - 1 - half) / (clock.at[-1] - clock.at[half])
    return by_clock, by_processor


def run(what: str, path: str, steps: int, seconds: float) -> None:
    """One row: its numbers, and the peak of this process's memory."""
    warnings.simplefilter("ignore")
    kind, _, option = what.partition(":")
    if kind == "train":
        numbers = [*train(path, option, steps), float("nan")]
    else:
        sizes = np.bincount(codes(path)).astype(float)
        if kind == "ours":
            weights = option or None
            numbers = measure(ours(path, weights), sizes**0.5 if weights else sizes, seconds)
        else:
            numbers = measure(theirs(path, int(option)), sizes, seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("ROW", *numbers, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=60, help="of training, of 128 cells")
    parser.add_argument("--seconds", type=float, default=15.0, help="of reading, at most")
    parser.add_argument("--repeats", type=int, default=3, help="of everything; the best counts")
    parser.add_argument("--store", help="measure this training store")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        run(args.here, args.store, args.steps, args.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.store
        if path is None:
            path = str(Path(folder) / "training")
            warnings.simplefilter("ignore")
            write(Path(path), args.cells, args.genes)
        name = "annbatch" if sys.version_info >= (3, 12) else "scDataset"
        rows = {
            "ours, each cell once": "ours:",
            "ours, data sets by square root": "ours:sqrt",
            f"{name} itself, blocks of 64": "theirs:64",
            f"{name} itself, blocks of 256": "theirs:256",
            "training from disk": "train:disk",
            "training from memory": "train:memory",
        }
        commands = {}
        for label, what in rows.items():
            commands[label] = [sys.executable, __file__, "--here", what, "--store", path]
            commands[label] += ["--steps", str(args.steps), "--seconds", str(args.seconds)]
        found = {label: [] for label in rows}
        for _ in range(args.repeats):  # in turns, so that other work on the machine meets all alike
            for label, command in commands.items():
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                line = next(row for row in out.splitlines() if row.startswith("ROW"))
                found[label].append([float(v) for v in line.split()[1:]])
        print(f"{'':32s}{'cells/s':>10s}{'/CPU-s':>10s}{'entropy':>10s}{'peak MB':>10s}")
        best = {label: np.max(values, axis=0) for label, values in found.items()}
        for label, (rate, worked, mixed, peak) in best.items():
            print(f"{label:32s}{rate:10.0f}{worked:10.0f}{mixed:10.3f}{peak:10.0f}")
        ours, _, *theirs, disk, memory = best.values()
        print(f"ours / {name}: {ours[0] / max(t[0] for t in theirs):.2f}")
        print(f"training from disk / from memory: {disk[1] / memory[1]:.2f}")


if __name__ == "__main__":
    main()
