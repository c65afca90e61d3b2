"""Cells whose counts are known, and writers of them in every layout that the sources use.

All writers take the AnnData that :func:`truth` gives, and write nothing that depends on the time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

REAL = """
ENSG00000167286 CD3D;ENSG00000198851 CD3E;ENSG00000010610 CD4;ENSG00000153563 CD8A
ENSG00000172116 CD8B;ENSG00000156738 MS4A1;ENSG00000105369 CD79A;ENSG00000177455 CD19
ENSG00000105374 NKG7;ENSG00000115523 GNLY;ENSG00000090382 LYZ;ENSG00000170458 CD14
ENSG00000203747 FCGR3A;ENSG00000143546 S100A8;ENSG00000163220 S100A9;ENSG00000163736 PPBP
ENSG00000179639 FCER1A;ENSG00000101439 CST3;ENSG00000168685 IL7R;ENSG00000126353 CCR7
ENSG00000049768 FOXP3;ENSG00000134460 IL2RA;ENSG00000100453 GZMB;ENSG00000180644 PRF1
ENSG00000111537 IFNG;ENSG00000115415 STAT1;ENSG00000187608 ISG15;ENSG00000185745 IFIT1
ENSG00000119888 EPCAM;ENSG00000170421 KRT8;ENSG00000111057 KRT18;ENSG00000171345 KRT19
ENSG00000110799 VWF;ENSG00000108821 COL1A1;ENSG00000164692 COL1A2;ENSG00000107796 ACTA2
ENSG00000011465 DCN;ENSG00000148773 MKI67;ENSG00000131747 TOP2A;ENSG00000081237 PTPRC
ENSG00000129226 CD68;ENSG00000173372 C1QA;ENSG00000019169 MARCO;ENSG00000168484 SFTPC
ENSG00000204305 AGER;ENSG00000149021 SCGB1A1;ENSG00000163631 ALB;ENSG00000254647 INS
ENSG00000115263 GCG;ENSG00000075624 ACTB;ENSG00000111640 GAPDH;ENSG00000251562 MALAT1
ENSG00000166710 B2M;ENSG00000206503 HLA-A;ENSG00000204287 HLA-DRA;ENSG00000205542 TMSB4X
ENSG00000141510 TP53;ENSG00000146648 EGFR;ENSG00000136997 MYC
"""
GENES = [g.split() for line in REAL.split("\n") for g in line.split(";") if g]

# name, CL id, TISCH's major lineage, malignancy call
TYPES = [
    ("CD8-positive, alpha-beta T cell", "CL:0000625", "CD8T", "Immune cells"),
    ("B cell", "CL:0000236", "B", "Immune cells"),
    ("natural killer cell", "CL:0000623", "NK", "Immune cells"),
    ("fibroblast", "CL:0000057", "Fibroblasts", "Stromal cells"),
    ("malignant cell", "CL:0001064", "Malignant", "Malignant cells"),
]
SAME = {  # columns with one value for all cells, and its term
    "tissue": ("lung", "UBERON:0002048"),
    "disease": ("non-small cell lung carcinoma", "MONDO:0005233"),
    "assay": ("10x 3' v3", "EFO:0009922"),
    "development_stage": ("adult stage", "HsapDv:0000258"),
    "organism": ("Homo sapiens", "NCBITaxon:9606"),
}


def truth(n_cells: int = 120, n_genes: int = 90, seed: int = 0) -> AnnData:
    """Counts that are sparse, never empty, with a count of one in every cell (so that they can be
    had back from log values); real human genes first, made-up ones after them.

    ``var``: index Ensembl ids without version, column ``symbol``. ``obs``: index barcodes; the
    standard columns with their ``*_ontology_term_id``, strings all.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(len(TYPES), size=n_cells)
    profile = rng.gamma(0.3, 1.0, (len(TYPES), n_genes))
    depth = rng.lognormal(np.log(0.8 * n_genes), 0.5, n_cells)
    rate = profile[kind] / profile[kind].sum(axis=1, keepdims=True) * depth[:, None]
    x = rng.poisson(rate * rng.gamma(2.0, 0.5, rate.shape))
    x[np.arange(n_cells), rng.integers(n_genes, size=n_cells)] = 1
    more = [[f"ENSG9{i:010d}", f"MADEUP{i}"] for i in range(max(n_genes - len(GENES), 0))]
    ids, symbols = zip(*(GENES + more)[:n_genes], strict=True)
    var = pd.DataFrame({"symbol": symbols}, index=list(ids))
    letters = np.array(list("ACGT"))[rng.integers(4, size=(n_cells, 12))]
    # unique by the cell's number in base four, as random ones need not be
    last = [
        np.base_repr(i, 4).zfill(9).translate(str.maketrans("0123", "ACGT")) for i in range(n_cells)
    ]
    barcodes = ["".join(a) + b + "-1" for a, b in zip(letters, last, strict=True)]
    obs = pd.DataFrame(index=barcodes)
    obs["cell_type"] = [TYPES[k][0] for k in kind]
    obs["cell_type_ontology_term_id"] = [TYPES[k][1] for k in kind]
    for column, (label, term) in SAME.items():
        obs[column], obs[f"{column}_ontology_term_id"] = label, term
    donor = rng.integers(3, size=n_cells)
    obs["donor"] = [f"P{d}" for d in donor]
    obs["sex"] = np.array(["female", "male"])[donor % 2]
    obs["sex_ontology_term_id"] = np.array(["PATO:0000383", "PATO:0000384"])[donor % 2]
    return AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=obs.astype(object), var=var)


