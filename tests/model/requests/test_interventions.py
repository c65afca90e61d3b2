from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scgm_scvi.diffusion import energy_guidance, heun, karras_sigmas
from scgm_scvi.model import DenoisedCells
from scgm_scvi.model.requests._interventions import Intervention

NAMES = pd.Index(["CD3D", "CD3E", "ISG15", "STAT1", "ACTB"])
WEIGHTS = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BIAS = torch.tensor([2.0, 1.0, 0.0, -1.0, 4.0], dtype=torch.float64)


class Decoded:
    def __init__(self, mean):
        self.mean = mean


def decode(state):
    """A softmax decoder of three latents, and of a library size."""
    return Decoded((state[:, :-1] @ WEIGHTS + BIAS).softmax(dim=1) * state[:, -1:].exp())


def own(state):
    mean = decode(state).mean
    return mean / mean.sum(dim=1, keepdim=True)


def cells(state):
    return DenoisedCells(state, torch.tensor(0.0), decode, [len(NAMES)])


def states(n=4, seed=0):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + torch.tensor([0, 0, 0, 8.0])


def energy_of(state, x=None, **asked):
    energy = Intervention.parse(NAMES, **asked).guidance_energy(own(state), decode)
    return energy(cells(state if x is None else x))


def test_nothing_asked_is_none():
    assert Intervention.parse(NAMES) is None
    assert Intervention.parse(NAMES, genes={}, preserve=[]) is None


def test_energy_is_the_documented_one():
    state, x = states(seed=0), states(seed=1)
    got = energy_of(state, x, genes={"ISG15": 300.0, "STAT1": "knockout", "ACTB": "fold:0.5"})
    cp10k, source = own(x).numpy() * 1e4, own(state).numpy() * 1e4
    target = np.stack([np.full(4, 300.0), np.zeros(4), source[:, 4] / 2], axis=1)
    ratio = np.log((cp10k[:, [2, 3, 4]] + 1) / (target + 1))
    variance = 1 / (target + 1) + 1 / 100
    np.testing.assert_allclose(got.numpy(), (ratio**2 / (2 * variance)).sum(1), rtol=1e-10)


def test_the_likelihood_is_that_of_a_negative_binomial():
    """Its curvature in the log mean, at a high target, is the count's Fisher information."""
    t = 2000.0
    state = torch.zeros(1, 4, dtype=torch.float64)
    m = torch.tensor([t - 20, t, t + 20], dtype=torch.float64)
    nb = t * m.log() - (t + 100) * (m + 100).log()  # log likelihood of a count of t, dispersion 100
    step = torch.tensor((np.log(t + 20) - np.log(t - 20)) / 2)
    expected = -(nb[0] - 2 * nb[1] + nb[2]) / step**2

    def at(mean):
        rest = torch.full((1, 4), (1e4 - mean) / 4, dtype=torch.float64)
        return Decoded(torch.cat([torch.tensor([[mean]], dtype=torch.float64), rest], dim=1))

    def value(mean):
        energy = Intervention.parse(NAMES, genes={"CD3D": t}).guidance_energy(
            own(state), lambda s: Decoded(at(mean).mean + 0 * s.sum())
        )
        return float(energy(cells(state)))

    got = (value(t - 20) - 2 * value(t) + value(t + 20)) / step**2
    assert float(got) == pytest.approx(float(expected), rel=0.02)


def test_source_has_no_energy_where_all_is_preserved():
    state = states()
    energy = energy_of(state, preserve=["CD3D", "CD3E"])
    assert energy.shape == (4,)
    assert float(energy.abs().max()) < 1e-20
    assert float(energy_of(state, states(seed=1), preserve=["CD3D", "CD3E"]).min()) > 0


def test_gradient_is_that_of_the_value():
    state = states()
    x = states(seed=1).requires_grad_()
    asked = {"genes": {"ISG15": 300.0, "STAT1": "knockout"}, "preserve": ["CD3D"]}
    (slope,) = torch.autograd.grad(energy_of(state, x, **asked).sum(), x)
    h = 1e-6
    for j in range(4):
        e = torch.zeros(4, dtype=torch.float64)
        e[j] = h
        with torch.no_grad():
            up = energy_of(state, x.detach() + e, **asked)
            down = energy_of(state, x.detach() - e, **asked)
        torch.testing.assert_close(slope[:, j], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope[:, 3], torch.zeros(4, dtype=torch.float64))  # not depth


