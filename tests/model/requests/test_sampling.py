"""How cells are sampled: every choice reaches the sampler, is recorded, or is refused."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import numpy as np
import pytest
import torch
from helpers import QUIET, SMALL

from scgm_scvi import SCGM
from scgm_scvi.diffusion import NOISE_PROCESSES, sigmas_for
from scgm_scvi.model._batch_sizes import MEMORY_BUDGET, default_batch_size
from scgm_scvi.model.requests._sampling import Sampling

# donor and plate are named, so that nothing is drawn that depends on the other conditions
FIXED = {"donor": "d3", "plate": "p1"}
CD34 = {"cell_type": "CD34+", **FIXED}
BOTH = {"cell_type": "CD34+", "stimulation": "IFNb", **FIXED}


def latent(model, n_cells=16, conditions=CD34, **kwargs):
    cells = model.generate(n_cells, conditions, seed=0, progress_bar=False, **kwargs)
    return cells.obsm["X_scgm"]


@pytest.fixture
def calls(model, monkeypatch):
    """Number of rows and the level of every pass through the denoiser."""
    calls = []
    kind = type(model.module.denoiser)
    forward = kind.forward

    def spy(self, x, sigma, *conditions):
        assert (sigma == sigma[0]).all()
        calls.append((len(x), sigma[0].item()))
        return forward(self, x, sigma, *conditions)

    monkeypatch.setattr(kind, "forward", spy)
    return calls


class TestRequests:
    @pytest.mark.parametrize(
        ("kwargs", "error", "match"),
        [
            ({"sampler": "huen"}, ValueError, "sampler 'huen' is unknown.*Did you mean 'heun'"),
            ({"composition": "sum"}, ValueError, "composition is 'sum'; use 'joint' or 'additive'"),
            ({"guidance_scale": np.nan}, ValueError, "guidance_scale is nan"),
            ({"guidance_scale": "3"}, ValueError, "guidance_scale is '3'; .* a number"),
            ({"guidance_scale": {"dose": -2}}, ValueError, "dose is -2"),
            ({"guidance_scale": {"plate": 2}}, KeyError, "no attribute 'plate'"),
            (
                {"guidance_interval": (2, 1)},
                ValueError,
                r"interval is \(2, 1\).*the lower one first",
            ),
            ({"guidance_interval": (-1, 1)}, ValueError, r"\(-1, 1\)"),
            (
                {"guidance_interval": 0.3},
                ValueError,
                "guidance_interval is 0.3; .*two noise levels",
            ),
            ({"guidance_interval": (0.1, 1, 2)}, ValueError, r"\(0.1, 1, 2\); .*two noise levels"),
            ({"energy": 3}, TypeError, "energy is 3; pass a function of DenoisedCells"),
            (
                {"sampling_kwargs": ["grid"]},
                TypeError,
                r"sampling_kwargs is \['grid'\]; pass a dict",
            ),
            (
                {"sampling_kwargs": {"grid": "kerras"}},
                ValueError,
                "grid 'kerras' is unknown. Did you mean 'karras'.*'exponential'.*'vp'",
            ),
            (
                {"sampling_kwargs": {"precision": "half"}},
                ValueError,
                "precision is 'half'; use one of 'float32', 'bfloat16'",
            ),
            (
                {"sampling_kwargs": {"eta": 0.5}},
                TypeError,
                "'eta' is no option of sampler 'dpmpp_2m', which has none; .*'sigma_min'",
            ),
            (
                {"sampler": "pc", "sampling_kwargs": {"snl": 0.5}},
                TypeError,
                "'snl' is no option of sampler 'pc', which has 'n_corrections', 'snr'",
            ),
            # what every sampler is given is not a user's to give
            ({"sampling_kwargs": {"generator": None}}, TypeError, "'generator' is no option"),
            (
                {"sampling_kwargs": {"sigma_min": 5, "sigma_max": 1}},
                ValueError,
                "sigma_min=5 and sigma_max=1",
            ),
            (
                {"sampler": "dpmpp_2m_sde", "sampling_kwargs": {"eta": -1}},
                ValueError,
                "eta is -1; it must be 0",
            ),
        ],
    )
    def test_bad_ones_name_value_and_remedy(self, model, kwargs, error, match):
        with pytest.raises(error, match=match):
            latent(model, **kwargs)

    def test_defaults_are_those_of_the_sampler(self, model):
        default = Sampling.parse(model.condition_spec, sampler="pc")
        assert (default.n_steps, default.grid) == (500, "ve")
        own = Sampling.parse(model.condition_spec, sampler="pc", sampling_kwargs={"grid": "linear"})
        assert own.grid == "linear"


def an_energy(cells):
    return 0.1 * cells.log_size


@pytest.mark.parametrize(
    ("kwargs", "recorded"),
    [
        (
            {
                "guidance_scale": {"cell_type": np.float32(2), "stimulation": 1},
                "guidance_interval": (np.float64(0.25), 5),
                "composition": "additive",
                "energy": an_energy,
                "n_steps": np.int64(6),
            },
            {
                "sampler": "dpmpp_2m",
                "grid": "exponential",
                "guidance_scale": {"cell_type": 2.0, "stimulation": 1.0},
                "guidance_interval": [0.25, 5.0],
                "composition": "additive",
                "energy": "an_energy",
                "n_steps": 6,
                "precision": "float32",
                "compile": False,
            },
        ),
        (
            {
                "sampler": "dpmpp_2m_sde",
                "n_steps": 5,
                "sampling_kwargs": {
                    "eta": np.float64(0.5),
                    "grid": "vp",
                    "sigma_min": 0.05,
                    "sigma_max": np.float32(8),
                    "precision": "bfloat16",
                },
            },
            {
                "eta": 0.5,
                "grid": "vp",
                "sigma_min": 0.05,
                "sigma_max": 8.0,
                "precision": "bfloat16",
                "guidance_scale": 1.0,
            },
        ),
        (
            {"sampler": "pc", "n_steps": 3, "sampling_kwargs": {"n_corrections": 1, "snr": 0.1}},
            {"sampler": "pc", "grid": "ve", "n_corrections": 1, "snr": 0.1},
        ),
    ],
)
def test_everything_is_recorded_as_builtins_and_survives_disk(model, tmp_path, kwargs, recorded):
    cells = model.generate(4, BOTH, seed=0, progress_bar=False, **kwargs)
    uns = cells.uns["scgm"]
    assert {k: uns[k] for k in recorded} == recorded
    json.dumps(uns)  # refuses numbers of numpy, and functions
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad").uns["scgm"]
    assert set(back) == set(uns)
    for key, value in recorded.items():
        assert np.array_equal(back[key], value) if isinstance(value, list) else back[key] == value


class TestSampler:
    @pytest.mark.parametrize("grid", ["karras", "linear", "exponential", "vp"])
    def test_levels_are_those_of_the_grid(self, model, calls, grid):
        latent(model, n_steps=7, sampling_kwargs={"grid": grid})
        # a grid's lowest level is 0.01, that of a process its own
        want = sigmas_for(grid, 7, None if grid == "vp" else 0.01)[:-1]
        np.testing.assert_allclose([s for _, s in calls], want, rtol=1e-6)

    def test_ends_of_the_grid(self, model, calls):
        latent(model, n_steps=7, sampling_kwargs={"sigma_min": 0.1, "sigma_max": 20.0})
        want = sigmas_for("exponential", 7, 0.1, 20.0)[:-1]
        np.testing.assert_allclose([s for _, s in calls], want, rtol=1e-6)

    def test_eta_of_zero_is_the_flow(self, model):
        plain = latent(model, n_steps=9)
        sde, still = (
            latent(model, n_steps=9, sampler="dpmpp_2m_sde", sampling_kwargs={"eta": eta})
            for eta in (1.0, 0.0)
        )
        np.testing.assert_array_equal(still, plain)
        assert np.abs(sde - plain).max() > 1e-3

    @pytest.mark.parametrize(("n_corrections", "passes"), [(0, 1), (2, 4)])
    def test_corrections_are_counted(self, model, calls, n_corrections, passes):
        options = {"n_corrections": n_corrections}
        latent(model, sampler="pc", n_steps=5, sampling_kwargs=options)
        assert len(calls) == 5 * passes

    def test_bfloat16(self, model):
        seen = []
        linear = [m for m in model.module.denoiser.modules() if isinstance(m, torch.nn.Linear)]
        hooks = [m.register_forward_hook(lambda *a: seen.append(a[-1].dtype)) for m in linear]
        try:
            half = latent(model, sampling_kwargs={"precision": "bfloat16"})
            in_half, seen = set(seen), []
            single = latent(model)
        finally:
            for hook in hooks:
                hook.remove()
        assert in_half == {torch.bfloat16}
        assert half.dtype == np.float32
        error = np.abs(half - single).max()
        assert 0 < error < 0.05 * single.std()

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
    @pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
    def test_compiled(self, model):
        compiled = latent(model, sampling_kwargs={"compile": True})
        np.testing.assert_allclose(compiled, latent(model), atol=1e-4)

    def test_compile_is_asked_of_torch(self, model, monkeypatch):
        """That above takes a minute; this shows the wiring."""
        compiled = []
        monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
        cells = latent(model, sampling_kwargs={"compile": True})
        assert set(compiled) == {model.module.denoiser}
        np.testing.assert_array_equal(cells, latent(model))

    def test_cells_lost_to_infinity_are_reported(self, model):
        with pytest.raises(RuntimeError, match=r"16 of 16 cells went off.*n_steps.*guidance_scale"):
            latent(model, energy=lambda cells: 1e30 * cells.latent.square().sum(dim=1))


class TestGuidance:
    def test_interval_guides_within(self, model, calls):
        latent(model, 6, guidance_scale=2.0, guidance_interval=(0.2, 3.0), n_steps=20)
        levels = sigmas_for("exponential", 20, 0.01)[:-1]
        within = ((levels > 0.2) & (levels <= 3.0)).tolist()
        assert 3 < sum(within) < 17
        assert [n for n, _ in calls] == [12 if inside else 6 for inside in within]

    def test_interval_of_all_levels_is_plain_guidance(self, model):
        plain = latent(model, guidance_scale=3.0)
        everywhere = latent(model, guidance_scale=3.0, guidance_interval=(0, 100))
        np.testing.assert_array_equal(everywhere, plain)
        some = latent(model, guidance_scale=3.0, guidance_interval=(0.5, 2))
        assert np.abs(some - plain).max() > 1e-3

    def test_interval_of_no_level_is_the_conditional_model(self, model):
        nowhere = latent(model, guidance_scale=3.0, guidance_interval=(100, 200))
        np.testing.assert_array_equal(nowhere, latent(model))

    @pytest.mark.parametrize("scale", [1.0, 2.5, {"cell_type": 2.5}])
    def test_one_attribute_is_composed_as_ever(self, model, scale):
        joint, additive = (
            latent(model, guidance_scale=scale, composition=c) for c in ("joint", "additive")
        )
        np.testing.assert_allclose(additive, joint, atol=1e-6)

    def test_two_attributes_are_added(self, model, calls, monkeypatch):
        """The sum of both alone, less what is unspecified; and no cell with both is asked for."""
        seen = []
        network = type(model.module.denoiser.network)
        forward = network.forward
        monkeypatch.setattr(
            network, "forward", lambda self, *a: seen.append(a[2]) or forward(self, *a)
        )
        added = latent(model, 6, BOTH, composition="additive", n_steps=4)
        assert [n for n, _ in calls] == [18] * 4
        tokens = torch.cat(seen)[:, :2].bool().tolist()
        assert {tuple(row) for row in tokens} == {(True, False), (False, True), (False, False)}
        assert np.abs(added - latent(model, 6, BOTH, n_steps=4)).max() > 1e-4

    def test_scale_of_zero_is_unconditional(self, model):
        kwargs = {"seed": 0, "progress_bar": False}
        zero = model.generate(16, CD34, guidance_scale=0.0, **kwargs)
        free = model.generate(16, FIXED, **kwargs)
        np.testing.assert_array_equal(zero.obsm["X_scgm"], free.obsm["X_scgm"])
        assert np.abs(free.obsm["X_scgm"] - latent(model)).max() > 1e-3


class TestEnergy:
    def test_library_size_follows(self, model, monkeypatch):
        """As the posterior of N(m, v) and an observation with variance s², in mean and in spread."""
        seen = []
        decode = type(model.module).decode_state
        monkeypatch.setattr(
            type(model.module),
            "decode_state",
            lambda self, state, *a: seen.append(state[:, -1]) or decode(self, state, *a),
        )

        def log_sizes(energy=None):
            cells = model.generate(400, CD34, energy=energy, seed=0, progress_bar=False)
            return seen[-1].numpy(), np.log(cells.X.sum(axis=1))

        free, counted = log_sizes()
        target, s = free.mean() + 0.5, 0.05
        told, told_counted = log_sizes(lambda cells: ((cells.log_size - target) / s) ** 2 / 2)
        posterior = 1 / (1 / s**2 + 1 / free.var())
        assert told.mean() == pytest.approx(
            posterior * (target / s**2 + free.mean() / free.var()), abs=0.05
        )
        assert told.std() == pytest.approx(posterior**0.5, rel=0.2)
        # and so do the counts, which scatter about it
        assert told_counted.mean() == pytest.approx(target, abs=0.1)
        assert told_counted.std() < 0.5 * counted.std()

    def test_steep_ones_do_no_harm(self, model):
        """A hundredth of the spread, in the default number of steps."""
        energy = lambda cells: ((cells.latent[:, 0] - 0.3) / 0.003) ** 2 / 2
        cells = latent(model, energy=energy)
        np.testing.assert_allclose(cells[:, 0], 0.3, atol=0.03)
        others = latent(model)[:, 1:].std(axis=0)
        assert (cells[:, 1:].std(axis=0) < 2 * others).all()

    def test_a_gene_follows(self, model):
        kwargs = {"expression": "normalized", "seed": 0, "progress_bar": False}
        free = np.log(model.generate(60, CD34, **kwargs).X)
        gene = int(free.std(axis=0).argmax())  # by little: the model is trained for seconds

        def shift(weight):
            energy = lambda cells: -weight * cells.proportions[:, gene].log()
            x = np.log(model.generate(60, CD34, energy=energy, **kwargs).X[:, gene])
            return (x.mean() - free[:, gene].mean()) / free[:, gene].std()

        assert shift(100) > 0.4
        assert shift(1000) > 2

    def test_no_energy_is_no_guidance(self, model):
        idle = latent(model, energy=lambda cells: 0 * cells.log_size)
        np.testing.assert_allclose(idle, latent(model), atol=1e-5)

    def test_what_an_energy_sees(self, model):
        seen = []

        def energy(cells):
            seen.append(cells)
            assert cells.log_size.shape == (16,)
            assert cells.expression.shape == (16, model.adata.n_vars)
            torch.testing.assert_close(cells.proportions.sum(dim=1), torch.ones(16))
            sizes = cells.expression.sum(dim=1)
            torch.testing.assert_close(sizes, cells.log_size.exp(), rtol=1e-4, atol=0)
            return 0 * cells.log_size

        cells = latent(model, energy=energy, n_steps=5)
        levels = [c.sigma.item() for c in seen]
        np.testing.assert_allclose(levels, sigmas_for("exponential", 5, 0.01)[:-1])
        # the last estimate, at the lowest level, is the sample: in units of obsm["X_scgm"]
        np.testing.assert_allclose(seen[-1].latent.detach(), cells, atol=1e-5)

    @pytest.mark.parametrize(
        ("energy", "match"),
        [
            (lambda cells: cells.latent, r"returned shape \(16, 12\).*one number a row: \(16,\)"),
            (lambda cells: cells.log_size.sum(), r"returned shape \(\).*one number a row"),
            (lambda cells: cells.log_size.detach(), "no derivative.*operations of torch"),
            (lambda cells: 1.0, "returned a float; it must return a tensor"),
            (lambda cells: cells.log_size.detach().numpy(), "returned a ndarray"),
        ],
    )
    def test_useless_ones(self, model, energy, match):
        with pytest.raises(ValueError, match=match):
            latent(model, energy=energy)


class TestNoise:
    @pytest.mark.parametrize("noise", ["ve", "vp", "sub_vp"])
    def test_other_processes(self, adata, noise, tmp_path, monkeypatch):
        SCGM.setup_anndata(adata, labels_key="cell_type")
        model = SCGM(adata, noise=noise, **SMALL)
        process, drawn = NOISE_PROCESSES[noise], []
        assert model.module.denoiser.noise is process
        forward = type(model.module.denoiser).forward
        monkeypatch.setattr(
            type(model.module.denoiser),
            "forward",
            lambda self, x, sigma, *c: drawn.append(sigma) or forward(self, x, sigma, *c),
        )
        model.train(max_epochs=1, diffusion_kwargs={"max_steps": 20, **QUIET}, **QUIET)
        levels = torch.cat(drawn)
        assert process.sigma_min * 0.99 < levels.min()
        assert process.sigma_max / 2 < levels.max() < process.sigma_max * 1.01

        drawn.clear()
        before = model.generate(8, seed=0, progress_bar=False)
        want = sigmas_for("exponential", 20, max(process.sigma_min, 0.01), process.sigma_max)[:-1]
        np.testing.assert_allclose([s[0] for s in drawn], want, rtol=1e-5)
        assert np.isfinite(before.obsm["X_scgm"]).all()

        model.save(tmp_path / "model")
        loaded = SCGM.load(tmp_path / "model", adata=False)
        assert loaded.init_params_["non_kwargs"]["noise"] == noise
        assert loaded.module.denoiser.noise is process
        after = loaded.generate(8, seed=0, progress_bar=False)
        np.testing.assert_array_equal(before.obsm["X_scgm"], after.obsm["X_scgm"])

    def test_unknown(self, adata):
        SCGM.setup_anndata(adata)
        with pytest.raises(
            ValueError, match="'vpp' is unknown. Known: 'edm', 've', 'vp', 'sub_vp'"
        ):
            SCGM(adata, noise="vpp", **SMALL)

    def test_the_noise_process_adds_no_weights(self, adata):
        SCGM.setup_anndata(adata, labels_key="cell_type")
        keys = [set(SCGM(adata, noise=n, **SMALL).module.state_dict()) for n in ("edm", "vp")]
        assert keys[0] == keys[1]
        assert not [k for k in keys[0] if k.startswith("denoiser.noise")]

    def test_models_that_were_saved_before_there_was_a_choice(self, model, tmp_path):
        model.save(tmp_path / "model")
        path = tmp_path / "model" / "model.pt"
        saved = torch.load(path, weights_only=False)
        del saved["attr_dict"]["init_params_"]["non_kwargs"]["noise"]
        torch.save(saved, path)
        old = SCGM.load(tmp_path / "model", adata=False)
        assert old.module.denoiser.noise is NOISE_PROCESSES["edm"]
        cells = old.generate(16, CD34, seed=0, progress_bar=False)
        np.testing.assert_array_equal(cells.obsm["X_scgm"], latent(model))


class TestBatchSize:
    @pytest.mark.parametrize("n_features", [0, 700, 8191, 20_000, 60_000, 10**9])
    def test_bounds_the_memory(self, n_features):
        n = default_batch_size(n_features)
        assert 1 <= n <= 2048
        assert n == 1 or n * n_features * 4 * 8 <= MEMORY_BUDGET
        assert n == 2048 or (n + 1) * n_features * 4 * 8 > MEMORY_BUDGET  # and wastes none

    def test_default(self, model, monkeypatch):
        monkeypatch.setattr("scgm_scvi.model._batch_sizes.MEMORY_BUDGET", 32 * 765 * 7 + 1)
        default = model.generate(16, CD34, seed=0, progress_bar=False)
        assert default.uns["scgm"]["batch_size"] == 7
        named = model.generate(16, CD34, seed=0, batch_size=7, progress_bar=False)
        assert (default.X != named.X).nnz == 0
        np.testing.assert_array_equal(default.obsm["X_scgm"], named.obsm["X_scgm"])
        assert default.uns["scgm"] == named.uns["scgm"]