def log_cp10k(adata: AnnData) -> sparse.csr_matrix:
    """ln(1 + counts per 10,000), float32, as Seurat's LogNormalize gives it."""
    x = adata.X.astype(np.float64)
    size = np.asarray(x.sum(axis=1)).ravel()
    x.data = np.log1p(x.data / np.repeat(size, np.diff(x.indptr)) * 1e4)
    return x.astype(np.float32)


def values(adata: AnnData, scale: str) -> sparse.csr_matrix:
    """``X`` as ``"counts"``, ``"log_cp10k"`` or ``"log2_cpm"``."""
    if scale == "counts":
        return adata.X
    if scale == "log_cp10k":
        return log_cp10k(adata)
    x = adata.X.astype(np.float64)
    size = np.asarray(x.sum(axis=1)).ravel()
    x.data = np.log2(1 + x.data / np.repeat(size, np.diff(x.indptr)) * 1e6)
    return x.astype(np.float32)


def _gz(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def _bytes(names) -> np.ndarray:
    return np.array([str(n).encode() for n in names])


def write_10x_h5(
    adata: AnnData,
    path: Path,
    version: Literal[2, 3] = 3,
    *,
    x: sparse.csr_matrix | None = None,
    ids: list[str] | None = None,
    feature_type: str | list[str] = "Gene Expression",
    genome: str = "GRCh38",
) -> Path:
    """The HDF5 file of Cell Ranger 2 or 3; ``x`` in place of ``adata.X``, ``ids`` of Ensembl's."""
    x = sparse.csr_matrix(adata.X if x is None else x)
    # CSR of cells x genes is CSC of genes x cells; the values as integers where they are
    data = x.data.astype(np.int32) if (x.data == x.data.astype(np.int32)).all() else x.data
    ids = list(adata.var_names) if ids is None else ids
    types = [feature_type] * len(ids) if isinstance(feature_type, str) else feature_type
    options = {"compression": "gzip", "chunks": True}
    with h5py.File(path, "w") as f:
        group = f.create_group("matrix" if version == 3 else genome)
        group.create_dataset("data", data=data, **options)
        group.create_dataset("indices", data=x.indices.astype(np.int64), **options)
        group.create_dataset("indptr", data=x.indptr.astype(np.int64), **options)
        group["shape"] = np.array(x.shape[::-1], dtype=np.int32)
        group["barcodes"] = _bytes(adata.obs_names)
        if version == 2:
            group["genes"], group["gene_names"] = _bytes(ids), _bytes(adata.var["symbol"])
            return path
        features = group.create_group("features")
        features["_all_tag_keys"] = _bytes(["genome"])
        features["id"], features["name"] = _bytes(ids), _bytes(adata.var["symbol"])
        features["feature_type"] = _bytes(types)
        features["genome"] = _bytes([genome] * len(ids))
    return path


def tisch_metainfo(adata: AnnData) -> pd.DataFrame:
    """TISCH2's table of cells."""
    lineage = {name: (major, call) for name, _, major, call in TYPES}
    major = [lineage[t][0] for t in adata.obs["cell_type"]]
    return pd.DataFrame(
        {
            "Cell": adata.obs_names,
            "UMAP_1": np.linspace(-5, 5, adata.n_obs),
            "UMAP_2": np.linspace(3, -3, adata.n_obs),
            "Celltype (malignancy)": [lineage[t][1] for t in adata.obs["cell_type"]],
            "Celltype (major-lineage)": major,
            "Celltype (minor-lineage)": [f"{m} minor" for m in major],
            "Cluster": np.arange(adata.n_obs) % 7,
            "Patient": list(adata.obs["donor"]),
            "Gender": list(adata.obs["sex"]),
            "Source": ["Tumor"] * adata.n_obs,
        }
    )


def write_tisch(adata: AnnData, folder: Path, dataset: str = "NSCLC_GSE127465") -> list[Path]:
    """``{dataset}_expression.h5`` of ln(1 + CP10K) by symbols, and the table of cells."""
    folder.mkdir(parents=True, exist_ok=True)
    h5, table = (folder / f"{dataset}_{end}" for end in ("expression.h5", "CellMetainfo_table.tsv"))
    symbols = list(adata.var["symbol"])
    write_10x_h5(adata, h5, x=log_cp10k(adata), ids=symbols, feature_type="Gene")
    tisch_metainfo(adata).to_csv(table, sep="\t", index=False, lineterminator="\n")
    return [h5, table]


def write_mtx(
    adata: AnnData,
    folder: Path,
    version: Literal[2, 3] = 3,
    *,
    gz: bool = True,
    transposed: bool = False,
    prefix: str = "",
) -> list[Path]:
    """Matrix, features and barcodes, genes x cells unless ``transposed``."""
    folder.mkdir(parents=True, exist_ok=True)
    end = ".gz" if gz else ""
    x = adata.X if transposed else adata.X.T
    integers = (adata.X.data == adata.X.data.astype(int)).all()
    buffer = io.BytesIO()
    mmwrite(buffer, sparse.coo_matrix(x.astype(np.int64) if integers else x))
    type_ = "\tGene Expression" if version == 3 else ""
    rows = "".join(f"{i}\t{s}{type_}\n" for i, s in adata.var["symbol"].items())
    genes = "features" if version == 3 else "genes"
    return [
        _gz(folder / f"{prefix}matrix.mtx{end}", buffer.getvalue()),
        _gz(folder / f"{prefix}{genes}.tsv{end}", rows),
        _gz(folder / f"{prefix}barcodes.tsv{end}", "".join(f"{b}\n" for b in adata.obs_names)),
    ]


def write_loom(adata: AnnData, path: Path, *, optimus: bool = True) -> Path:
    """Genes x cells with Optimus' names of attributes, or those it had before version 3."""
    names = (
        ("ensembl_ids", "gene_names", "cell_names") if optimus else ("Accession", "Gene", "CellID")
    )
    with h5py.File(path, "w") as f:
        f.attrs["LOOM_SPEC_VERSION"] = "2.0.1"
        f.attrs["expression_data_type"] = "exonic"
        for group in ("layers", "row_attrs", "col_attrs", "row_graphs", "col_graphs"):
            f.create_group(group)
        x = adata.X.T.toarray()
        f.create_dataset(
            "matrix", data=x, chunks=(min(64, x.shape[0]), min(64, x.shape[1])), compression="gzip"
        )
        f["row_attrs"][names[0]] = _bytes(adata.var_names)
        f["row_attrs"][names[1]] = _bytes(adata.var["symbol"])
        f["col_attrs"][names[2]] = _bytes(adata.obs_names)
        for column in adata.obs.columns:
            f["col_attrs"][column] = _bytes(adata.obs[column])
    return path


def write_ucsc_meta(adata: AnnData, path: Path) -> Path:
    """``meta.tsv``: cells in the matrix's order, columns named as authors do."""
    names = {"cell_type": "Cell Type", "donor": "Donor", "sex": "Sex", "tissue": "Tissue"}
    meta = adata.obs[list(names)].rename(columns=names)
    meta.to_csv(path, sep="\t", index_label="cellId", lineterminator="\n")
    return path


def write_ucsc(
    adata: AnnData,
    folder: Path,
    *,
    scale: Literal["counts", "log_cp10k", "log2_cpm"] = "counts",
    keys: Literal["id|symbol", "id", "symbol"] = "id|symbol",
) -> list[Path]:
    """``exprMatrix.tsv.gz`` (genes x cells) and ``meta.tsv``."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(adata.var["symbol"].items())
    names = {
        "id|symbol": [f"{i}|{s}" for i, s in pairs],
        "id": [i for i, _ in pairs],
        "symbol": [s for _, s in pairs],
    }[keys]
    x = values(adata, scale).T.toarray()
    lines = ["\t".join(["gene", *adata.obs_names])]
    lines += [
        "\t".join([n, *(np.format_float_positional(v, trim="-") for v in row)])
        for n, row in zip(names, x, strict=True)
    ]
    matrix = _gz(folder / "exprMatrix.tsv.gz", "\n".join(lines) + "\n")
    return [matrix, write_ucsc_meta(adata, folder / "meta.tsv")]


def write_cellxgene(
    adata: AnnData,
    path: Path,
    schema: Literal["5.2.0", "6.0.0", "7.1.0"] = "7.1.0",
    *,
    raw: bool = True,
    guides: dict | None = None,
    uns: dict | None = None,
) -> Path:
    """A CELLxGENE h5ad: counts in ``raw.X`` below normalised ``X`` (``raw``), or in ``X``.

    ``guides`` go to ``uns["genetic_perturbations"]``, ``uns`` is more of it. ``obs`` may bring
    ``tissue_type``.
    """
    obs = adata.obs.rename(columns={"donor": "donor_id"})
    obs["is_primary_data"], obs["suspension_type"] = True, "cell"
    if "tissue_type" not in obs:
        obs["tissue_type"] = "tissue"
    known = {"title": "Known counts", "schema_version": schema, "citation": "Nobody (2026)"}
    uns = {**known, **(uns or {}), **({"genetic_perturbations": guides} if guides else {})}
    if int(schema[0]) >= 6:
        uns["organism"] = obs.pop("organism").iloc[0]
        uns["organism_ontology_term_id"] = obs.pop("organism_ontology_term_id").iloc[0]
    texts = obs.select_dtypes(exclude=["number", "bool", "category"]).columns
    obs = obs.astype(dict.fromkeys(texts, "category"))
    var = pd.DataFrame({"feature_name": adata.var["symbol"].astype("category")})
    var["feature_biotype"] = pd.Categorical(["gene"] * len(var))
    out = AnnData(adata.X.copy(), obs=obs, var=var, uns=uns)
    if raw:
        out.raw = out.copy()
        out.X = log_cp10k(adata)
    out.var["feature_is_filtered"] = False
    out.write_h5ad(path, compression="gzip")
    return path


def ucsc_dataset_json(folder: Path, name: str, adata: AnnData) -> dict:
    """A leaf's ``dataset.json`` for the files that :func:`write_ucsc` left in ``folder``."""

    def version(path: Path) -> dict:
        content = path.read_bytes()
        digest = hashlib.md5(content).hexdigest()[:10]
        return {"fname": f"/server/{path.name}", "md5": digest, "size": len(content)}

    integers = (adata.X.data == adata.X.data.astype(int)).all()
    leaf = {
        "name": name,
        "shortLabel": f"Known counts of {name}",
        "sampleCount": adata.n_obs,
        "matrixArrType": "Uint32" if integers else "Float32",
        "fileVersions": {
            "outMatrix": version(folder / "exprMatrix.tsv.gz"),
            "outMeta": version(folder / "meta.tsv"),
        },
    }
    (folder / "dataset.json").write_text(json.dumps(leaf))
    return leaf
