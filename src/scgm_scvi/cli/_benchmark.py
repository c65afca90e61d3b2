"""``scgm benchmark``: generators beside each other, on a file of one's own."""

from __future__ import annotations

from pathlib import Path

from ._app import app, quiet

__all__ = ["benchmark"]


@app.command
def benchmark(
    data: Path,
    *,
    key: str,
    out: Path = Path("benchmark"),
    layer: str | None = None,
    generators: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    n_top_genes: int = 2000,
    max_cells: int = 20_000,
    quick: bool = False,
) -> None:
    """Train SCGM, scVI and simple generators on half of the cells of a file; compare with held-out cells.

    Parameters
    ----------
    data
        An h5ad file of raw counts.
    key
        Column of obs with the cell type.
    out
        Folder for report.html, metrics.csv, costs.csv and the cells.
    layer
        Of the counts. Default: X.
    generators
        Of scgm, scvi, gaussian_copula, negative_binomial and pca_gaussian, as: --generators scgm scvi.
        Default: all.
    seeds
        One run of each generator for each, as: --seeds 0 1 2. The first is also the split's.
    n_top_genes
        So many genes, those that vary most, are compared.
    max_cells
        Of more cells, so many are drawn.
    quick
        Train for a moment only: shows that everything runs, not how good it is.
    """
    import anndata as ad

    from scgm_scvi.benchmark import compare_generators, write_page
    from scgm_scvi.benchmark._page import remarks, require_empty, summary

    if not data.is_file():
        raise FileNotFoundError(f"{data} is not there.")
    require_empty(out)  # before hours of training
    quiet()
    found = compare_generators(
        ad.read_h5ad(data),
        key,
        generators=generators or None,
        seeds=seeds,
        layer=layer,
        n_top_genes=n_top_genes,
        max_cells=max_cells,
        quick=quick,
    )
    page = write_page(found, out, title=f"Generated cells beside held-out cells of {data.name}")
    for note in remarks(found):
        print(note)
    print(summary(found.table).round(3).to_string())
    print(f"\nAll of it in {page}: open it in a browser.")
