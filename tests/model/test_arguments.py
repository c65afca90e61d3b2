"""Rows, genes and groups that are asked for are there, or named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_mdata, make_multi, make_types, train_types

from scgm_scvi.model.data._rows import chosen_rows

NAMES = pd.Index([f"cell{i}" for i in range(60)])


@pytest.fixture(scope="module")
def model():
    return train_types(make_types(), epochs=2, steps=5)


@pytest.fixture(scope="module")
def query():
    return make_types(60, seed=1)


VERBS = {
    "denoising_loss": lambda m, a, i: m.denoising_loss(a, i, progress_bar=False),
    "log_likelihood": lambda m, a, i: m.log_likelihood(a, i, progress_bar=False),
    "classify": lambda m, a, i: m.classify(a, indices=i, progress_bar=False),
    "ood_score": lambda m, a, i: m.ood_score(a, i, progress_bar=False),
    "get_latent_representation": lambda m, a, i: m.get_latent_representation(a, indices=i),
    "get_normalized_expression": lambda m, a, i: m.get_normalized_expression(a, indices=i),
    "get_elbo": lambda m, a, i: m.get_elbo(a, indices=i),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.filterwarnings("ignore:.*not calibrated")
class TestRows:
    @pytest.mark.parametrize(
        ("indices", "kind", "match"),
        [
            (np.ones(30, bool), IndexError, "30 truth values for 60 cells"),
            (["cell1", "cell2"], TypeError, r"'cell1', 'cell2'.*obs_names.get_indexer"),
            ([3, 60], IndexError, "indices holds 60, and there are 60 cells: 0 to 59"),
            ([-61], IndexError, "indices holds -61"),
            (np.array([1.0, 2.0]), TypeError, "dtype float64"),
            (3, TypeError, "indices is 3; pass a list"),
            (pd.Series(True, NAMES[::-1]), ValueError, r"indices\.loc\[adata\.obs_names\]"),
        ],
    )
    def test_that_there_are_not(self, model, query, verb, indices, kind, match):
        with pytest.raises(kind, match=match):
            verb(model, query, indices)

    @pytest.mark.parametrize("form", ["list", "mask", "series", "nullable", "negative", "range"])
    def test_that_there_are(self, model, query, verb, form):
        mask = np.arange(60) < 9
        indices = {
            "list": list(mask),
            "mask": mask,
            "series": pd.Series(mask, query.obs_names),
            "nullable": pd.Series(mask, dtype="boolean"),
            "negative": np.arange(9) - 60,
            "range": range(9),
        }[form]
        torch.manual_seed(0)
        expected = verb(model, query, np.arange(9))
        torch.manual_seed(0)
        np.testing.assert_allclose(verb(model, query, indices), expected, rtol=1e-5)


def test_rows_in_the_order_asked_for():
    np.testing.assert_array_equal(chosen_rows([5, 2, 5], NAMES), [5, 2, 5])
    np.testing.assert_array_equal(chosen_rows(slice(0, 3), NAMES), [0, 1, 2])
    assert len(chosen_rows([], NAMES)) == 0
    assert len(chosen_rows(None, NAMES)) == 60


class TestGenes:
    @pytest.mark.parametrize(
        ("kwargs", "kind", "match"),
        [
            ({"gene_list": "gene1"}, TypeError, r"gene_list is the string 'gene1'"),
            ({"gene_list": ["gene1", "Gene2"]}, KeyError, "no feature 'Gene2'.*mean 'gene2'"),
            ({"genes": ["gene1"]}, TypeError, "takes no 'genes'"),
        ],
    )
    def test_that_there_are_not(self, model, kwargs, kind, match):
        with pytest.raises(kind, match=match):
            model.get_normalized_expression(**kwargs)

    def test_that_there_are(self, model):
        assert list(model.get_normalized_expression(gene_list=["gene3", "gene1"]).columns) == [
            "gene1",
            "gene3",
        ]


class TestGroups:
    @pytest.mark.parametrize(
        ("kwargs", "kind", "match"),
        [
            ({"groupby": "cell_typ"}, KeyError, "'cell_typ' is not a column.*mean 'cell_type'"),
            ({"groupby": "cell_type", "group1": "Z"}, ValueError, "group1: no cell has 'Z'"),
            ({"groupby": "cell_type", "group1": ["A", "Z"]}, ValueError, "group1: no cell has"),
            ({"groupby": "cell_type", "group1": "A", "group2": "Z"}, ValueError, "group2: no cel"),
        ],
    )
    def test_without_cells(self, model, query, kwargs, kind, match):
        with pytest.raises(kind, match=match):
            model.differential_expression(query, **kwargs)

    def test_with_cells(self, model, query):
        few = {"groupby": "cell_type", "n_samples_overall": 20, "silent": True}
        found = model.differential_expression(query, group1=["A"], group2="B", **few)
        assert len(found) == 40


def test_both_modalities():
    model = make_multi(make_mdata(), epochs=1, steps=2)
    with pytest.raises(TypeError, match="gene_list is the string 'CD3D'"):
        model.get_normalized_expression(gene_list="CD3D")
    with pytest.raises(KeyError, match="region_list: the model knows no feature 'chr0:1-2'"):
        model.get_normalized_accessibility(region_list=["chr0:1-2"])
    with pytest.raises(IndexError, match="truth values"):
        model.get_normalized_expression(indices=[True])
    with pytest.raises(ValueError, match="group1: no cell has 'Z'"):
        model.differential_accessibility(groupby="cell_type", group1="Z")
