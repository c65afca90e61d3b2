"""Bad input is refused with a message that helps, and before anything is written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scvi.data import AnnTorchDataset

from scgm_scvi import SCGM
from scgm_scvi.model.requests._request import Request


def snapshot(adata):
    return (
        list(adata.obs.columns),
        list(adata.obsm),
        list(adata.uns),
        list(adata.layers),
        adata.X.data.copy() if sparse.issparse(adata.X) else adata.X.copy(),
    )


def refuse(adata, error, match, **kwargs):
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        SCGM.setup_anndata(adata, **kwargs)
    after = snapshot(adata)
    assert before[:4] == after[:4]
    np.testing.assert_array_equal(before[4], after[4])


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (0.5, r"adata\.X holds values that are not integers \(0\.5 is one\).*layer="),
        (-3, r"adata\.X holds negative values \(the lowest is -3\)"),
        (np.nan, r"adata\.X holds 1 NaN or infinite values \(the first is nan\)"),
        (np.inf, r"adata\.X holds 1 NaN or infinite values \(the first is inf\)"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_values_that_are_no_counts(adata, value, match, dense):
    adata.X.data[7] = value
    if dense:
        adata.X = adata.X.toarray()
    refuse(adata, ValueError, match, labels_key="cell_type")


def test_bad_values_in_a_layer_name_the_layer(adata):
    adata.layers["raw"] = adata.X.copy()
    adata.layers["raw"].data[0] = 1.5
    refuse(adata, ValueError, r"adata\.layers\['raw'\]", layer="raw")


def test_empty_cell(adata):
    adata.X = sparse.csr_matrix(adata.X.toarray() * (np.arange(700) != 5)[:, None])
    refuse(adata, ValueError, rf"1 cells without any count: '{adata.obs_names[5]}'.*filter_cells")


def test_empty_gene_is_a_warning(adata):
    adata.X = sparse.csr_matrix(adata.X.toarray() * (np.arange(765) != 5))
    with pytest.warns(UserWarning, match=rf"1 features .* '{adata.var_names[5]}'.*filter_genes"):
        SCGM.setup_anndata(adata)


def test_duplicated_var_names(adata):
    adata.var_names = ["twin", "twin", *adata.var_names[2:]]
    refuse(adata, ValueError, r"1 duplicated names: 'twin'.*var_names_make_unique")


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"labels_key": "celltype"}, r"labels_key: 'celltype'.*Did you mean 'cell_type'\?"),
        ({"batch_key": "zzz"}, r"batch_key: 'zzz' is not a column.*Columns: 'cell_type'"),
        ({"condition_keys": ["stimulaton"]}, "Did you mean 'stimulation'"),
        ({"continuous_condition_keys": ["dosis"]}, "continuous_condition_keys: 'dosis'"),
        ({"layer": "counts"}, r"layer: 'counts' is not in adata\.layers.*Layers: none"),
    ],
)
def test_missing_keys(adata, kwargs, match):
    refuse(adata, KeyError, match, **kwargs)


def test_one_key_for_two_purposes(adata):
    refuse(
        adata,
        ValueError,
        r"obs\['donor'\] is given for both batch_key and condition_keys",
        batch_key="donor",
        condition_keys=["donor"],
    )


def test_words_as_numbers(adata):
    refuse(
        adata,
        ValueError,
        r"continuous_condition_keys: adata\.obs\['donor'\] has dtype",
        continuous_condition_keys=["donor"],
    )


def test_string_for_a_list(adata):
    refuse(adata, TypeError, r"pass a list: \['donor'\]", condition_keys="donor")


def test_view(adata):
    with pytest.raises(ValueError, match=r"view of another AnnData.*adata\.copy\(\)"):
        SCGM.setup_anndata(adata[:100])


def test_backed(adata, tmp_path):
    import anndata as ad

    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"backed by .*a\.h5ad.*to_memory\(\)"):
        SCGM.setup_anndata(backed)
    backed.file.close()


def test_no_cells_and_no_anndata(adata):
    with pytest.raises(ValueError, match=r"shape \(0, 765\)"):
        SCGM.setup_anndata(adata[:0].copy())
    with pytest.raises(TypeError, match="an AnnData is needed"):
        SCGM.setup_anndata(adata.to_df())


def test_likelihood_and_input_must_agree(adata):
    SCGM.setup_anndata(adata)
    with pytest.raises(ValueError, match=r"gene_likelihood is 'normal'.*is_count_data=True"):
        SCGM(adata, gene_likelihood="normal")
    with pytest.raises(ValueError, match=r"gene_likelihood is 'nbb'; use one of"):
        SCGM(adata, gene_likelihood="nbb")


def test_missing_labels_are_unspecified(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].where(np.arange(700) > 50)
    SCGM.setup_anndata(adata, labels_key="cell_type")
    model = SCGM(adata, n_latent=4, n_hidden=8)
    assert "nan" not in model.condition_spec.categorical["cell_type"]
    tokens = adata.obsm["_scvi_scgm_conditions"]
    assert (tokens[:51] == 0).all()
    assert (tokens[51:] > 0).all()


def test_setup_leaves_counts_and_columns_alone(adata):
    before = adata.copy()
    SCGM.setup_anndata(adata, labels_key="cell_type", condition_keys=["stimulation"])
    assert (before.X != adata.X).nnz == 0
    for column in before.obs:
        assert before.obs[column].equals(adata.obs[column])


def test_categories_of_any_type(adata):
    adata.obs["day"] = np.arange(700) % 3
    adata.obs["treated"] = np.arange(700) % 2 == 0
    SCGM.setup_anndata(adata, condition_keys=["day", "treated"])
    model = SCGM(adata, n_latent=4, n_hidden=8)
    assert model.condition_spec.categorical["day"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(
        adata.obsm["_scvi_scgm_conditions"],
        np.stack([np.arange(700) % 3 + 1, (np.arange(700) % 2 == 0) + 1], axis=1),
    )


@pytest.mark.parametrize("kind", ["category", "object", "int"])
def test_a_category_that_says_unspecified(adata, kind):
    codes = np.arange(700) % 3
    if kind == "int":
        adata.obs["type"], unlabelled, known = codes, 1, [0, 2]
    else:
        adata.obs["type"] = np.array(["b", "Unknown", "a"])[codes]
        unlabelled, known = "Unknown", ["a", "b"]
    if kind == "category":
        known = ["b", "a"]  # an order of its own
        adata.obs["type"] = pd.Categorical(adata.obs["type"], ["b", "Unknown", "a"])
    before = adata.obs["type"].copy()
    SCGM.setup_anndata(adata, labels_key="type", unlabeled_category=unlabelled)
    pd.testing.assert_series_equal(adata.obs["type"], before)
    model = SCGM(adata, n_latent=4, n_hidden=8)
    assert model.condition_spec.categorical["type"].tolist() == known
    tokens = np.array([0 if t == unlabelled else known.index(t) + 1 for t in before])
    np.testing.assert_array_equal(adata.obsm["_scvi_scgm_conditions"][:, 0], tokens)
    request = Request.parse(model.condition_spec, None, {"type": [known[1], unlabelled, None]})
    assert request.tokens[:, 0].tolist() == [2, 0, 0]


def test_unlabelled_category_of_no_label(adata):
    refuse(adata, ValueError, "there is no labels_key", unlabeled_category="Unknown")


def test_torch_may_write_what_it_is_handed(adata):
    """A read-only array is warned of, once a process; pandas 3 hands such out where it can."""
    rng = np.random.default_rng(0)
    adata.obs["dose"], adata.obs["mito"], adata.obs["size"] = rng.random((3, 700), dtype=np.float32)
    names = {"continuous_condition_keys": ["dose"], "continuous_covariate_keys": ["mito"]}
    adata.obs["plate"] = rng.choice(["p1", "p2"], 700)
    categories = {"labels_key": "cell_type", "categorical_covariate_keys": ["plate"]}
    SCGM.setup_anndata(adata, **names, **categories, size_factor_key="size")
    cells = AnnTorchDataset(SCGM(adata, n_latent=4, n_hidden=8).adata_manager)[[3, 1]]
    assert {name: array.flags.writeable for name, array in cells.items()} == dict.fromkeys(
        cells, True
    )
