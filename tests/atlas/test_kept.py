"""Authors' columns are kept as they are."""

import numpy as np
import pandas as pd
import pytest
from atlas_cells import AXIS, arguments, make_cells

from scgm_scvi.atlas import Store, make_training_store
from scgm_scvi.atlas.curate._kept import kept_columns
from scgm_scvi.atlas.store._content import column_name
from scgm_scvi.atlas.stream._training_cells import TrainingCells

OBS = pd.DataFrame(
    {
        "dose": [0.5, np.nan, 2.0],
        "tnm/stage": ["T1", " ", None],
        "viable": [True, False, True],
        "well": ["a1", "NA", "unknown"],
    }
)


def test_numbers_stay_numbers_and_words_stay_words():
    kept = kept_columns(OBS, ["tnm/stage", "dose"], ["well", "plate", "dose"])
    assert list(kept) == ["tnm/stage", "dose", "well"]
    assert kept["dose"].dtype == np.float64
    assert kept["tnm/stage"].isna().to_list() == [False, True, True]
    assert kept["well"].to_list() == ["a1", "NA", "unknown"]


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(KeyError, match="'tnm_stage' is no column.*'dose'.*mean 'tnm/stage'"):
        kept_columns(OBS, ["tnm_stage"])


def test_a_kept_column_is_streamed_under_its_name_in_the_store(tmp_path):
    adata = make_cells(60)
    adata.obs = kept_columns(adata.obs, ["tnm/stage", "percent_mito", "doublet"])
    store = Store.create(tmp_path / "s", AXIS)
    store.write("local-x", **arguments(adata))
    names = [column_name(c) for c in adata.obs]
    assert names == ["tnm_stage", "percent_mito", "doublet"]
    assert set(names) <= set(store.columns("local-x"))
    cells = TrainingCells(make_training_store(store, genes=20, obs_columns=names))
    order = cells.column("row").astype(int)
    np.testing.assert_array_equal(
        cells.column("percent_mito"), adata.obs["percent_mito"].astype("float32").iloc[order]
    )
    assert set(cells.column("doublet").categories) <= {"True", "False"}
    assert (cells.column("tnm_stage").codes < 0).sum() == adata.obs["tnm/stage"].isna().sum()
