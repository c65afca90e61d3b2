"""What is read of a MuData, where its columns are found, what is refused, and padding."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers import SMALL, make_joint, make_mdata
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scgm_scvi import MultiSCGM
from scgm_scvi.model import pad_modalities

pytestmark = pytest.mark.usefixtures("mudata_as_of_0_4")


def written(mdata: MuData) -> list[str]:
    """Everything of scvi's in a MuData."""
    places = [mdata, *mdata.mod.values()]
    return [str(k) for p in places for k in [*p.obs, *p.obsm, *p.uns] if str(k).startswith("_scvi")]


def refused(error: type[Exception], match: str, mdata: MuData, **kwargs) -> None:
    """The set-up fails, and has written nothing."""
    with pytest.raises(error, match=match):
        MultiSCGM.setup_mudata(mdata, **kwargs)
    if isinstance(mdata, MuData):
        assert not written(mdata)


def codes(mdata: MuData, **kwargs) -> tuple[list[str], np.ndarray]:
    """Categories and tokens of the first condition."""
    MultiSCGM.setup_mudata(mdata, **kwargs)
    model = MultiSCGM(mdata, **SMALL)
    tokens = model.adata_manager.get_from_registry("scgm_conditions")
    return list(next(iter(model.condition_spec.categorical.values()))), np.asarray(tokens)[:, 0]


def test_the_order_of_modalities_does_not_matter_and_stays():
    mdata = make_mdata()
    swapped = MuData({"atac": mdata["atac"].copy(), "rna": mdata["rna"].copy()})
    for data in (mdata, swapped):
        order = list(data.mod)
        MultiSCGM.setup_mudata(data, batch_key="donor", labels_key="cell_type")
        model = MultiSCGM(data, **SMALL)
        assert list(data.mod) == order
        assert model.module.widths == [120, 200]
        tensors = next(iter(model._make_data_loader(adata=data, batch_size=350)))
        x = np.asarray(tensors[REGISTRY_KEYS.ATAC_X_KEY])
        np.testing.assert_array_equal(x, mdata["atac"].X.toarray())
    assert not [c for c in mdata.obs if not c.startswith("_scvi")]


def test_names_of_the_modalities_may_stand_where_multivi_has_them():
    mdata = make_mdata()
    mdata = MuData({"gex": mdata["rna"], "acc": mdata["atac"]})
    refused(KeyError, "rna_key is 'rna'.*Modalities: 'gex', 'acc'", mdata)
    MultiSCGM.setup_mudata(mdata, modalities={"rna_layer": "gex", "atac_layer": "acc"})
    assert MultiSCGM(mdata, **SMALL)._cells.modalities[1].key == "acc"


def test_columns_are_found_wherever_they_are():
    types = make_mdata()["rna"].obs["cell_type"]
    expected = codes(make_mdata(), labels_key="cell_type")
    top = make_mdata()
    top.obs["cell_type"] = types
    for adata in top.mod.values():
        del adata.obs["cell_type"]
    one = make_mdata()
    del one["rna"].obs["cell_type"]
    for mdata in (top, one):
        found = codes(mdata, labels_key="cell_type")
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])


def test_modalities_that_contradict_each_other_are_asked_about():
    mdata = make_mdata()
    mdata["atac"].obs["cell_type"] = "other"
    refused(
        ValueError,
        "labels_key: 'cell_type'.*do not agree.*modalities=",
        mdata,
        labels_key="cell_type",
    )
    found = codes(mdata, labels_key="cell_type", modalities={"labels_key": "atac"})
    assert found[0] == ["other"]


def test_what_a_modality_leaves_open_the_other_may_say():
    mdata = make_mdata()
    expected = codes(make_mdata(), labels_key="cell_type")[1]
    for key, rows in (("rna", slice(0, 10)), ("atac", slice(20, 30))):
        mdata[key].obs.iloc[rows, mdata[key].obs.columns.get_loc("cell_type")] = np.nan
    np.testing.assert_array_equal(codes(mdata, labels_key="cell_type")[1], expected)


def test_layers():
    mdata = make_mdata()
    mdata["atac"].layers["fragments"] = mdata["atac"].X.copy()
    mdata["atac"].X = mdata["atac"].X * 0.5
    refused(ValueError, r"mdata\['atac'\]\.X holds values that are not integers", mdata)
    refused(KeyError, r"'reads' is not in mdata\['atac'\]\.layers", mdata, atac_layer="reads")
    MultiSCGM.setup_mudata(mdata, atac_layer="fragments")
    model = MultiSCGM(mdata, **SMALL)
    with model._registered(mdata[:5]) as cells:
        counts = model._counts_of(cells)
    np.testing.assert_array_equal(
        counts[:, 120:].toarray(), mdata["atac"].layers["fragments"][:5].toarray()
    )


