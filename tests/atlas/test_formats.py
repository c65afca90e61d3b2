"""What was written in each layout is what is read, in blocks of any size."""

import gc
import gzip
import os
import tarfile
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from atlas_truth import (
    log_cp10k,
    truth,
    values,
    write_10x_h5,
    write_cellxgene,
    write_loom,
    write_mtx,
    write_tisch,
    write_ucsc,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgm_scvi.atlas.formats import (
    _blocks,
    join_meta,
    read_10x_h5,
    read_file,
    read_h5ad,
    read_loom,
    read_meta,
    read_mtx,
    read_table,
)
from scgm_scvi.atlas.formats._blocks import EntrySpool

BESIDE = Path(__file__).parents[2].parent / "shared"
SHARED = Path(os.environ.get("SCGM_SHARED", BESIDE)) / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="real data are not here")

KNOWN = truth()


def matrix(reading, size=50):
    blocks = list(reading.blocks(size))
    assert all(sparse.isspmatrix_csr(b) and b.dtype == np.float32 for b in blocks)
    assert all(b.shape == (size, len(reading.var)) for b in blocks[:-1])
    assert all(b.has_canonical_format for b in blocks)
    return sparse.vstack(blocks, format="csr")


def assert_is(reading, x=KNOWN.X, *, ids=True, size=50):
    found = matrix(reading, size)
    assert found.shape == x.shape
    assert (found != x).nnz == 0
    assert list(reading.obs.index) == list(KNOWN.obs_names)
    if ids:
        assert list(reading.var.index) == list(KNOWN.var_names)
        assert list(reading.var["symbol"]) == list(KNOWN.var["symbol"])
    else:
        assert list(reading.var.index) == list(KNOWN.var["symbol"])
        assert "symbol" not in reading.var


def h5ad_with(path, x, **options):
    """The known cells with a matrix of another kind."""
    adata = ad.AnnData(x, obs=KNOWN.obs, var=KNOWN.var)
    adata.write_h5ad(path, **options)
    return path


