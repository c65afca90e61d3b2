"""What no training cell has can't be asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import BRIEF, SMALL, make_adata

from scgm_scvi import SCGM


@pytest.fixture(scope="module")
def trained():
    adata = make_adata()
    for column in ("donor", "plate"):
        known = sorted(adata.obs[column].unique())
        adata.obs[column] = pd.Categorical(adata.obs[column], [*known, "unused"])
    held_out = np.arange(5)
    adata.obs["stimulation"] = adata.obs["stimulation"].astype(object)
    adata.obs.loc[adata.obs_names[held_out], "stimulation"] = "held out"
    SCGM.setup_anndata(
        adata,
        batch_key="donor",
        condition_keys=["stimulation", "phase"],
        categorical_covariate_keys=["plate"],
    )
    model = SCGM(adata, **SMALL)
    split = [np.arange(5, adata.n_obs), held_out]
    model.train(datasplitter_kwargs={"external_indexing": split}, **BRIEF)
    return model


@pytest.mark.parametrize(
    ("name", "value"), [("donor", "unused"), ("plate", "unused"), ("stimulation", "held out")]
)
def test_they_are_refused(trained, name, value):
    match = f"'{value}' is a category of '{name}' that no training cell has.*Trained on: '"
    asked, quiet = {name: value}, {"progress_bar": False}
    for verb in (
        lambda: trained.generate(2, asked, **quiet),
        lambda: trained.edit(trained.adata[:3].copy(), asked, **quiet),
        lambda: trained.log_likelihood(indices=[0], conditions=asked, **quiet),
    ):
        with pytest.raises(ValueError, match=match):
            verb()


def test_augment_leaves_them_open(trained):
    """Real cells that were held out may have one; generated ones are of none."""
    more = trained.augment(trained.adata[:5].copy(), "phase", 8, seed=0, progress_bar=False)
    new = more.obs["scgm_generated"]
    assert (more.obs.loc[~new, "stimulation"] == "held out").all()
    assert new.sum() >= 3 and more.obs.loc[new, "stimulation"].isna().all()


def test_others_are_not(trained, tmp_path):
    asked = {"donor": "d1", "plate": "p2", "stimulation": "IFNb"}
    assert trained.generate(2, asked, progress_bar=False).n_obs == 2
    trained.export(tmp_path / "shared")
    shared = SCGM.from_export(tmp_path / "shared")
    assert shared.generate(2, asked, progress_bar=False).n_obs == 2
    with pytest.raises(ValueError, match="no training cell"):
        shared.generate(2, {"donor": "unused"}, progress_bar=False)


def test_the_reference_is_remembered(trained):
    """A query need not hold what the reference was trained on."""
    query = make_adata()[:60].copy()
    query.obs["donor"] = "new"
    model = SCGM.load_query_data(query, trained, replay=0)
    model.train(**BRIEF)
    for donor in ("d1", "new"):
        assert model.generate(1, {"donor": donor}, progress_bar=False).n_obs == 1
    with pytest.raises(ValueError, match="no training cell"):
        model.generate(1, {"donor": "unused"}, progress_bar=False)
