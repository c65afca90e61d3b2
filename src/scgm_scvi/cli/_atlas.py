"""``scgm atlas``: list what there is, build a store, say what is in it."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from ._app import app, quiet

__all__ = ["build", "info", "list_"]

atlas_app = App(name="atlas", help="Build a training store out of public datasets.")
app.command(atlas_app)


@atlas_app.command(name="list")
def list_(
    *,
    source: str | None = None,
    disease: str | None = None,
    tissue: str | None = None,
    organism: str | None = None,
    plan: Path | None = None,
    url: str | None = None,
) -> None:
    """List datasets of a source's catalogue, or of a plan: cells, bytes to download, licences.

    Parameters
    ----------
    source
        One of ucsc, hca, cellxgene, tisch, local: list its catalogue. Without a source, the plan's.
    disease, tissue, organism
        Only datasets with this in the names of their diseases, tissues, or organism.
    plan
        TOML file: list what it names, without asking the sources. Default: the one that comes with
        the package.
    url
        Address in place of the source's own; a folder, for local.
    """
    from scgm_scvi import atlas

    if plan is None and source is None:
        plan = Path("scgdb")
    if plan is None:
        table = atlas.catalog(source, url=url)
    else:
        table = atlas.plan_table(plan)
        table = table if source is None else table[table["source"] == source]
    for column, part in {"diseases": disease, "tissues": tissue, "organism": organism}.items():
        if part is not None:  # a plan may say it in its note alone
            said = (
                table[[c for c in (column, "note") if c in table]].fillna("").agg(" ".join, axis=1)
            )
            table = table[said.str.contains(part, case=False, regex=False)]
    print(table.to_string(index=False, na_rep="", max_colwidth=40) if len(table) else "No dataset.")
    cells = table["n_cells"].sum()
    print(f"\n{len(table)} datasets, {int(cells):,} cells where their number is known.")


@atlas_app.command
def build(
    plan: Path,
    *,
    out: Path,
    workers: int = 1,
    scheduler: str | None = None,
    cache: Path | None = None,
    keep_downloads: bool = True,
) -> None:
    """Build a store, or go on with one that was interrupted.

    Parameters
    ----------
    plan
        TOML file; "scgdb" for the one that comes with the package.
    out
        Folder of the store.
    workers
        Processes.
    scheduler
        Address of a dask cluster, as tcp://host:8786.
    cache
        Folder for downloads.
    keep_downloads
        Whether they stay when their dataset is stored.
    """
    from scgm_scvi import atlas

    quiet()
    report = atlas.build(
        plan,
        out,
        workers=workers,
        scheduler=scheduler,
        cache=cache,
        keep_downloads=keep_downloads,
        progress=lambda line: print(line, flush=True),
    )
    counts = report["status"].value_counts()
    print(
        f"\n{report['n_cells'].sum():,} cells of {counts.get('stored', 0)} datasets in {out}; "
        f"{counts.get('duplicate', 0)} duplicates, {counts.get('set aside', 0)} set aside "
        f"(reasons in {out / 'report.csv'}). Next: scgm atlas info {out}"
    )


@atlas_app.command
def info(store: Path) -> None:
    """Say what is in a store: cells by tissue, disease and source; provenance.

    Parameters
    ----------
    store
        Its folder.
    """
    from scgm_scvi import atlas

    found = atlas.open(store)
    for column in ("source", "tissue", "disease", "cell_type_coarse", "assay"):
        print(f"{found.value_counts(column).to_string()}\n")
    table = found.datasets
    if aside := int((table["status"] != "ok").sum()):
        print(table.loc[table["status"] != "ok", ["reason"]].to_string(max_colwidth=100), "\n")
    table = table[table["status"] == "ok"].reset_index()
    columns = ["source", "id", "version", "n_cells", "n_genes", "scale", "licence", "citation"]
    print(table[columns].to_string(index=False, max_colwidth=40))
    print(
        f"\n{table['n_cells'].sum():,} cells of {len(table)} datasets, "
        f"{table['n_bytes'].sum() / 1e9:.2f} GB; {aside} set aside."
    )
