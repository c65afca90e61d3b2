"""Files of cells grow piece by piece, and appear whole or not at all."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgm_scvi._mudata import columns_stay
from scgm_scvi.model.data._h5mu import MuDataWriter
from scgm_scvi.model.data._writing import ChunkWriter

VAR = {"rna": pd.DataFrame(index=["a", "b", "c"]), "atac": pd.DataFrame(index=["p", "q"])}
GENES = pd.concat(VAR.values())


@pytest.fixture(autouse=True)
def _mudata_as_of_0_4():
    with columns_stay():
        yield


def writer(path):
    return MuDataWriter(path, VAR) if path.suffix == ".h5mu" else ChunkWriter(path)


def cells(start, n, dense):
    x = np.random.default_rng(start).poisson(1.0, (n, 5)).astype(np.float32)
    kinds = pd.Categorical.from_codes(np.arange(n) % 2, ["B", "T"])
    obs = pd.DataFrame(
        {"kind": kinds, "dose": np.arange(n) / 2}, [f"c{start + i}" for i in range(n)]
    )
    return (x if dense else sparse.csr_matrix(x)), {"X_scgm": x[:, :2] + 0.5}, obs


def features(read):
    """Features side by side, whatever holds them."""
    mods = read.mod.values() if isinstance(read, mudata.MuData) else [read]
    return np.hstack([m.X.toarray() if sparse.issparse(m.X) else m.X for m in mods])


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".h5mu"])
def test_pieces_are_together_what_they_were(tmp_path, ending, dense):
    path = tmp_path / f"cells{ending}"
    pieces = [cells(0, 4, dense), cells(4, 3, dense), cells(7, 1, dense)]
    with writer(path) as out:
        for piece in pieces:
            out.append(*(p.copy() for p in piece))
            assert not path.exists()
        out.finish(GENES, {"scgm": {"seed": 0}})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    read = {".h5ad": ad.read_h5ad, ".zarr": ad.io.read_zarr, ".h5mu": mudata.read_h5mu}[ending](
        path
    )
    x, obsm, obs = zip(*pieces, strict=True)
    np.testing.assert_array_equal(
        features(read), np.vstack([p if dense else p.toarray() for p in x])
    )
    np.testing.assert_array_equal(read.obsm["X_scgm"], np.vstack([o["X_scgm"] for o in obsm]))
    together = pd.concat(obs)
    assert read.obs_names.tolist() == together.index.tolist()
    for column in together:
        assert read.obs[column].tolist() == together[column].tolist()
    assert list(read.var_names) == GENES.index.tolist()
    assert read.uns["scgm"]["seed"] == 0


@pytest.mark.parametrize("n", [0, 1, 2], ids=["at once", "after the first", "after the second"])
@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".h5mu"])
def test_an_error_leaves_nothing(tmp_path, ending, n):
    path = tmp_path / f"cells{ending}"
    with pytest.raises(KeyboardInterrupt), writer(path) as out:
        for i in range(n):
            out.append(*cells(4 * i, 4, dense=False))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".h5mu"])
def test_what_a_killed_process_left_is_no_hindrance(tmp_path, ending):
    path = tmp_path / f"cells{ending}"
    for end in (".part", ".arrays.part"):
        path.with_name(path.name + end).write_text("half of it")
    with writer(path) as out:
        out.append(*cells(0, 4, dense=False))
        out.finish(GENES, {})
    left = {path.name} | ({f"{path.name}.arrays.part"} if ending != ".h5mu" else set())
    assert {p.name for p in tmp_path.iterdir()} == left


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("cells.csv", ValueError, "its name must end in"),
        ("there", FileExistsError, "exists already. Remove it or name another"),
        ("no/cells", FileNotFoundError, "the folder .*no' does not exist"),
    ],
)
@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".h5mu"])
def test_a_place_where_nothing_can_be_written(tmp_path, ending, name, error, said):
    (tmp_path / f"there{ending}").touch()
    path = tmp_path / (name if "." in name else f"{name}{ending}")
    with pytest.raises(error, match=f"^out.*{said}"):
        MuDataWriter(path, VAR) if ending == ".h5mu" else ChunkWriter(path)
