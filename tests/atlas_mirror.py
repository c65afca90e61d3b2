"""A build from known counts: each source's layout on a server of this machine, and local files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from atlas_server import FixtureServer
from atlas_trees import azul_file, azul_tree, put_azul, put_cellxgene, put_ucsc
from atlas_truth import truth, write_10x_h5, write_cellxgene, write_loom, write_tisch, write_ucsc

from scgm_scvi.atlas import GeneAxis, Plan

QUICK = {"min_interval": 0, "sleep": lambda seconds: None}
NO_QC = {"min_counts": 0, "min_genes": 0, "max_mitochondrial": 1.0}
TISCH = "NSCLC_GSE127465"
PROJECT = "4d6f6c96-2a83-43d8-8fe1-0f53bffd4674"


def cells(seed: int) -> AnnData:
    return truth(80, 150, seed)


def mirror(server: FixtureServer, folder: Path) -> dict[str, AnnData]:
    """Put five sources there; what each dataset holds, by ``source/id`` of the plan."""
    made = {}

    made["cellxgene"] = cells(1)
    path = write_cellxgene(made["cellxgene"], folder / "c.h5ad")
    entry = put_cellxgene(server, path)
    server.put_json("/curation/v1/datasets", [entry])
    out = {f"cellxgene/{entry['dataset_id']}": made["cellxgene"]}

    out[f"hca/{PROJECT}"] = cells(2)
    loom = write_loom(out[f"hca/{PROJECT}"], folder / "h.loom")
    project = {"projectId": PROJECT, "projectTitle": "Known counts", "accessible": True}
    project["matrices"] = azul_tree([azul_file(server, loom)])
    hit = {"entryId": PROJECT, "projects": [project]}
    put_azul(server, [hit])

    leaves = {"coll/counts": "counts", "coll/logs": "log_cp10k"}
    for i, (name, scale) in enumerate(leaves.items()):
        out[f"ucsc/{name}"] = cells(3 + i)
        write_ucsc(out[f"ucsc/{name}"], folder / name, scale=scale)
    put_ucsc(server, {name: folder / name for name in leaves})

    out[f"tisch/{TISCH}"] = cells(5)
    h5, table = write_tisch(out[f"tisch/{TISCH}"], folder / "tisch", TISCH)
    server.put(f"/TISCH_2022/{TISCH}/{h5.name}", h5.read_bytes())
    server.put(f"/static/data/{TISCH}/{table.name}", table.read_bytes())

    (folder / "local").mkdir()
    for i in range(2):
        out[f"local/l{i}.h5"] = cells(6 + i)
        write_10x_h5(out[f"local/l{i}.h5"], folder / "local" / f"l{i}.h5")
    return out


def plan_of(names: list[str], url: str, folder: Path, **more: Any) -> Plan:
    """A plan of datasets named ``source/id``."""
    rows = [dict(zip(("source", "id"), name.split("/", 1), strict=True)) for name in names]
    web = dict.fromkeys(("cellxgene", "hca", "ucsc", "tisch"), url)
    values = {
        "dataset": rows,
        "urls": {**web, "local": str(folder / "local")},
        "qc": NO_QC,
        "training": {"genes": 30},
        **more,
    }
    return Plan.from_dict(values)


def on_axis(adata: AnnData) -> np.ndarray:
    """Known counts as the store should have them."""
    axis = GeneAxis.load("human")
    known = adata.var_names.isin(axis.ids)
    out = np.zeros((adata.n_obs, len(axis)))
    where = {g: i for i, g in enumerate(axis.ids)}
    out[:, [where[g] for g in adata.var_names[known]]] = adata.X.toarray()[:, known]
    return out
