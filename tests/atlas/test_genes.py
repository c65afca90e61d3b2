import anndata
import numpy as np
import pandas as pd
import pytest
from atlas_values import draw_counts, real
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scgm_scvi.atlas.curate._genes import GeneAxis, guess_organism


@pytest.fixture(scope="module")
def human():
    return GeneAxis.load("human")


@pytest.fixture(scope="module")
def mouse():
    return GeneAxis.load("mouse")


def var(*names, **columns):
    return pd.DataFrame(columns, index=list(names))


def gene(axis, symbol):
    return int(np.flatnonzero(axis.symbols == symbol)[0])


def test_axes(human, mouse):
    assert len(human) == 55807 and len(mouse) == 55407
    for axis, mt, actin in ((human, "MT-CO1", "ACTB"), (mouse, "mt-Co1", "Actb")):
        assert len(set(axis.ids)) == len(axis) == len(axis.symbols)
        assert axis.mitochondrial.sum() == 15 and axis.mitochondrial[gene(axis, mt)]
        assert axis.by_symbol[gene(axis, actin)]
        assert (axis.symbols != "").all()
        assert axis.var.loc[axis.ids[3], "symbol"] == axis.symbols[3]
        assert set(axis.biotypes) >= {"protein_coding", "lncRNA", "Mt_rRNA", "IG_V_gene"}
    assert human.version == "GENCODE v48"
    with pytest.raises(ValueError, match="organism is 'humam'.*Did you mean 'human'"):
        GeneAxis.load("humam")


@pytest.mark.parametrize(
    ("names", "symbol", "how"),
    [
        (["ENSG00000141510"], "TP53", "id"),
        (["ENSG00000141510.18"], "TP53", "id"),
        (["ENSG00000141510.18|TP53"], "TP53", "id"),
        (["TP53"], "TP53", "symbol"),
        (["ENSG00000999999|TP53"], "TP53", "symbol"),  # a retired id
        (["GOLGA8M"], "GOLGA8M", "symbol"),  # the protein-coding one of two
        (["TP53.1", "TP53"], "TP53", "make_unique"),
        (["TP53-1", "TP53"], "TP53", "make_unique"),
        (["TP53.1"], None, "unmapped"),
        (["HLA.A"], "HLA-A", "r_mangled"),
        (["HLA.A", "HLA-A"], None, "unmapped"),
        (["NKX2-1", "NKX2"], "NKX2-1", "symbol"),
        (["MATR3"], None, "ambiguous"),
        (["WASH7P"], None, "ambiguous"),  # a lncRNA today; a pseudogene then
        (["1-Mar"], None, "excel_date"),
        (["Sep-02"], None, "excel_date"),
        (["ENSG00000182378.15_PAR_Y"], None, "unmapped"),
        (["ENSG00000227232"], None, "unmapped"),  # a pseudogene
        (["ENSG00000999999|TP53.1", "TP53"], None, "unmapped"),
        (["7157"], None, "unmapped"),
        (["chr1:100-200"], None, "unmapped"),
    ],
)
def test_names(human, names, symbol, how):
    mapping = human.map(var(*names))
    assert mapping.how[0] == how
    assert mapping.target[0] == (-1 if symbol is None else human.map(var(symbol)).target[0])
    if symbol is not None:
        assert human.symbols[mapping.target[0]] == symbol
    assert mapping.measured.sum() == len(set(mapping.target) - {-1})


def test_ids_or_symbols_in_a_column(human):
    a = human.map(var("TP53", "CD3E", gene_ids=["ENSG00000141510", "ENSG00000198851"]))
    b = human.map(var("ENSG00000141510", "ENSG00000198851", symbol=["TP53", "CD3E"]))
    assert a.how.tolist() == b.how.tolist() == ["id", "id"]
    np.testing.assert_array_equal(a.target, b.target)


def test_report(human):
    report = human.map(var("TP53", "CD3E", "nonsense", "MATR3", "2-Sep")).report()
    assert report == {
        "n": 5,
        "mapped": 0.4,
        "measured": 2,
        "how": {"ambiguous": 1, "excel_date": 1, "symbol": 2, "unmapped": 1},
        "unmapped": ["nonsense"],
        "ambiguous": ["MATR3"],
        "excel_date": ["2-Sep"],
    }


