"""Files that the Virtual Cell Challenge's own command accepts, where it is installed (``vcc-cli``)."""

from __future__ import annotations

import shutil
import subprocess

import anndata as ad
import pandas as pd
import pytest
from helpers import QUIET, SILENT, SMALL
from small_screens import make_screen

from scgm_scvi import SCGM

TARGETS = ["P10", "P11"]


@pytest.mark.filterwarnings("ignore:Fewer than 3")
@pytest.mark.skipif(shutil.which("vcc") is None, reason="needs the command vcc")
def test_vcc_prep_accepts_what_predict_writes(tmp_path):
    adata, vectors, _ = make_screen()
    adata.obs["context"] = adata.obs["line"].str.upper()
    adata.obs["target_gene"] = adata.obs["target"].replace("control", "non-targeting")
    seen = adata[~adata.obs["target_gene"].isin(TARGETS)].copy()
    SCGM.setup_anndata(
        seen,
        labels_key="context",
        perturbation_key="target_gene",
        control="non-targeting",
        condition_embeddings={"target_gene": vectors},
    )
    model = SCGM(seen, **SMALL)
    model.train(max_epochs=2, diffusion_kwargs={"max_steps": 3, **QUIET}, **QUIET)
    controls = seen[(seen.obs["target_gene"] == "non-targeting").to_numpy()]
    parts = []
    for context in ("A", "B"):
        own = controls[(controls.obs["context"] == context).to_numpy()].copy()
        parts.append(tmp_path / f"{context}.h5ad")
        model.predict(own, TARGETS, n_cells=30, out=parts[-1], seed=0, **SILENT)
    ad.experimental.concat_on_disk(parts, tmp_path / "predicted.h5ad", index_unique="-")
    pd.Series(adata.var_names).to_csv(tmp_path / "genes.csv", header=False, index=False)
    asked = [(target, context, 30) for context in ("A", "B") for target in TARGETS]
    table = pd.DataFrame(asked, columns=["target_gene", "context", "n_cells"])
    table.to_csv(tmp_path / "pert_counts.csv", index=False)
    command = ["vcc", "prep", "predicted.h5ad", "--genes", "genes.csv", "--contexts", "A,B"]
    command += ["--perts", "pert_counts.csv", "--output", "out.vcc"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "targets:       verified" in done.stdout
    assert (tmp_path / "out.vcc").stat().st_size > 0
