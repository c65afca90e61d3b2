"""Missing features are filled in from similar cells; what was measured stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scgm_scvi.nn import ExpressionEncoder, FeatureFill

MISSING = torch.tensor([False] * 6 + [True] * 4)


def two_kinds(n: int, seed: int) -> torch.Tensor:
    """Counts of ``n`` cells of each kind; the kinds differ in measured and in missing features."""
    rate = torch.full((2, 10), 20.0)
    rate[0, :3] = rate[1, 3:6] = 100.0
    rate[0, 6:8] = rate[1, 8:] = 60.0
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(rate.repeat_interleave(n, 0), generator=generator)


def log_normalized(x):
    return torch.log1p(1e4 * x / x.sum(1, keepdim=True))


@pytest.fixture
def fill():
    out = FeatureFill(60, 10)
    out.remember(two_kinds(30, seed=0), MISSING)
    return out


def test_a_panel_is_filled_with_what_its_kind_expresses(fill):
    full = two_kinds(20, seed=1)
    panel = full * ~MISSING
    expected, filled, zero = log_normalized(full), fill(panel), log_normalized(panel)
    error = (filled - expected).abs().mean()
    assert error < 0.2 < 0.5 * (zero - expected).abs().mean()
    # the depth of the missing features is accounted for: measured ones are where they were
    assert (filled - expected)[:, ~MISSING].mean().abs() < 0.02


def test_the_mean_is_of_the_nearest(fill):
    panel = two_kinds(1, seed=2)[:1] * ~MISSING
    memory = fill.memory.float().numpy()
    a, b = np.log1p(panel.numpy() * 1.0), memory  # cosine: no matter in which units, before the log
    share = np.expm1(memory[:, 6:]).sum(1).mean() / 1e4
    a = np.log1p(panel.numpy() * 1e4 * (1 - share) / panel.numpy().sum())[:, :6]
    similar = (a @ b[:, :6].T) / np.linalg.norm(b[:, :6], axis=1)
    nearest = np.argsort(-similar[0])[:15]
    np.testing.assert_allclose(fill(panel)[0, 6:], memory[nearest, 6:].mean(0), rtol=1e-4)


def test_cells_with_all_features_pass_and_do_not_notice_their_neighbours(fill):
    full = two_kinds(3, seed=3)
    torch.testing.assert_close(fill(full), log_normalized(full))
    mixed = full.clone()
    mixed[0] *= ~MISSING
    torch.testing.assert_close(fill(mixed)[1:], log_normalized(full)[1:])
    torch.testing.assert_close(fill(mixed)[:1], fill(mixed[:1]))


def test_encoder_with_a_memory_encodes_full_cells_as_without(fill):
    torch.manual_seed(0)
    plain = ExpressionEncoder(10, 3, n_features=10, return_dist=True).eval()
    filling = ExpressionEncoder(10, 3, n_features=10, return_dist=True, n_memory=60).eval()
    filling.load_state_dict({**plain.state_dict(), **fill.state_dict(prefix="fill.")})
    full = two_kinds(3, seed=4)
    torch.testing.assert_close(filling(full)[0].loc, plain(full)[0].loc)
    panel = full * ~MISSING
    off = (filling(panel)[0].loc - plain(full)[0].loc).norm()
    assert off < 0.5 * (plain(panel)[0].loc - plain(full)[0].loc).norm()
