"""Files of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scgm_scvi._errors import listed, nearest
from scgm_scvi.atlas.download._remote_file import RemoteFile
from scgm_scvi.atlas.formats import find_files, join_meta, mtx_parts, read_file, read_meta
from scgm_scvi.atlas.formats._reading import STANDARD_COLUMNS, Reading
from scgm_scvi.atlas.sources._record import Record

from ._source import Source

__all__ = ["LocalSource"]

META = ("meta.tsv", "meta.tsv.gz")


class LocalSource(Source):
    """Files below a folder: h5ad, 10x h5, loom, Matrix Market, and UCSC's ``exprMatrix``.

    ``base_url`` is the folder. A record's id is the path of its file (of the matrix, where there
    are several) below the folder. Nothing is copied or downloaded. A ``meta.tsv`` beside an
    ``exprMatrix`` is its table of cells.
    """

    name = "local"
    is_local = True

    def catalog(self) -> Iterator[Record]:
        """A record for each file that can be read."""
        if not self.url:
            raise ValueError("base_url is missing: name the folder of the files.")
        folder = Path(self.url)
        if not folder.is_dir():
            raise FileNotFoundError(f"base_url: {str(folder)!r} is not a folder.")
        for path in find_files(folder):
            yield self._record(path.relative_to(folder).as_posix())

    def find(self, id: str, version: str = "") -> list[Record]:
        """The file, whether it can be read or not: reading it says why not."""
        if not version and Path(self.url, id).is_file():
            return [self._record(id)]
        return super().find(id, version)

    def _record(self, id: str) -> Record:
        path = Path(self.url, id)
        files = (RemoteFile(p.name, str(p.absolute()), size=p.stat().st_size) for p in _parts(path))
        return Record(self.name, id, tuple(files), title=path.name)

    def fetch(self, record: Record) -> dict[str, Path]:
        """The files where they are."""
        paths = {f.name: Path(f.url) for f in record.files}
        missing = [p for p in paths.values() if not p.exists()]
        if missing:
            raise FileNotFoundError(f"{record.id}: {listed(missing)} is not there any more.")
        return paths

    def read(
        self,
        record: Record,
        files: dict[str, Path],
        *,
        layer: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Reading:
        """The dataset.

        Parameters
        ----------
        record, files
            As :meth:`catalog` and :meth:`fetch` give them.
        layer
            For h5ad, as :func:`~scgm_scvi.atlas.formats.read_h5ad` has it.
        columns
            Standard columns by the author's: ``{"cell_type": "CellType"}``. The author's remain.

        Raises
        ------
        KeyError
            A column is no standard one, or not in the file.
        """
        matrix, *others = files.values()
        reading = read_file(matrix, **({} if layer is None else {"layer": layer}))
        meta = next((p for p in others if p.name in META), None)
        if meta is not None:
            reading = join_meta(reading, read_meta(meta), str(matrix))
        for standard, own in (columns or {}).items():
            if standard.removesuffix("_ontology_term_id") not in STANDARD_COLUMNS:
                raise KeyError(_no_standard(standard))
            if own not in reading.obs:
                raise KeyError(
                    f"columns: {own!r} is not in obs of {matrix}; its columns: "
                    f"{listed(reading.obs.columns)}.{nearest(own, reading.obs.columns)}"
                )
            reading.obs[standard] = reading.obs[own]
        return reading

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise unless :meth:`read` takes these options, and ``columns`` names standard ones."""
        super().check_options(options)
        layer, columns = options.get("layer", ""), options.get("columns", {})
        if not isinstance(layer, str):
            raise ValueError(f"has layer = {layer!r}; it must be the name of one.")
        if not isinstance(columns, Mapping) or not all(
            isinstance(v, str) for v in columns.values()
        ):
            raise ValueError(
                f"has columns = {columns!r}; it must be a table of the file's columns by standard "
                'ones: { cell_type = "CellType" }.'
            )
        for name in columns:
            if name.removesuffix("_ontology_term_id") not in STANDARD_COLUMNS:
                raise ValueError(f"has {_no_standard(name)}")


def _no_standard(name: str) -> str:
    known = listed(STANDARD_COLUMNS)
    near = nearest(name, STANDARD_COLUMNS)
    return f"columns: {name!r} is no standard column; these are: {known}.{near}"


def _parts(path: Path) -> list[Path]:
    """The files of a dataset, its matrix first."""
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith(".mtx"):
            return [path, *mtx_parts(path)]
    except ValueError:  # to fail when it is read, not when it is listed
        return [path]
    if name.startswith("exprmatrix"):
        return [path, *[path.with_name(m) for m in META if path.with_name(m).exists()][:1]]
    return [path]
