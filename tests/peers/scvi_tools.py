"""Run scvi-tools' own tests of SCVI with SCGM in its place.

``python tests/peers/scvi_tools.py`` downloads the source distribution of the installed
scvi-tools, runs the tests named in ``FILES``, and fails where one fails that is not in
``EXPECTED``, or in another way than stands there, or passes although it is to fail. With arguments:
``--source DIR``, an unpacked distribution, in place of a download; files or tests, in place of
``FILES``.

A test that stops where it is meant to leaves the rest of it unseen. Nothing of scvi-tools' tests is
copied for that; where a long one asks in passing for what SCGM has not, ``scgm_for_scvi.py`` puts
something else in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from importlib.util import find_spec
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

LEFT_OUT = "not totalvi and not scviva"
"""For pytest's ``-k``: other models."""

RUNS = (
    ("not optional and not dataloader",),
    ("optional", "--optional"),
    ("dataloader", "--custom-dataloader-tests"),
)
"""For pytest's ``-m``, and the option that keeps scvi-tools from skipping these tests."""

PACKAGES = ("igraph", "leidenalg")
"""What some of the tests need and ``constraints.txt`` has not."""

_ABUNDANCE = "model/test_differential_abundance.py"
_MINIFIED = "model/test_models_with_minified_data.py"
_SCVI = "model/test_scvi.py"
_ADAM = ("assert 'lr-Adam' in dict_keys(['lr-AdamW", "its optimiser is another; the last line")
_EMBEDDING = ("Embedding batch not found", "a batch is no embedding")
_NO_DATA = ("adata or registry must be provided", "a model is made of data, or of a registry")
_NOT_SCANVI = (
    "can't be what another model of scvi-tools starts from",
    "SCANVI takes the weights of scvi-tools' models alone",
)
EXPECTED = {
    f"{_ABUNDANCE}::test_get_aggregated_posterior[[]StandIn-ap_kwargs2[]]": (
        "indices is empty",
        "no rows are no cells, and not all of them",
    ),
    f"{_MINIFIED}::test_scanvi_from_scvi": _NOT_SCANVI,
    f"{_MINIFIED}::test_scvi_non_minified_model_load_with_adata_having_latent_params": (
        "cells without any count",
        "cells without counts are refused, unless they are minified",
    ),
    f"{_MINIFIED}::test_validate_supported_if_minified_keep_count": _NOT_SCANVI,
    f"{_MINIFIED}::test_validate_unsupported_if_minified": (
        "The TwoStageVAE.loss function",
        "the message names TwoStageVAE, and not VAE; the last line",
    ),
    f"{_SCVI}::test_backed_anndata_scvi": ("to_memory()", "data have to be in memory"),
    f"{_SCVI}::test_saving_and_loading": (
        "holds no 'StandIn_model.pt'",
        "no model was saved in scvi-tools' old format",
    ),
    f"{_SCVI}::test_scvi[[]5-*nb[]]": _ADAM,
    f"{_SCVI}::test_scvi[[]5-poisson[]]": _ADAM,
    f"{_SCVI}::test_scvi[[]5-normal[]]": (
        "Counts go with 'nb', 'zinb' or 'poisson'",
        "counts have no normal distribution; the first model of many",
    ),
    f"{_SCVI}::test_scvi_batch_embeddings[[]*": _EMBEDDING,
    f"{_SCVI}::test_scvi_library_size_update": (
        "assert None is not None",
        "library sizes are observed, always: there is no prior of them",
    ),
    f"{_SCVI}::test_scvi_n_obs_error[[]*": (
        "DID NOT RAISE",
        "without batch normalisation one cell is a minibatch",
    ),
    f"{_SCVI}::test_scvi_no_anndata*": _NO_DATA,
    f"{_SCVI}::test_scvi_online_update": (
        "unexpected keyword argument 'inplace_subset_query_vars'",
        "load_query_data has arguments of its own, and freezes other weights",
    ),
    f"{_SCVI}::test_scvi_with_external_indices[[]*": _ADAM,
    f"{_SCVI}::test_setting_adata_attr[[]*": (
        "'NoneType' object has no attribute 'registry'",
        "cells that were the model's own are forgotten when others take their place",
    ),
}
"""A pattern of tests to words of the error that SCGM is meant to make of them, and why."""