def test_second_derivative_is_gauss_newton():
    """That of the squares of a linear function with the true Jacobian, which is never negative."""
    state, x = states(), states(seed=1)[:1].requires_grad_()
    energy = Intervention.parse(NAMES, genes={"ISG15": 300.0}).guidance_energy(
        own(state)[:1], decode
    )
    hessian = torch.autograd.functional.hessian(lambda z: energy(cells(z)).sum(), x)[0, :, 0]
    jacobian = torch.autograd.functional.jacobian(lambda z: (own(z)[:, 2] * 1e4 + 1).log().sum(), x)
    expected = jacobian.T @ jacobian / (1 / 301 + 1 / 100)
    torch.testing.assert_close(hessian, expected)
    assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-9


def test_guidance_reaches_a_demand_from_afar_in_the_steps_of_a_sampler():
    prior = torch.tensor([0.0, 0, 0, 8.0], dtype=torch.float64)

    def denoise(x, sigma):  # of latents N(prior, 1)
        return prior + (x - prior) / (1 + sigma**2)

    state = prior.repeat(50, 1)
    asked = Intervention.parse(NAMES, genes={"STAT1": 800.0})
    energy = asked.guidance_energy(own(state), decode)

    def reached(energy):
        guided = energy_guidance(denoise, lambda x, _: energy(cells(x)), curvature=True)
        noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        out = heun(guided, prior + 3 * noise, karras_sigmas(20, 0.01, 3.0)).x
        return own(out)[:, 3] * 1e4

    assert float(own(state)[0, 3]) * 1e4 < 60
    assert float((reached(energy).mean() / 800 - 1).abs()) < 0.15


def test_genes_pull_those_that_go_with_them():
    x = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    energy = Intervention.parse(NAMES, genes={"ISG15": "fold:4"}).guidance_energy(
        own(x.detach()), decode
    )
    (slope,) = torch.autograd.grad(energy(cells(x)).sum(), x)
    moved = own(x.detach() - 1e-4 * slope) - own(x.detach())
    jacobian = torch.autograd.functional.jacobian(lambda z: own(z)[0], x.detach())[:, 0]
    expected = jacobian @ jacobian[2]
    assert float(moved[0, 2]) > 0
    assert (moved[0].sign() == expected.sign()).all()


def test_guide_is_added_and_may_stand_alone():
    state, x = states(), states(seed=1)

    def shallow(these):
        return these.log_size**2

    alone = energy_of(state, x, energy=shallow)
    torch.testing.assert_close(alone, x[:, 3] ** 2)
    both = energy_of(state, x, energy=shallow, genes={"CD3D": 5})
    torch.testing.assert_close(both, alone + energy_of(state, x, genes={"CD3D": 5}))


@pytest.mark.parametrize("genes", [None, {"CD3D": 1.0}])
@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda c: c.log_size.sum(), r"shape \(\)"),
        (lambda c: c.latent, r"shape \(4, 3\)"),
        (lambda c: 1.0, "a float"),
    ],
)
def test_guide_of_another_shape_is_refused(genes, answer, got):
    with pytest.raises(ValueError, match=f"energy returned {got}.*one number a cell"):
        energy_of(states(), genes=genes, energy=answer)


