"""Models of every release load, and make the cells that they made then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.make_golden import REQUESTS, generated, make_data, make_mdata

from scgm_scvi import SCGM, MultiSCGM

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASES = sorted(p.name for p in GOLDEN.iterdir() if (p / "expected.npz").is_file())


def load(release: str, kind: str, adata=None) -> SCGM:
    if kind == "saved":
        return SCGM.load(GOLDEN / release / kind, adata=False if adata is None else adata)
    return SCGM.from_export(GOLDEN / release / kind, adata)


def test_there_are_releases():
    assert "0.1.0" in RELEASES


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", ["saved", "export"])
class TestReleases:
    def test_same_cells(self, release, kind):
        model = load(release, kind)
        found = generated(model)
        with np.load(GOLDEN / release / "expected.npz") as expected:
            assert set(expected) == set(found)
            for name, want in expected.items():
                np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-5, err_msg=name)
        assert {"elbo_train", "diffusion_loss_train"} <= set(model.history)

    def test_requests_are_told_apart(self, release, kind):
        """The model is small, but what is asked of it shows: the comparison above can fail."""
        model, found = load(release, kind), {}
        for name, request in REQUESTS.items():
            other = {**request, "seed": request["seed"] + 1}
            a, b = (
                model.generate(**r, expression="normalized", progress_bar=False).X
                for r in (request, other)
            )
            assert np.abs(a - b).max() > 0.1
            found[name] = a.mean(axis=0)
        assert found["joint"][:3].mean() > 1.5 * found["any"][:3].mean()

    def test_with_data(self, release, kind):
        adata = make_data()
        model = load(release, kind, adata)
        latent = model.get_latent_representation()
        assert latent.shape == (adata.n_obs, 4)
        assert latent.std(axis=0).max() > 0.1
        assert model.log_likelihood(indices=range(3), progress_bar=False).shape == (3,)


@pytest.mark.parametrize("release", [r for r in RELEASES if (GOLDEN / r / "multi").is_dir()])
@pytest.mark.parametrize("kind", ["saved", "export"])
@pytest.mark.parametrize("with_data", [False, True])
def test_models_of_both_modalities(release, kind, with_data):
    place, mdata = GOLDEN / release / "multi", make_mdata() if with_data else None
    if kind == "saved":
        model = MultiSCGM.load(place / kind, adata=mdata if with_data else False)
    else:
        model = MultiSCGM.from_export(place / kind, mdata)
    found = generated(model)
    with np.load(place / "expected.npz") as expected:
        assert set(expected) == set(found)
        for name, want in expected.items():
            np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-5, err_msg=name)
    joint, either = (found[f"{name}_normalized"].mean(axis=0) for name in ("joint", "any"))
    assert joint[:3].mean() > 1.5 * either[:3].mean()
    assert joint[20:26].mean() > 1.2 * either[20:26].mean()


@pytest.mark.parametrize("release", RELEASES)
def test_size(release):
    """They stay in the repository for good."""
    files = [p for p in (GOLDEN / release).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1_000_000