def test_former_symbols_from_hgnc(tmp_path, human):
    file = tmp_path / "hgnc_complete_set.txt"
    rows = [
        ("H3-3B", "H3F3B", "H3.3B", "ENSG00000132475"),
        ("CXCL8", "IL8", "SCYB8|shared", "ENSG00000169429"),
        ("TP53", "", "shared|CD3E|LFS1", "ENSG00000141510"),
        ("NOWHERE", "LOST", "", ""),
    ]
    columns = ["symbol", "prev_symbol", "alias_symbol", "ensembl_gene_id"]
    pd.DataFrame(rows, columns=columns).to_csv(file, sep="\t", index=False)
    axis = GeneAxis.load("human", hgnc=file)
    names = var("H3F3B", "IL8", "LFS1", "shared", "LOST", "CD3E")
    mapping = axis.map(names)
    assert mapping.how.tolist() == ["alias", "alias", "alias", "unmapped", "unmapped", "symbol"]
    assert axis.symbols[mapping.target[:3]].tolist() == ["H3-3B", "CXCL8", "TP53"]
    assert human.map(names).how.tolist() == [*["unmapped"] * 5, "symbol"]
    # a gene that is there under its own name is no other's
    assert axis.map(var("IL8", "CXCL8")).how.tolist() == ["unmapped", "symbol"]
    file.write_text("a\tb\n1\t2\n")
    with pytest.raises(ValueError, match="no column 'symbol'.*hgnc_complete_set"):
        GeneAxis.load("human", hgnc=file)


NAMES = ["TP53", "TP53.1", "CD3E", "HLA.A", "MATR3", "1-Mar", "nonsense", "ENSG00000198851.4"]
NAMES += ["MT-CO1", "MT.CO1", "ACTB-2", "ENSG00000075624|ACTB", "ENSG00000999999|GAPDH", "ACTB"]


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.sampled_from(NAMES), min_size=1), seed=st.integers(0, 1000))
def test_counts_are_kept_whatever_the_order(human, names, seed):
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(1, (5, len(names))).astype(np.float32))
    mapping = human.map(var(*names))
    on_axis = mapping.apply(counts)
    assert on_axis.shape == (5, len(human)) and on_axis.dtype == np.float32
    assert on_axis.has_sorted_indices and on_axis.has_canonical_format
    mapped = counts[:, np.flatnonzero(mapping.target >= 0)]
    np.testing.assert_array_equal(on_axis.sum(axis=1), mapped.sum(axis=1))
    assert set(on_axis.indices) <= set(np.flatnonzero(mapping.measured))
    order = rng.permutation(len(names))
    again = human.map(var(*[names[i] for i in order]))
    np.testing.assert_array_equal(again.target, mapping.target[order])
    np.testing.assert_array_equal(again.how, mapping.how[order])
    assert (again.apply(counts[:, order]) != on_axis).nnz == 0


def test_duplicates_are_summed(human):
    mapping = human.map(var("TP53", "TP53.1", "CD3E"))
    on_axis = mapping.apply(sparse.csr_matrix(np.array([[1, 2, 0], [0, 0, 5]], np.float32)))
    assert on_axis[:, gene(human, "TP53")].toarray().ravel().tolist() == [3, 0]
    assert on_axis.nnz == 2
    with pytest.raises(ValueError, match="4 genes and the mapping is of 3"):
        mapping.apply(draw_counts(0, 5, 4))


@pytest.mark.parametrize(
    ("table", "organism"),
    [
        (var("ENSG00000141510.1", "ENSG00000198851"), "human"),
        (var("ENSMUSG00000059552"), "mouse"),
        (var("ENSMUSG00000059552", "ENSG00000141510"), None),
        (var("a", "b", gene_ids=["ENSG00000141510"] * 2), "human"),
        (var("TP53", "CD3E", "C1orf112", "MT-CO1", "GAPDH"), "human"),
        (var("Trp53", "Cd3e", "Actb", "mt-Co1", "Gapdh", "4933401J01Rik", "H2-K1", "Cd4"), "mouse"),
        (var("TP53", "Trp53", "CD3E", "Cd3e", "ACTB", "Actb", "GAPDH", "Gapdh"), None),
        (var("chr1-1-100", "chr1-101-200"), None),
        (var(), None),
    ],
)
def test_guess_organism(table, organism):
    assert guess_organism(table) == organism


# real files


@pytest.mark.parametrize(
    ("file", "genes", "counts"),
    [
        ("pbmc3k.h5ad", 0.92, 0.997),
        ("kang_ifnb_4k.h5ad", 0.83, 0.96),
        ("formats/cellxgene/small_perturbations.h5ad", 1, 1),
    ],
)
def test_real_genes(human, file, genes, counts):
    adata = anndata.read_h5ad(real(*file.split("/")))[:200]
    assert guess_organism(adata.var) == "human"
    mapping = human.map(adata.var)
    assert mapping.report()["mapped"] >= genes
    assert mapping.apply(adata.X).sum() >= counts * adata.X.sum()


def test_real_mouse_counts_match_by_symbol_and_id(mouse):
    names = ["Actb", "Gapdh", "Cd3e", "mt-Co1"]
    ids = [mouse.ids[gene(mouse, n)] for n in names]
    np.testing.assert_array_equal(mouse.map(var(*names)).target, mouse.map(var(*ids)).target)
