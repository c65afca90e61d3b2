"""Run scvi-tools' own tests of SCVI with SCGM in its place.

``python tests/peers/scvi_tools.py`` downloads the source distribution of the installed
scvi-tools, runs the tests named in ``FILES``, and fails where one fails that is not in
``EXPECTED``, or passes although it is. With arguments: ``--source DIR``, an unpacked distribution,
in place of a download; files or tests, in place of ``FILES``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"

FILES = (
    "tests/model/test_scvi.py",
    "tests/model/test_differential.py",
    "tests/model/test_differential_abundance.py",
    "tests/model/test_models_with_minified_data.py",
    "tests/criticism/test_criticism.py",
)

LEFT_OUT = "not early_stopping and not totalvi and not scviva"
"""For pytest's ``-k``: minutes of how fast SCVI's weights converge; other models."""

_MINIFIED = "model/test_models_with_minified_data.py"
_SCVI = "model/test_scvi.py"
EXPECTED = {
    f"{_MINIFIED}::test_scanvi_from_scvi": "SCANVI takes the weights of scvi-tools' models alone",
    f"{_MINIFIED}::test_validate_unsupported_if_minified": "the message names SCGMVAE, and not VAE",
    f"{_MINIFIED}::test_scvi_non_minified_model_load_with_adata_having_latent_params": (
        "cells without counts are refused, unless they are minified"
    ),
    "model/test_differential_abundance.py::test_get_aggregated_posterior[[]SCVI-ap_kwargs2[]]": (
        "no rows are no cells, and not all of them"
    ),
    f"{_SCVI}::test_saving_and_loading": "no model was saved in scvi-tools' old format",
    f"{_SCVI}::test_scvi[[]5-*nb[]]": "library sizes are observed, always",
    f"{_SCVI}::test_scvi[[]5-poisson[]]": "library sizes are observed, always",
    f"{_SCVI}::test_scvi_library_size_update": "library sizes are observed, always",
    f"{_SCVI}::test_scvi_online_update": "load_query_data has arguments of its own",
    f"{_SCVI}::test_scvi_no_anndata*": "a model is made of data, or of a registry",
    f"{_SCVI}::test_scvi[[]5-normal[]]": "what is not counts has to be set up as such",
    f"{_SCVI}::test_scvi_normal_likelihood": "what is not counts has to be set up as such",
    f"{_SCVI}::test_scvi_n_obs_error": "without batch normalisation one cell is a minibatch",
    f"{_SCVI}::test_backed_anndata_scvi": "data have to be in memory",
}
"""A pattern of tests to why SCGM is meant to fail them."""


def main() -> int:
    """Run the tests; 0 if all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="an unpacked source distribution")
    parser.add_argument("tests", nargs="*", default=FILES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scgm-peers-") as folder:
        source = given.source or downloaded(Path(folder))
        outcomes = run(source, given.tests, Path(folder) / "outcomes.jsonl")
    return report(outcomes)


def downloaded(folder: Path) -> Path:
    """The source distribution of the installed version, unpacked."""
    wanted = f"scvi-tools=={version('scvi-tools')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-binary", ":all:", "--dest", str(folder), wanted], check=True)
    archive = next(folder.glob("scvi_tools-*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def run(source: Path, tests: list[str], outcomes: Path) -> list[dict]:
    """What became of each test."""
    path = [str(SOURCE), str(HERE), str(source), *os.environ.get("PYTHONPATH", "").split(":")]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(p for p in path if p),
        "SCGM_PEER_OUTCOMES": str(outcomes.resolve()),
    }
    pytest = [sys.executable, "-m", "pytest", "-p", "scgm_for_scvi", "-p", "no:cacheprovider"]
    options = ["-q", "--no-header", "--tb=no", "-k", LEFT_OUT]
    subprocess.run([*pytest, *options, *tests], cwd=source, env=environment)
    if not outcomes.exists():
        raise SystemExit("No test ran; see above.")
    return [json.loads(line) for line in outcomes.read_text().splitlines()]


def report(outcomes: list[dict]) -> int:
    """Print what became of the tests; 1 if any of it is not as expected."""
    n_passed, strange = 0, []
    for one in outcomes:
        test = one["test"].removeprefix("tests/")
        reason = next((EXPECTED[p] for p in EXPECTED if fnmatch(test, p)), None)
        n_passed += one["outcome"] == "passed"
        if one["outcome"] == "failed" and reason is not None:
            print(f"as expected  {test}: {reason}")
        elif one["outcome"] == "failed":
            strange.append(f"FAILED  {test}: {one['why']}")
        elif one["outcome"] == "passed" and reason is not None:
            strange.append(f"PASSED  {test}, which was to fail: {reason}")
    print(f"{n_passed} of {len(outcomes)} tests passed, {len(strange)} are not as expected.")
    print("\n".join(strange))
    return int(bool(strange))


if __name__ == "__main__":
    sys.exit(main())