def test_other_kinds_of_objects_are_refused():
    mdata = make_mdata()
    refused(TypeError, "is an AnnData.*setup_anndata", mdata["rna"])
    refused(TypeError, "a dict; a MuData", {})
    refused(ValueError, "a view of another MuData", mdata[:10])
    with pytest.raises(TypeError, match="setup_mudata"):
        MultiSCGM.setup_anndata(mdata)


def test_keys_are_refused():
    mdata = make_mdata()
    refused(KeyError, "atac_key is 'atc'.*Did you mean 'atac'", mdata, atac_key="atc")
    refused(ValueError, "both 'rna'", mdata, atac_key="rna")
    refused(
        ValueError,
        "are swapped. Pass rna_key='rna', atac_key='atac'",
        mdata,
        rna_key="atac",
        atac_key="rna",
    )
    refused(KeyError, "labels_key: 'type' is not a column of mdata.obs", mdata, labels_key="type")
    refused(ValueError, "'batch' is no argument", mdata, modalities={"batch": "rna"})
    refused(KeyError, "'rn'.*Did you mean 'rna'", mdata, modalities={"batch_key": "rn"})
    refused(
        KeyError,
        r"not a column of mdata\['atac'\]\.obs",
        mdata,
        batch_key="donor",
        modalities={"batch_key": "atac"},
    )
    refused(TypeError, "condition_keys is the string 'phase'", mdata, condition_keys="phase")


def test_cells_must_be_the_same_in_one_order():
    refused(
        ValueError, r"mdata\['rna'\] lacks 30 of the 350 cells .*pad_modalities", make_mdata(30)
    )
    mdata = make_mdata()
    mdata = MuData({"rna": mdata["rna"], "atac": mdata["atac"][::-1].copy()})
    refused(ValueError, r"mdata\['atac'\] are in another order", mdata)


def test_empty_modalities_and_cells_are_refused():
    mdata = make_mdata()
    mdata["atac"].X = sparse.csr_matrix(mdata["atac"].shape, dtype=np.float32)
    refused(ValueError, r"mdata\['atac'\]\.X is all zeros", mdata)
    nothing = MuData({"rna": mdata["rna"], "atac": mdata["atac"][:, :0].copy()})
    refused(ValueError, r"mdata\['atac'\] has shape \(350, 0\)", nothing)
    mdata = make_mdata()
    for adata in mdata.mod.values():
        x = adata.X.tolil()
        x[[3, 8]] = 0
        adata.X = sparse.csr_matrix(x)
    names = list(mdata.obs_names[[3, 8]])
    refused(ValueError, f"2 cells have no count .*'{names[0]}', '{names[1]}'", mdata)


def test_names_of_features_must_be_unique():
    mdata = make_mdata()
    mdata["atac"].var_names = [*mdata["rna"].var_names[:2], *mdata["atac"].var_names[2:]]
    refused(ValueError, "share 2 names of features: 'HES4'", mdata)
    mdata = make_mdata()
    mdata["atac"].var_names = ["chr1:1-2", "chr1:1-2", *mdata["atac"].var_names[2:]]
    refused(ValueError, r"mdata\['atac'\]\.var_names holds 1 duplicated", mdata)


def test_binary_data_where_counts_are_asked_for():
    mdata = make_mdata()
    mdata["rna"].X = (mdata["rna"].X > 0).astype(np.float32)
    refused(ValueError, r"mdata\['rna'\]\.X holds no count above 1.*binarised", mdata)
    mdata = make_mdata()
    mdata["atac"].X = (mdata["atac"].X > 0).astype(np.float32)
    MultiSCGM.setup_mudata(mdata)
    with pytest.raises(ValueError, match='peak_likelihood="bernoulli"'):
        MultiSCGM(mdata, **SMALL)
    MultiSCGM(mdata, peak_likelihood="bernoulli", **SMALL)


def test_likelihoods_are_checked():
    mdata = make_mdata()
    MultiSCGM.setup_mudata(mdata)
    with pytest.raises(ValueError, match="peak_likelihood is 'poison'. Did you mean 'poisson'"):
        MultiSCGM(mdata, peak_likelihood="poison", **SMALL)
    with pytest.raises(ValueError, match="gene_likelihood is 'zinb'"):
        MultiSCGM(mdata, gene_likelihood="zinb", **SMALL)


