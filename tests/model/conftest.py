"""One small model, trained once; tests that change a model or its data make their own."""

from __future__ import annotations

import pytest
from anndata import AnnData
from helpers import make_adata, make_mdata, make_model
from mudata import MuData

from scgm_scvi import SCGM
from scgm_scvi._mudata import columns_stay


@pytest.fixture
def adata() -> AnnData:
    return make_adata()


@pytest.fixture
def mdata() -> MuData:
    return make_mdata()


@pytest.fixture
def mudata_as_of_0_4():
    """mudata leaves columns of modalities where they are, as of 0.4."""
    with columns_stay():
        yield


@pytest.fixture(scope="session")
def model() -> SCGM:
    """Trained for seconds: shows behaviour, not quality. Not to be changed."""
    return make_model(make_adata())
