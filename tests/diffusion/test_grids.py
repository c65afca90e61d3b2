import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgm_scvi.diffusion import (
    GRIDS,
    NOISE_PROCESSES,
    exponential_sigmas,
    karras_sigmas,
    linear_sigmas,
    sigmas_for,
)

NAMES = [*GRIDS, *NOISE_PROCESSES]


def test_karras_sigmas_are_equation_5():
    n, low, high, rho = 9, 0.01, 50.0, 7.0
    expected = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    sigmas = karras_sigmas(n, low, high, rho)
    assert sigmas.dtype == torch.float64
    torch.testing.assert_close(sigmas, torch.tensor([*expected, 0.0], dtype=torch.float64))


@given(
    n_steps=st.integers(1, 200),
    low=st.floats(1e-4, 1.0),
    ratio=st.floats(1.1, 1e5),
    name=st.sampled_from(sorted(GRIDS)),
)
def test_grids_decrease_from_largest_to_zero(n_steps, low, ratio, name):
    sigmas = GRIDS[name](n_steps, low, low * ratio)
    assert sigmas.dtype == torch.float64
    assert sigmas.shape == (n_steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert sigmas[0].item() == pytest.approx(low * ratio)
    assert sigmas[-1].item() == 0
    if n_steps > 1:
        assert sigmas[-2].item() == pytest.approx(low)


def test_exponential_sigmas_divide_by_the_same_number():
    steps = exponential_sigmas(20, 0.1, 10.0)[:-1].log().diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -math.log(100) / 19))


def test_linear_sigmas_subtract_the_same_number():
    steps = linear_sigmas(20, 0.1, 10.0)[:-1].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -9.9 / 19))


def test_karras_sigmas_lie_between_linear_and_exponential():
    linear, exponential = linear_sigmas(20, 0.1, 10.0), exponential_sigmas(20, 0.1, 10.0)
    torch.testing.assert_close(karras_sigmas(20, 0.1, 10.0, rho=1.0), linear)
    torch.testing.assert_close(
        karras_sigmas(20, 0.1, 10.0, rho=1e6), exponential, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0,), "n_steps is 0"),
        ((5, 0.0, 1.0), "sigma_min=0.0 and sigma_max=1.0"),
        ((5, 2.0, 1.0), "need 0 < sigma_min < sigma_max"),
        ((5, 1.0, 1.0), "need 0 < sigma_min < sigma_max"),
    ],
)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_refuse(name, arguments, text):
    with pytest.raises(ValueError, match=text):
        GRIDS[name](*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_starts_at_the_largest_level(name):
    largest = NOISE_PROCESSES[name].sigma_max if name in NOISE_PROCESSES else 80.0
    assert sigmas_for(name, 1).tolist() == pytest.approx([largest, 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_names_and_ranges_are_resolved(name):
    sigmas = sigmas_for(name, 15, 0.05, 7.0)
    assert sigmas.shape == (16,)
    assert sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([7.0, 0.05, 0.0])
    # either end may be given alone
    default = sigmas_for(name, 15)
    assert sigmas_for(name, 15, sigma_max=7.0)[-2] == pytest.approx(default[-2].item())
    assert sigmas_for(name, 15, sigma_min=0.05)[0] == pytest.approx(default[0].item())


def test_grids_of_processes_are_their_own():
    for name, process in NOISE_PROCESSES.items():
        assert torch.equal(sigmas_for(name, 9), process.sigmas(9))
    torch.testing.assert_close(sigmas_for("edm", 9), exponential_sigmas(9))


def test_range_of_a_process_is_cut_to_its_own():
    process = NOISE_PROCESSES["ve"]
    torch.testing.assert_close(sigmas_for("ve", 9, 0.002, 80.0), process.sigmas(9))
    with pytest.raises(ValueError, match="leave no noise level: this process's range is 0.03"):
        sigmas_for("ve", 9, sigma_min=20.0)


def test_unknown_grid():
    with pytest.raises(ValueError, match="grid 'karas' is unknown. Known .*'karras'.*'sub_vp'"):
        sigmas_for("karas", 5)