def test_padding_gives_every_modality_all_cells():
    mdata = make_mdata(40)
    mdata["rna"].obsm["X_pca"] = np.ones((310, 2), dtype=np.float32)
    mdata["rna"].layers["twice"] = mdata["rna"].X * 2
    padded = pad_modalities(mdata)
    names = padded.obs_names
    assert list(padded["rna"].obs_names) == list(padded["atac"].obs_names) == list(names)
    for key in ("rna", "atac"):
        had, has = mdata[key], padded[key]
        assert sparse.issparse(has.X) and has.X.format == "csr" and has.X.nnz == had.X.nnz
        np.testing.assert_array_equal(has[had.obs_names].X.toarray(), had.X.toarray())
        assert not has[~names.isin(had.obs_names)].X.nnz
        pd.testing.assert_frame_equal(has.var, had.var)
    full = make_mdata()["rna"].obs["cell_type"]
    assert (padded.obs["cell_type"].astype(str) == full.loc[names].astype(str)).all()
    assert padded.obs["donor"].isna().sum() == 40
    assert np.isnan(padded["rna"].obsm["X_pca"]).sum() == 80
    assert padded["rna"].layers["twice"].sum() == 2 * padded["rna"].X.sum()
    assert mdata["rna"].n_obs == 310 and "cell_type" not in mdata.obs
    MultiSCGM.setup_mudata(padded, labels_key="cell_type")


def test_padding_brings_cells_into_one_order_and_shares_what_is_in_it():
    mdata = make_mdata()
    mixed = MuData({"rna": mdata["rna"], "atac": mdata["atac"][::-1].copy()})
    padded = pad_modalities(mixed)
    assert padded["rna"].X is mdata["rna"].X
    np.testing.assert_array_equal(padded["atac"].X.toarray(), mdata["atac"].X.toarray())


def test_padding_leaves_out_what_modalities_contradict_each_other_in():
    mdata = make_mdata(40)
    mdata["atac"].obs["cell_type"] = "other"
    assert "cell_type" not in pad_modalities(mdata).obs


def test_padding_refuses_what_it_can_not_match():
    mdata = make_mdata()
    mdata["rna"].obs_names = ["a", "a", *mdata["rna"].obs_names[2:]]
    with pytest.raises(ValueError, match=r"mdata\['rna'\]\.obs_names holds 1 duplicated"):
        pad_modalities(mdata)
    with pytest.raises(TypeError, match="a MuData is needed"):
        pad_modalities(mdata["rna"])


def test_anndata_of_both():
    mdata = make_mdata()
    adata = make_joint(mdata)
    MultiSCGM.setup_anndata(adata, modality_key="feature_types", labels_key="cell_type")
    model = MultiSCGM(adata, **SMALL)
    assert model.module.widths == [120, 200]
    assert [block.key for block in model._cells.modalities] == ["Gene Expression", "Peaks"]
    pd.testing.assert_frame_equal(model.var_, adata.var)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a: a[:, ::-1].copy(), ValueError, r"mixed in adata.*argsort\(kind='stable'\)"),
        (lambda a: a[:, :120].copy(), ValueError, "atac_key is 'Peaks', which"),
        (
            lambda a: ad.concat([a, _antibodies(a)], axis=1, merge="first"),
            ValueError,
            "3 features that are neither .*'Antibody Capture'",
        ),
    ],
)
def test_anndata_of_both_is_refused(change, error, match):
    adata = change(make_joint(make_mdata()))
    with pytest.raises(error, match=match):
        MultiSCGM.setup_anndata(adata, modality_key="feature_types")
    with pytest.raises(KeyError, match="modality_key: 'modality' is not a column of adata.var"):
        MultiSCGM.setup_anndata(adata)
    assert not [k for k in [*adata.obs, *adata.obsm, *adata.uns] if k.startswith("_scvi")]


def _antibodies(adata: AnnData) -> AnnData:
    var = pd.DataFrame({"feature_types": "Antibody Capture"}, index=["CD3", "CD4", "CD8"])
    return AnnData(sparse.csr_matrix((adata.n_obs, 3), dtype=np.float32), adata.obs[[]], var)


def test_the_remedy_for_mixed_features_works():
    adata = make_joint(make_mdata())
    rng = np.random.default_rng(0)
    mixed = adata[:, rng.permutation(adata.n_vars)].copy()
    order = (mixed.var["feature_types"] == "Peaks").to_numpy().argsort(kind="stable")
    MultiSCGM.setup_anndata(mixed[:, order].copy(), modality_key="feature_types")
