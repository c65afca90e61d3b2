"""Real cells, served as three sources serve them: every count that quality control keeps is back."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from atlas_mirror import QUICK, TISCH, plan_of
from atlas_server import FixtureServer
from atlas_trees import put_cellxgene, put_ucsc
from atlas_truth import log_cp10k, write_10x_h5
from scipy import sparse

from scgm_scvi import atlas

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[3] / "shared")) / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the real datasets are not here")


def put_lung(server, folder):
    """As TISCH2 has it: ln(1 + CP10K) by symbols, and a table of cells."""
    adata = ad.read_h5ad(DATA / "covid_balf_liao2020.h5ad")
    adata.var["symbol"] = adata.var_names
    path = folder / "lung.h5"
    write_10x_h5(adata, path, x=log_cp10k(adata), ids=list(adata.var_names), feature_type="Gene")
    server.put(f"/TISCH_2022/{TISCH}/{TISCH}_expression.h5", path.read_bytes())
    meta = pd.DataFrame(
        {
            "Cell": adata.obs_names,
            "Celltype (major-lineage)": "Mono/Macro",
            "Patient": adata.obs["sample"].to_numpy(),
        }
    )
    table = meta.to_csv(sep="\t", index=False).encode()
    server.put(f"/static/data/{TISCH}/{TISCH}_CellMetainfo_table.tsv", table)
    return adata


def put_marrow(server, folder):
    """As the UCSC Cell Browser has it: a table of counts, genes x cells."""
    adata = ad.read_h5ad(DATA / "marrow_cd34_palantir.h5ad")[:600].copy()
    (folder / "marrow").mkdir()
    frame = adata.to_df().T.astype(int)
    frame.to_csv(folder / "marrow" / "exprMatrix.tsv.gz", sep="\t", index_label="gene")
    adata.obs[["cell_type"]].to_csv(folder / "marrow" / "meta.tsv", sep="\t", index_label="cellId")
    put_ucsc(server, {"marrow": folder / "marrow"})
    return adata


def on_axis(adata, names):
    """The counts of the genes that the store has, by name, as it has them."""
    x = sparse.csr_matrix(adata.X)
    return x[:, adata.var_names.get_indexer(names)].toarray()


@needs_data
def test_three_sources_two_diseases_all_counts(tmp_path):
    with FixtureServer() as server:
        pancreas = ad.read_h5ad(DATA / "pancreas_hormone2cell.h5ad")
        entry = put_cellxgene(server, DATA / "pancreas_hormone2cell.h5ad")
        server.put_json("/curation/v1/datasets", [entry])
        made = {
            f"cellxgene/{entry['dataset_id']}": pancreas,
            f"tisch/{TISCH}": put_lung(server, tmp_path),
            "ucsc/marrow": put_marrow(server, tmp_path),
        }
        plan = plan_of([*made], server.url, tmp_path, qc={}, training={"genes": 1000})
        report = atlas.build(plan, tmp_path / "scgdb", **QUICK).set_index("source")
    assert (report["status"] == "stored").all(), report.to_string()
    store = atlas.open(tmp_path / "scgdb")
    for name, adata in made.items():
        key = report.loc[name.split("/")[0], "key"]
        stored = store[key].to_memory()
        cells = [n.split(":")[-1] for n in stored.obs_names]
        ids = pd.Index(stored.var_names if "cellxgene" in name else stored.var["symbol"])
        once = ids[~ids.duplicated(keep=False)]
        names = adata.var_names[adata.var_names.isin(once)]
        ours = stored.X[:, [np.flatnonzero(ids == n)[0] for n in names[:2000]]].toarray()
        theirs = on_axis(adata[cells], names[:2000])
        assert (ours == theirs).all(axis=0).mean() > 0.99, name  # others are summed from several
        assert len(names) > 10_000
    assert report.loc["cellxgene", "n_cells"] > 2_800
    assert report.loc["tisch", "n_cells"] > 5_500
    assert store.datasets.loc[report.loc["tisch", "key"], "scale"] == "ln_cp10k"
    diseases = store.value_counts("disease")
    assert {"normal", "non-small cell lung carcinoma"} <= set(diseases.index)
    parts = [ad.io.read_zarr(p) for p in sorted((tmp_path / "scgdb/train").glob("dataset_*"))]
    assert sum(p.n_obs for p in parts) == report["n_cells"].sum()
    assert np.isin(parts[0].var_names, store[report["key"].iloc[0]].var_names).all()