@settings(deadline=None, max_examples=40)
@given(
    level=st.floats(0, 4000),
    fold=st.floats(0, 2),
    seed=st.integers(0, 100),
)
def test_apply_meets_every_demand_and_leaves_the_others_ratios(level, fold, seed):
    state, edited = states(seed=seed), own(states(seed=seed + 1000))
    source = own(state)
    source[:, 1] = 0.1
    asked = Intervention.parse(
        NAMES, genes={"ISG15": level, "CD3E": f"fold:{fold}", "STAT1": "knockout"}
    )
    before = edited.clone()
    out = asked.apply(edited, source)
    torch.testing.assert_close(edited, before)
    torch.testing.assert_close(out.sum(dim=1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(out[:, 2], torch.full((4,), level / 1e4, dtype=torch.float64))
    torch.testing.assert_close(out[:, 1], fold * source[:, 1])
    assert (out[:, 3] == 0).all()
    torch.testing.assert_close(out[:, 0] / out[:, 4], edited[:, 0] / edited[:, 4])


def test_apply_holds_what_is_preserved():
    source, edited = own(states(seed=0)), own(states(seed=1))
    out = Intervention.parse(NAMES, preserve={"T": ["CD3D", "CD3E"], "more": ["CD3E"]}).apply(
        edited, source
    )
    torch.testing.assert_close(out[:, :2], source[:, :2])
    everything = Intervention.parse(NAMES, preserve=list(NAMES)).apply(edited, source)
    torch.testing.assert_close(everything, source)


def test_guide_alone_leaves_proportions():
    proportions = own(states())
    asked = Intervention.parse(NAMES, energy=lambda c: c.log_size)
    assert asked.apply(proportions, proportions) is proportions


def test_description_is_builtins():
    asked = Intervention.parse(
        NAMES,
        genes={"STAT1": "knockout", "ISG15": np.float32(3), "CD3E": "fold:0.5"},
        preserve={"T": ["CD3D"]},
        energy=test_nothing_asked_is_none,
    )
    assert json.loads(json.dumps(asked.describe())) == {
        "genes": ["STAT1", "ISG15", "CD3E"],
        "targets": ["knockout", "3", "fold:0.5"],
        "kind": "observational",
        "preserve": ["CD3D"],
        "energy": "test_nothing_asked_is_none",
    }


@pytest.mark.parametrize("argument", ["genes", "preserve"])
def test_unknown_genes_are_named_with_what_is_near(argument):
    asked = {"STAT11": 1.0, "ACTB": 1.0, "Xist": 1.0}
    asked = asked if argument == "genes" else list(asked)
    with pytest.raises(KeyError, match=f"{argument}: .*'STAT11', 'Xist'.*Did you mean 'STAT1'"):
        Intervention.parse(NAMES, **{argument: asked})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "0 or more"),
        (float("nan"), "0 or more"),
        (float("inf"), "0 or more"),
        ("fold:-1", "a fold is a number, 0 or more"),
        ("fold:two", "a fold is a number"),
        ("fold:", "a fold is a number"),
        ("knock-out", "Did you mean 'knockout'"),
        ("3.0", "a number in CP10K"),
        (True, "a number in CP10K"),
        (None, "a number in CP10K"),
        ([1.0], "a number in CP10K"),
        (2e4, "add up to 20000 CP10K"),
    ],
)
def test_bad_targets_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        Intervention.parse(NAMES, genes={"STAT1": value})


def test_changed_and_preserved_is_refused():
    with pytest.raises(ValueError, match="both name 'STAT1'"):
        Intervention.parse(NAMES, genes={"STAT1": 1.0}, preserve={"set": ["CD3D", "STAT1"]})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"genes": "STAT1"}, "genes is 'STAT1'; pass a dict"),
        ({"preserve": "STAT1"}, "preserve is 'STAT1'; pass a list"),
        ({"preserve": {"T": "CD3D"}}, r"preserve\['T'\] is 'CD3D'"),
        ({"preserve": 3}, "preserve is 3"),
        ({"energy": 3}, "energy is 3"),
    ],
)
def test_arguments_of_another_kind_are_refused(asked, message):
    with pytest.raises(TypeError, match=message):
        Intervention.parse(NAMES, **asked)


def test_a_repeated_name_is_refused():
    with pytest.raises(ValueError, match="several features .*'CD3D'"):
        Intervention.parse(NAMES.append(NAMES[:1]), genes={"CD3D": 1.0})


def test_folds_that_fill_a_cell_are_refused():
    source = own(states())
    with pytest.raises(ValueError, match="4 of 4 cells .*smaller folds"):
        Intervention.parse(NAMES, genes={"ACTB": "fold:1000"}).targets(source)


def test_features_that_are_no_amounts_are_refused():
    source = own(states()) - 0.5
    with pytest.raises(ValueError, match="gene_likelihood='normal'"):
        Intervention.parse(NAMES, genes={"ACTB": 1.0}).guidance_energy(source, decode)
    alone = Intervention.parse(NAMES, energy=lambda c: c.log_size).guidance_energy(source, decode)
    assert alone(cells(states())).shape == (4,)


def test_no_gradient_is_left_behind_and_no_grad_is_no_hindrance():
    state = states()
    with torch.no_grad():
        energy = energy_of(state, states(seed=1), genes={"ISG15": 300.0})
    assert not energy.requires_grad
    assert energy.isfinite().all()