LAYOUTS = {
    "h5ad csr": lambda d: h5ad_with(d / "a.h5ad", KNOWN.X),
    "h5ad csc": lambda d: h5ad_with(d / "a.h5ad", KNOWN.X.tocsc()),
    "h5ad dense": lambda d: h5ad_with(d / "a.h5ad", KNOWN.X.toarray(), compression="gzip"),
    "cellxgene 5": lambda d: write_cellxgene(KNOWN, d / "a.h5ad", "5.2.0"),
    "cellxgene 6": lambda d: write_cellxgene(KNOWN, d / "a.h5ad", "6.0.0"),
    "cellxgene 7": lambda d: write_cellxgene(KNOWN, d / "a.h5ad", "7.1.0"),
    "cellxgene no raw": lambda d: write_cellxgene(KNOWN, d / "a.h5ad", raw=False),
    "10x 2": lambda d: write_10x_h5(KNOWN, d / "a.h5", 2),
    "10x 3": lambda d: write_10x_h5(KNOWN, d / "a.h5", 3),
    "mtx 2": lambda d: write_mtx(KNOWN, d, 2, gz=False)[0],
    "mtx 3": lambda d: write_mtx(KNOWN, d, 3)[0],
    "mtx prefix": lambda d: write_mtx(KNOWN, d, 3, prefix="GSM1_")[0],
    "mtx transposed": lambda d: write_mtx(KNOWN, d, 3, transposed=True)[0],
    "loom": lambda d: write_loom(KNOWN, d / "a.loom"),
    "loom old": lambda d: write_loom(KNOWN, d / "a.loom", optimus=False),
    "ucsc": lambda d: write_ucsc(KNOWN, d)[0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_in_are_counts_out(tmp_path, layout):
    path = LAYOUTS[layout](tmp_path)
    for size in (1, 7, 120, 1000):
        assert_is(read_file(path), size=size)
    reading = read_file(path)
    assert_is(reading)
    assert_is(reading)  # again from the same reading
    if "h5ad" not in layout:
        assert reading.notes == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_path_may_be_text_and_the_block_size_is_checked(tmp_path, layout):
    reading = read_file(str(LAYOUTS[layout](tmp_path)))
    for wrong in (0, 2.5):
        with pytest.raises(ValueError, match="size is"):
            list(reading.blocks(wrong))


def test_values_of_every_scale(tmp_path):
    for scale in ("counts", "log_cp10k", "log2_cpm"):
        path = write_ucsc(KNOWN, tmp_path, scale=scale, keys="symbol")[0]
        assert_is(read_table(path), values(KNOWN, scale), ids=False)
    h5, _ = write_tisch(KNOWN, tmp_path)
    assert_is(read_10x_h5(h5), log_cp10k(KNOWN), ids=False)


@given(
    n_cells=st.integers(1, 40),
    size=st.integers(1, 50),
    in_memory=st.integers(1, 400),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_spool_gives_back_what_came_in_any_order(n_cells, size, in_memory, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 300))
    cells, genes = rng.integers(n_cells, size=n), rng.integers(5, size=n)
    counts = rng.integers(0, 4, n)
    spool = EntrySpool(n_cells, in_memory)
    for part in np.array_split(np.arange(n), int(rng.integers(1, 6))):
        spool.add(cells[part], genes[part], counts[part])
    expected = np.zeros((n_cells, 5))
    np.add.at(expected, (cells, genes), counts)
    for _ in range(2):
        blocks = [b.toarray() for b in spool.blocks(size, n_genes=5)]
        assert [len(b) for b in blocks[:-1]] == [size] * (len(blocks) - 1)
        np.testing.assert_array_equal(np.vstack(blocks), expected)


def temporary_folders():
    return set(Path(tempfile.gettempdir()).glob("scgm-atlas-*"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["h5ad csc", "mtx 3", "mtx transposed", "ucsc"])
def test_entries_beyond_memory_go_through_files_that_are_removed(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(_blocks, "IN_MEMORY", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reading = read_file(LAYOUTS[layout](tmp_path))
    assert len(temporary_folders()) == 1
    assert_is(reading, size=11)
    del reading
    gc.collect()
    assert not temporary_folders()


def test_memory_is_that_of_a_block(tmp_path):
    indptr = np.arange(50_001) * 60
    indices = np.tile(np.arange(0, 1_980, 33), 50_000)
    x = sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), (50_000, 2_000))
    whole = x.data.nbytes + x.indices.nbytes
    ad.AnnData(x).write_h5ad(tmp_path / "a.h5ad")
    n = x.nnz
    del x
    tracemalloc.start()
    try:
        reading = read_h5ad(tmp_path / "a.h5ad")
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert sum(b.nnz for b in reading.blocks(1_000)) == n
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert whole > 20e6
    assert peak - held < whole / 10


def test_cellxgene_columns_become_standard_ones(tmp_path):
    for schema in ("5.2.0", "7.1.0"):
        obs = read_h5ad(write_cellxgene(KNOWN, tmp_path / "a.h5ad", schema)).obs
        for column in KNOWN.obs:
            assert list(obs[column]) == list(KNOWN.obs[column])
        assert list(obs["donor_id"]) == list(obs["donor"])
        assert obs["is_primary_data"].dtype == bool
        assert not any(isinstance(t, pd.CategoricalDtype) for t in obs.dtypes)


def test_layers_are_read_by_name(tmp_path):
    path = write_cellxgene(KNOWN, tmp_path / "a.h5ad")
    assert_is(read_h5ad(path, layer="X"), log_cp10k(KNOWN))
    adata = ad.AnnData(log_cp10k(KNOWN), obs=KNOWN.obs, var=KNOWN.var)
    adata.layers["counts"] = KNOWN.X
    adata.write_h5ad(path)
    assert_is(read_file(path, layer="counts"))
    with pytest.raises(KeyError, match="'count'.*'counts'.*Did you mean 'counts'"):
        read_h5ad(path, layer="count")


def test_old_anndata_files(tmp_path):
    """Tables as compound datasets, categories in uns, raw.X by name (AnnData 0.6)."""
    path = tmp_path / "a.h5ad"
    names = np.array([b.encode() for b in KNOWN.obs_names])
    kinds = pd.Categorical(KNOWN.obs["cell_type"])
    obs = np.zeros(120, [("index", "S40"), ("cell_type", "i1"), ("depth", "f4")])
    obs["index"], obs["cell_type"], obs["depth"] = names, kinds.codes, KNOWN.X.sum(1).A1
    var = np.zeros(90, [("index", "S20"), ("gene_ids", "S20")])
    var["index"], var["gene_ids"] = list(KNOWN.var["symbol"]), list(KNOWN.var_names)
    with h5py.File(path, "w") as f:
        f["obs"], f["var"], f["raw.var"], f["X"] = obs, var[:3], var, np.zeros((120, 3))
        f["uns/cell_type_categories"] = [c.encode() for c in kinds.categories]
        group = f.create_group("raw.X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (120, 90)
        group["data"], group["indices"] = KNOWN.X.data, KNOWN.X.indices
        group["indptr"] = KNOWN.X.indptr
    reading = read_h5ad(path)
    assert_is(reading)
    assert list(reading.obs["cell_type"]) == list(KNOWN.obs["cell_type"])
    assert reading.obs["depth"].dtype.kind == "f"


def test_columns_with_gaps(tmp_path):
    obs = pd.DataFrame(index=[f"c{i}" for i in range(4)])
    obs["type"] = pd.Categorical(["a", None, "b", "a"])
    obs["plate"] = pd.Categorical([3, 1, 3, 1])
    obs["age"] = [1.0, np.nan, 2.0, 3.0]
    obs["n"] = pd.array([1, None, 3, 4], dtype="Int64")
    ad.AnnData(sparse.csr_matrix((4, 2), dtype=np.float32), obs=obs).write_h5ad(tmp_path / "a.h5ad")
    found = read_h5ad(tmp_path / "a.h5ad").obs
    assert found["type"].isna().tolist() == [False, True, False, False]
    assert found["type"].dropna().tolist() == ["a", "b", "a"]
    assert found["plate"].tolist() == [3, 1, 3, 1]
    assert found["age"].isna().sum() == 1
    assert found["n"].isna().sum() == 1


def test_features_that_are_no_genes_are_left_out(tmp_path):
    types = ["Gene Expression"] * 80 + ["Antibody Capture"] * 7 + ["Peaks"] * 3
    notes = (
        "left out 7 features of type 'Antibody Capture'",
        "left out 3 features of type 'Peaks'",
    )
    readings = [read_10x_h5(write_10x_h5(KNOWN, tmp_path / "a.h5", feature_type=types))]
    files = write_mtx(KNOWN, tmp_path, 3, gz=False)
    lines = files[1].read_text().splitlines()
    lines = [f"{line.rsplit(chr(9), 1)[0]}\t{t}" for line, t in zip(lines, types, strict=True)]
    files[1].write_text("\n".join(lines))
    readings.append(read_mtx(*files))
    for reading in readings:
        assert (matrix(reading) != KNOWN.X[:, :80]).nnz == 0
        assert list(reading.var.index) == list(KNOWN.var_names[:80])
        assert reading.notes == notes


def test_genomes_of_an_old_10x_file(tmp_path):
    path = write_10x_h5(KNOWN, tmp_path / "a.h5", 2, genome="hg19")
    with h5py.File(path, "a") as f:
        f.copy("hg19", "mm10")
        f["mm10/data"][:] = f["mm10/data"][:] + 1
    with pytest.raises(ValueError, match="'hg19', 'mm10'; say which"):
        read_10x_h5(path)
    with pytest.raises(ValueError, match="'hg38' is not in it"):
        read_10x_h5(path, genome="hg38")
    assert_is(read_10x_h5(path, genome="hg19"))
    assert matrix(read_10x_h5(path, genome="mm10")).sum() == KNOWN.X.sum() + KNOWN.X.nnz


def test_headers_and_single_columns_of_mtx_tables(tmp_path):
    matrix_, features, barcodes = write_mtx(KNOWN, tmp_path, 2, gz=False)
    features.write_text("gene_id\tgene_name\n" + features.read_text())
    barcodes.write_text('"x"\n' + "".join(f'"{b}"\n' for b in KNOWN.obs_names))
    assert_is(read_mtx(matrix_, features, barcodes))
    features.write_text("".join(f"{i}|{s}\n" for i, s in KNOWN.var["symbol"].items()))
    assert_is(read_mtx(matrix_, features, barcodes))
    features.write_text("".join(f"{s}\n" for s in KNOWN.var["symbol"]))
    assert_is(read_mtx(matrix_, features, barcodes), ids=False)


def test_more_cells_than_barcodes(tmp_path):
    files = write_mtx(KNOWN, tmp_path, gz=False)
    files[2].write_text("".join(f"{b}\n" for b in KNOWN.obs_names[:100]))
    with pytest.raises(ValueError, match="90 x 120 .*90 lines and barcodes.tsv 100"):
        read_mtx(*files)
    reading = read_mtx(*files, more_cells=True)
    assert (matrix(reading) != KNOWN.X[:100]).nnz == 0
    assert reading.notes == ("left out 20 cells without a barcode",)


def test_a_square_matrix_is_genes_by_cells_unless_told(tmp_path):
    square = truth(30, 30)
    files = write_mtx(square, tmp_path / "a")
    assert (matrix(read_mtx(*files)) != square.X).nnz == 0
    files = write_mtx(square, tmp_path / "b", transposed=True)
    assert (matrix(read_mtx(*files, transposed=True)) != square.X).nnz == 0
    assert (matrix(read_mtx(*files)) != square.X).nnz > 0


@pytest.mark.parametrize("delimiter", [",", "\t", ";", " "])
@pytest.mark.parametrize("corner", [True, False])
@pytest.mark.parametrize("quote", ['"', ""])
def test_tables_as_r_and_pandas_write_them(tmp_path, delimiter, corner, quote):
    head = ["gene"] * corner + ["c1", "c2", "c3"]
    rows = [["A,B" if quote else "A", "0", "12", "1e3"], ["HLA-A", "0.0", "-1.5", "2E-2"]]
    name = lambda n: f"{quote}{n}{quote}"
    lines = [delimiter.join(map(name, head))]
    lines += [delimiter.join([name(r[0]), *r[1:]]) for r in rows]
    path = tmp_path / "a.csv"
    path.write_bytes("\r\n".join(lines).encode())
    reading = read_table(path)
    assert list(reading.obs.index) == ["c1", "c2", "c3"]
    assert list(reading.var.index) == [r[0] for r in rows]
    expected = np.array([[0, 12, 1000], [0, -1.5, 0.02]], np.float32).T
    np.testing.assert_array_equal(matrix(reading, 2).toarray(), expected)


@given(seed=st.integers(0, 99), n_cells=st.integers(1, 30), n_genes=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_numbers_of_a_table_are_those_of_python(seed, n_cells, n_genes):
    rng = np.random.default_rng(seed)
    forms = [lambda v: str(int(v)), lambda v: f"{v:.3f}", lambda v: f"{v:.4e}", lambda v: "0",
             lambda v: "0.0", lambda v: f"+{v:.1f}", lambda v: "00"]  # fmt: skip
    texts = [
        [
            forms[k](v)
            for k, v in zip(rng.integers(7, size=n_cells), rng.gamma(0.5, 20, n_cells), strict=True)
        ]
        for _ in range(n_genes)
    ]
    lines = ["\t".join(["gene", *(f"c{i}" for i in range(n_cells))])]
    lines += ["\t".join([f"g{i}", *row]) for i, row in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tsv")
        path.write_text("\n".join(lines) + "\n")
        found = matrix(read_table(path)).toarray()
    np.testing.assert_allclose(found, np.array(texts, float).astype(np.float32).T, rtol=2e-7)


@pytest.mark.slow
def test_archives_of_one_dataset(tmp_path):
    files = write_mtx(KNOWN, tmp_path / "in" / "hg38")
    (tmp_path / "in" / "hg38" / "._matrix.mtx.gz").write_bytes(b"a Mac was here")
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz"), ("b.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(tmp_path / "in", "sample")
        before = temporary_folders()
        reading = read_file(tmp_path / name)
        assert_is(reading)
        assert len(temporary_folders() - before) == 1
        del reading
        gc.collect()
        assert temporary_folders() == before
    assert_is(read_file(files[0].parent))
    h5ad = write_cellxgene(KNOWN, tmp_path / "c.h5ad")
    zipped = tmp_path / "c.h5ad.gz"
    zipped.write_bytes(gzip.compress(h5ad.read_bytes()))
    assert_is(read_file(zipped))


def test_a_table_of_cells_is_joined_by_name(tmp_path):
    matrix_, table = write_ucsc(KNOWN, tmp_path)
    meta = read_meta(table)
    rng = np.random.default_rng(0)
    shuffled = meta.iloc[rng.permutation(120)[:80]]
    shuffled = pd.concat([shuffled, shuffled.iloc[:5].rename(index=lambda n: f"no-{n}")])
    reading = join_meta(read_table(matrix_), shuffled, "a")
    kept = KNOWN.obs_names.isin(shuffled.index)
    for size in (1, 9, 200):
        assert (matrix(reading, size) != KNOWN.X[kept]).nnz == 0
    assert list(reading.obs.index) == list(KNOWN.obs_names[kept])
    assert list(reading.obs["Cell Type"]) == list(KNOWN.obs["cell_type"][kept])
    assert reading.notes == (
        "left out 40 cells that the table of cells does not have",
        "left out 5 cells that the matrix does not have",
    )
    few = meta.iloc[:59]
    with pytest.raises(ValueError, match="only 59 cells are in both the matrix .120 cells"):
        join_meta(read_table(matrix_), few, "a")
    assert len(join_meta(read_table(matrix_), few, "a", more_cells=True).obs) == 59
    with pytest.raises(ValueError, match="the table of cells has cell .* twice"):
        join_meta(read_table(matrix_), pd.concat([meta, meta]), "a")


@pytest.mark.slow
@real
def test_real_h5ad_files():
    names = ("pbmc3k.h5ad", "covid_balf_liao2020.h5ad")
    for path in [*(SHARED / n for n in names), *SHARED.glob("formats/cellxgene/*.h5ad")]:
        with warnings.catch_warnings():  # of old files
            warnings.simplefilter("ignore")
            with_raw = ad.read_h5ad(path)
        source = with_raw.raw if with_raw.raw is not None else with_raw
        reading = read_file(path)
        assert (matrix(reading, 999) != sparse.csr_matrix(source.X)).nnz == 0
        assert list(reading.obs.index) == list(with_raw.obs_names)
        if path.name == "small_perturbations.h5ad":
            assert list(reading.var["symbol"]) == list(with_raw.var["feature_name"])
            assert set(reading.obs["organism"]) == {"Homo sapiens"}
            assert set(reading.obs["donor"]) == {"CE0008678"}
        elif path.name == "pbmc3k.h5ad":
            assert list(reading.var.index) == list(with_raw.var["gene_ids"])
            assert list(reading.var["symbol"]) == list(with_raw.var_names)


@pytest.mark.slow
@real
def test_real_10x_files_hold_the_cells_of_the_study():
    reading = read_file(next(SHARED.glob("formats/tenx_h5/*.h5")))
    study = ad.read_h5ad(SHARED / "covid_balf_liao2020.h5ad")
    sample = study[study.obs["sample"] == "C144"]
    names = pd.Index([f"C144_{b}" for b in reading.obs.index])
    assert sample.obs_names.isin(names).all()
    rows = names.get_indexer(sample.obs_names)
    assert (matrix(reading)[rows] != sample.X).nnz == 0
    assert len(reading.var) == sample.n_vars
    small = read_file(SHARED / "formats" / "tenx_mtx")
    found = matrix(small)
    assert found.shape == (1985, 32738)
    assert found.nnz == 1_531_699
    assert (found.data == found.data.astype(int)).all()
    assert small.var.loc["ENSG00000167286", "symbol"] == "CD3D"


@real
def test_real_loom_and_tables():
    path = next(SHARED.glob("formats/loom/*.loom"))
    reading = read_loom(path)
    with h5py.File(path) as f:
        np.testing.assert_array_equal(matrix(reading).toarray(), f["matrix"][()].T.astype("f4"))
    assert reading.notes == ("the file has no names of cells; they are numbered",)
    assert set(reading.obs.columns) == {"BatchID", "Clusters"}
    folder = SHARED / "formats" / "ucsc_mini"
    table = pd.read_csv(folder / "exprMatrix.tsv.gz", sep="\t", index_col=0)
    joined = join_meta(read_file(folder), read_meta(folder / "meta.tsv"), "mini")
    kept = table[joined.obs.index]
    np.testing.assert_array_equal(matrix(joined).toarray(), kept.T.to_numpy(np.float32))
    meta = pd.read_csv(folder / "meta.tsv", sep="\t", index_col=0)
    assert list(joined.obs["Name"]) == list(meta.loc[joined.obs.index, "Name"])