_CHANCE = (
    "assert 100 < 100",
    "at a learning rate of 0 nothing of SCGM changes, while SCVI's batch normalisation gets worse: "
    "whether half the epochs pass without a new best is chance",
)
BY_CHANCE = {
    f"{_SCVI}::test_early_stopping": _CHANCE,
    f"{_SCVI}::test_early_stopping_with_parameters[[]0.0-*-50[]]": _CHANCE,
}
"""The same of tests that SCGM may pass or fail."""


def main() -> int:
    """Run the tests; 0 if all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="an unpacked source distribution")
    parser.add_argument("tests", nargs="*", default=FILES)
    given = parser.parse_args()
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        print(
            f"Not installed: {', '.join(lacking)}; tests that need them are skipped. "
            f"Install them: {sys.executable} -m pip install {' '.join(lacking)}",
            flush=True,
        )
    with tempfile.TemporaryDirectory(prefix="scgm-peers-") as folder:
        source = given.source or downloaded(Path(folder))
        outcomes = run(source, given.tests, Path(folder) / "outcomes.jsonl")
    return report(outcomes, lacking, unused=given.tests is FILES)


def downloaded(folder: Path) -> Path:
    """The source distribution of the installed version, unpacked."""
    wanted = f"scvi-tools=={version('scvi-tools')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-binary", ":all:", "--dest", str(folder), wanted], check=True)
    archive = next(folder.glob("scvi_tools-*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def run(source: Path, tests: Sequence[str], outcomes: Path) -> list[dict]:
    """What became of each test."""
    path = [str(SOURCE), str(HERE), str(source), *os.environ.get("PYTHONPATH", "").split(":")]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(p for p in path if p),
        "SCGM_PEER_OUTCOMES": str(outcomes.resolve()),
    }
    pytest = [sys.executable, "-m", "pytest", "-p", "scgm_for_scvi", "-p", "no:cacheprovider"]
    options = ["-q", "--no-header", "--no-summary", "--tb=no", "-k", LEFT_OUT]
    for marks, *option in RUNS:
        command = [*pytest, *options, "-m", marks, *option, *tests]
        done = subprocess.run(command, cwd=source, env=environment)
        if done.returncode not in (0, 1, 5):  # all passed, some failed, none such
            raise SystemExit("pytest could not run; see above.")
    if not outcomes.exists():
        raise SystemExit("No test ran; see above.")
    return [json.loads(line) for line in outcomes.read_text().splitlines()]


def report(outcomes: list[dict], lacking: Sequence[str] = (), *, unused: bool = False) -> int:
    """Print what became of the tests; 1 if any of it is not as expected.

    ``lacking``: packages that are not installed. ``unused``: whether every pattern has to have
    met a test.
    """
    known = {**EXPECTED, **BY_CHANCE}
    counts: dict[str, Counter] = {}
    strange, met = [], set()
    for one in outcomes:
        test, outcome, why = one["test"].removeprefix("tests/"), one["outcome"], one["why"]
        pattern = next((p for p in known if fnmatch(test, p)), None)
        words, reason = known.get(pattern, (None, None))
        met.add(pattern)
        if outcome == "failed" and "Error" in why and any(f"'{n}'" in why for n in lacking):
            outcome = "skipped"
        elif outcome == "failed" and words is not None and words in why:
            outcome = "as expected"
        elif outcome == "failed":
            strange.append(f"FAILED  {test}: {why}" + (f"\n  not: {words}" if words else ""))
        elif outcome == "passed" and pattern in EXPECTED:
            strange.append(f"PASSED  {test}, which was to fail: {reason}")
        if outcome != "passed":
            print(f"{outcome:12}{test}: {reason if outcome == 'as expected' else why}")
        counts.setdefault(test.split("::")[0], Counter())[outcome] += 1
    if unused:
        strange += [f"NO TEST  {pattern}" for pattern in known if pattern not in met]
    for file, count in counts.items():
        print(f"{file}: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(count.items())))
    print(f"{len(strange)} of {len(outcomes)} are not as expected.")
    print("\n".join(strange))
    return int(bool(strange))


if __name__ == "__main__":
    sys.exit(main())
