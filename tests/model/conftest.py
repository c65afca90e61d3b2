"""One small model, trained once; tests that change a model or its data make their own."""

from __future__ import annotations

import pytest
from anndata import AnnData
from helpers import make_adata, make_model

from scgm_scvi import SCGM


@pytest.fixture
def adata() -> AnnData:
    return make_adata()


@pytest.fixture(scope="session")
def model() -> SCGM:
    """Trained for seconds: shows behaviour, not quality. Not to be changed."""
    return make_model(make_adata())
