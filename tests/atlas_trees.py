"""The sources' servers, as far as we ask them, with the files that a test gives."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_server import FixtureServer, Request, Response

__all__ = ["azul_file", "azul_tree", "put_azul", "put_cellxgene", "put_ucsc", "ucsc_leaf"]

ROLES = {"exprMatrix.tsv": "outMatrix", "matrix.mtx": "outMatrix", "meta.tsv": "outMeta"}
ROLES |= {"features.tsv": "features", "genes.tsv": "features", "barcodes.tsv": "barcodes"}


def ucsc_leaf(name: str, folder: Path, **more: Any) -> dict[str, Any]:
    """``dataset.json`` of a dataset whose files are in a folder."""
    versions = {"inMatrix": {"fname": "/hive/in/x.tsv.gz", "md5": "0" * 10, "size": 1}}
    for path in sorted(folder.iterdir()):
        role = next(
            (r for end, r in ROLES.items() if path.name.removesuffix(".gz").endswith(end)), ""
        )
        body = path.read_bytes()
        versions[role] = {
            "fname": f"/usr/local/apache/htdocs-cells/{name}/{path.name}",
            "md5": hashlib.md5(body).hexdigest()[:10],
            "size": len(body),
            "mtime": "2024-01-01 00:00:00",
        }
    n_cells = (folder / "meta.tsv").read_bytes().count(b"\n") - 1
    leaf = {"name": name, "shortLabel": f"About {name}", "sampleCount": n_cells}
    return {**leaf, "matrixArrType": "Uint32", "fileVersions": versions, **more}


def put_ucsc(
    server: FixtureServer,
    folders: Mapping[str, Path],
    *,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    facets: Mapping[str, Mapping[str, list[str]]] | None = None,
) -> None:
    """Datasets by full name, in as many collections as their names say."""
    about, facets = about or {}, facets or {}
    inside: dict[str, dict[str, dict[str, Any]]] = {"": {}}
    for name, folder in folders.items():
        parts = name.split("/")
        leaf = ucsc_leaf(name, folder, parents=["/".join(parts[:-1])])
        server.put_json(f"/{name}/dataset.json", leaf)
        server.put_json(f"/{name}/desc.json", about.get(name, {"title": f"Title of {name}"}))
        there = [*sorted(p.name for p in folder.iterdir()), "dataset.json", "desc.json"]
        server.put(f"/{name}/files.txt", "\n".join(there).encode())
        for path in folder.iterdir():
            server.put(f"/{name}/{path.name}", path.read_bytes())
        entry = {k: leaf[k] for k in ("name", "shortLabel", "sampleCount")}
        entry |= {
            "md5": hashlib.md5(name.encode()).hexdigest()[:10],
            "facets": facets.get(name, {}),
        }
        inside.setdefault("/".join(parts[:-1]), {})[name] = entry
        for depth in range(1, len(parts)):
            above, collection = "/".join(parts[: depth - 1]), "/".join(parts[:depth])
            inside.setdefault(collection, {})
            entry = {"name": collection, "shortLabel": collection, "isCollection": True}
            inside.setdefault(above, {}).setdefault(collection, {**entry, "datasetCount": 1})
    for collection, entries in inside.items():
        listing = {"name": collection, "datasets": list(entries.values())}
        server.put_json(f"/{collection}/dataset.json".replace("//", "/"), listing)


def azul_file(server: FixtureServer, path: Path, name: str | None = None, **more: Any) -> dict:
    """A file of a project, behind 301 with Retry-After, then 302 to a signed address."""
    body = path.read_bytes()
    id_ = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{path}{name}"))
    address = f"/repository/files/{id_}"

    def asked(request: Request) -> Response:
        if "requestIndex" not in request.query:
            again = f"{server.url}{address}?catalog=dcp60&version=1&requestIndex=1"
            return Response(status=301, headers={"Location": again, "Retry-After": "0"})
        signed = f"{server.url}/bucket/{id_}?Signature=abc%2Bdef&Expires=9"
        return Response(status=302, headers={"Location": signed})

    server.put(address, asked)
    server.put(f"/bucket/{id_}", body)
    return {
        "name": name or path.name,
        "format": (name or path.name).split(".", 1)[-1],
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "uuid": id_,
        "version": "2024-05-01T10:00:00.000000Z",
        "fileSource": "DCP/2 Analysis",
        "isIntermediate": False,
        "contentDescription": ["Count Matrix"],
        "matrixCellCount": None,
        "drs_uri": f"drs://127.0.0.1/{id_}",
        "azul_url": f"{server.url}{address}?catalog=dcp60&version=1",
        **more,
    }


def azul_tree(files: list[dict], organ: str = "lung", species: str = "Homo sapiens") -> dict:
    """The tree of strata that a project's matrices stand in."""
    tree: Any = files
    for facet, value in [
        ("libraryConstructionApproach", "10X 3' v3"),
        ("organ", organ),
        ("developmentStage", "human adult stage"),
        ("genusSpecies", species),
    ]:
        tree = {facet: {value: tree}}
    return tree


def put_azul(server: FixtureServer, hits: list[dict[str, Any]], size: int = 1) -> None:
    """The index of projects, ``size`` on a page."""
    catalogs = {"dcp59": {"internal": False}, "dcp60": {"internal": False}}
    server.put_json("/index/catalogs", {"default_catalog": "dcp60", "catalogs": catalogs})
    for start in range(0, max(len(hits), 1), size):
        following = f"{server.url}/index/projects?catalog=dcp60&search_after=%22{start + size}%22"
        page = {
            "hits": hits[start : start + size],
            "pagination": {"next": following if start + size < len(hits) else None},
            "termFacets": {},
        }
        here = f"?catalog=dcp60&search_after=%22{start}%22" if start else ""
        server.put_json(f"/index/projects{here}", page)


def put_cellxgene(server: FixtureServer, path: Path, **more: Any) -> dict[str, Any]:
    """A dataset of the index; the file is served."""
    version = str(uuid.uuid5(uuid.NAMESPACE_URL, f"version of {path}"))
    url = server.put(f"/{version}.h5ad", path.read_bytes())
    label = lambda name, term: [{"label": name, "ontology_term_id": term}]
    return {
        "dataset_id": str(uuid.uuid5(uuid.NAMESPACE_URL, str(path))),
        "dataset_version_id": version,
        "collection_id": "c0",
        "collection_doi": "10.1000/Journal.1",
        "title": "Known counts",
        "citation": "Publication: https://doi.org/10.1000/Journal.1 Dataset Version: ...",
        "schema_version": "7.1.0",
        "cell_count": 120,
        "is_primary_data": [True],
        "assay": label("10x 3' v3", "EFO:0009922"),
        "organism": label("Homo sapiens", "NCBITaxon:9606"),
        "tissue": [
            {"label": "lung", "ontology_term_id": "UBERON:0002048", "tissue_type": "tissue"}
        ],
        "disease": label("normal", "PATO:0000461"),
        "assets": [
            {"filetype": "RDS", "filesize": 1, "url": f"{server.url}/{version}.rds"},
            {"filetype": "H5AD", "filesize": path.stat().st_size, "url": url},
        ],
        **more,
    }
