"""From a screen's file by a plan to a model trained from disk on what was done to its cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from atlas_mirror import NO_QC
from atlas_truth import truth, write_cellxgene

from scgm_scvi import SCGM, atlas

GUIDES = {
    **{f"CD4-{i}": {"role": "targeting"} for i in (1, 2)},
    "MYC-1": {
        "role": "targeting",
        "protospacer_sequence": "CAGAGGGAGGAGAGAACCG",
        "protospacer_adjacent_motif": "3' NGG",
        "derived_genomic_regions": ["8:127736231-127736249(+)"],
        "derived_features": {"ENSG00000136997": "MYC"},
    },
    "NTC-1": {"role": "control"},
}
SCREEN = "CRISPR interference screen"
IDS = ["CD4-1", "CD4-2 || NTC-1", "MYC-1", "CD4-1 || MYC-1", "NTC-1", "na"]
TARGETS = dict(zip(IDS, ["CD4", "CD4", "MYC", "CD4+MYC", "control", None], strict=True))


def screen():
    adata = truth(240, 80, 1)
    ids = np.resize(IDS, 240)
    adata.obs["genetic_perturbation_id"] = ids
    strategy = {"na": "no perturbations", "NTC-1": "control"}
    adata.obs["genetic_perturbation_strategy"] = [strategy.get(i, SCREEN) for i in ids]
    adata.obs["perturbation_types"] = np.where(ids == "na", "no perturbations", "genetic")
    adata.obs["tissue_type"] = "cell line"
    adata.obs["tissue"], adata.obs["tissue_ontology_term_id"] = "A-549", "CVCL_0023"
    adata.obs["cell_type"] = adata.obs["cell_type_ontology_term_id"] = "na"
    adata.obs["umis_guide"] = np.where(np.arange(240) % 5, np.arange(240.0), np.nan)
    adata.obs["well"] = [f"w{i % 3}" if i % 7 else "" for i in range(240)]
    return adata


def drugs():
    adata = truth(120, 80, 2)
    drug = np.resize(["tamoxifen", "na"], 120)
    adata.obs["experimental_condition"] = drug
    adata.obs["experimental_condition_ontology_term_id"] = np.resize(["CHEBI:41774", "na"], 120)
    adata.obs["perturbation_types"] = np.resize(["chemical", "no perturbations"], 120)
    return adata


def plan_of(folder, keep=("well",), own=("umis_guide",)):
    row = {"keep": list(own), "tissue_types": ["cell line"]}
    rows = [
        {"source": "local", "id": "screen.h5ad", **row},
        {"source": "local", "id": "drugs.h5ad"},
    ]
    more = {"urls": {"local": str(folder)}, "qc": NO_QC, "training": {"genes": 30}}
    return atlas.Plan.from_dict({"dataset": rows, "keep": list(keep), **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_cellxgene(screen(), folder / "screen.h5ad", guides=GUIDES)
    write_cellxgene(drugs(), folder / "drugs.h5ad")
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "s"
    report = atlas.build(plan_of(folder), out)
    assert report["status"].tolist() == ["stored"] * 2, report["reason"].tolist()
    return out


def trained_on(out):
    parts = [ad.io.read_zarr(p) for p in sorted((out / "train").glob("dataset_*"))]
    return pd.concat([p.obs for p in parts]).set_index(["dataset", "row"]).sort_index()


def test_what_was_done_to_cells_is_in_the_store(built):
    stored, given = atlas.open(built)["local-screen.h5ad"], screen().obs
    for column in (
        "genetic_perturbation_id",
        "genetic_perturbation_strategy",
        "perturbation_types",
    ):
        assert stored.obs[column].to_list() == given[column].to_list(), column
    names = stored.obs["genetic_perturbation"].astype(object)
    assert names.where(names.notna(), None).to_list() == [
        TARGETS[i] for i in given["genetic_perturbation_id"]
    ]
    table = stored.uns["genetic_perturbations"]
    assert table["role"].to_dict() == {k: v["role"] for k, v in GUIDES.items()}
    assert table.loc["MYC-1", "derived_genomic_regions"] == "8:127736231-127736249(+)"
    assert "experimental_condition" not in stored.obs
    assert set(stored.obs["cell_line"]) == {"A-549"}
    assert set(stored.obs["cell_type"]) == {"cultured cell"}
    assert "cell_line" not in atlas.open(built)["local-drugs.h5ad"].obs
    assert atlas.open(built).verify() == {}


def test_columns_land_in_the_training_store_and_are_unspecified_where_not_said(built):
    obs, given = trained_on(built), screen().obs
    ours, theirs = obs.loc["local-screen.h5ad"], obs.loc["local-drugs.h5ad"]
    assert obs["umis_guide"].dtype == np.float32
    np.testing.assert_array_equal(ours["umis_guide"], given["umis_guide"].astype("float32"))
    assert theirs["umis_guide"].isna().all()
    wells = given["well"].where(given["well"] != "")
    assert ours["well"].astype(object).equals(wells.set_axis(ours.index).astype(object))
    for column in ("well", "genetic_perturbation", "genetic_perturbation_id", "cell_line"):
        assert theirs[column].isna().all(), column
    assert ours["experimental_condition"].isna().all()
    assert (
        theirs["experimental_condition"].to_list()
        == drugs().obs["experimental_condition"].to_list()
    )


def test_a_model_is_trained_from_disk_on_them(built):
    data = atlas.datamodule(
        built,
        labels_key="cell_line",
        condition_keys=["genetic_perturbation", "experimental_condition", "well"],
        continuous_condition_keys=["umis_guide"],
        batch_size=32,
    )
    state = data.registry["field_registries"]["scgm_conditions"]["state_registry"]
    found = state["mappings"]["genetic_perturbation"]
    assert list(found) == ["CD4", "CD4+MYC", "MYC", "control"]
    model = SCGM(registry=data.registry, n_latent=4, n_hidden=8)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(datamodule=data, max_epochs=1, diffusion_kwargs={"max_steps": 3, **quiet}, **quiet)
    made = model.generate(5, conditions={"genetic_perturbation": "CD4+MYC"}, n_steps=3, seed=0)
    assert (made.obs["genetic_perturbation"] == "CD4+MYC").all()
    assert np.isfinite(made.X.sum())


@pytest.mark.filterwarnings("ignore:Nothing tells the responses:UserWarning")
@pytest.mark.filterwarnings("ignore:Fewer than 3 :UserWarning")
def test_what_was_done_is_learnt_as_perturbations(built):
    data = atlas.datamodule(
        built,
        labels_key="cell_line",
        perturbation_key="genetic_perturbation",
        control="control",
        batch_size=32,
    )
    model = SCGM(registry=data.registry, n_latent=4, n_hidden=8)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(datamodule=data, max_epochs=1, diffusion_kwargs={"max_steps": 3, **quiet}, **quiet)
    stored = atlas.open(built)["local-screen.h5ad"]
    genes = list(model.var_.index)
    cells = stored[(stored.obs["genetic_perturbation"] == "control").to_numpy()]
    controls = ad.AnnData(cells.X, obs=cells.obs, var=cells.var)[:, genes].copy()
    made = model.predict(controls, ["MYC", "CD4+MYC"], seed=0, progress_bar=False)
    assert made.n_obs == 2 * controls.n_obs
    assert set(made.obs["genetic_perturbation"]) == {"MYC", "CD4+MYC"}
    assert len(made.uns["scgm"]["expected"]["r2"]) == 2


def test_the_next_build_does_nothing_and_another_column_makes_both_again(folder, built, tmp_path):
    lines = []
    atlas.build(plan_of(folder), built, progress=lines.append)
    assert len(lines) == 2  # no training store is written
    out = tmp_path / "s"
    atlas.build(plan_of(folder, keep=()), out)
    assert "well" not in trained_on(out)
    atlas.build(plan_of(folder), out)
    assert "well" in trained_on(out)


def test_a_column_that_a_file_lacks_sets_it_aside(folder, tmp_path):
    report = atlas.build(plan_of(folder, own=("wel",)), tmp_path / "s")
    reason = report.set_index("id").loc["screen.h5ad", "reason"]
    assert "keep: 'wel' is no column of its files, which have" in reason
    assert "Did you mean 'well'?" in reason
    assert report.set_index("id").loc["drugs.h5ad", "status"] == "stored"
    # "well" is kept of all, and the data set that has it is the one that was set aside
    assert "well" not in trained_on(tmp_path / "s")


def test_a_column_that_all_files_lack_is_an_error(folder, tmp_path):
    with pytest.raises(ValueError, match="keep has 'wells'.*none of 2.*Did you mean 'well'"):
        atlas.build(plan_of(folder, keep=("wells",)), tmp_path / "s")
