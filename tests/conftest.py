import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Start every test from the same global random state, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)
