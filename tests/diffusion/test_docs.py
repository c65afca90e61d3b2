"""The sampler that docs/diffusion.md adds works, is of the order it says, and is found by name."""

import math
import re
from pathlib import Path

import pytest
import torch

from scgm_scvi.diffusion import SAMPLERS, karras_sigmas

PAGE = Path(__file__).parents[2] / "docs" / "diffusion.md"


@pytest.fixture
def documented(monkeypatch):
    monkeypatch.setattr("scgm_scvi.diffusion.SAMPLERS", dict(SAMPLERS))
    section = PAGE.read_text(encoding="utf-8").split("### Adding a sampler")[1]
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], namespace)
    return namespace["SAMPLERS"]


def test_a_documented_sampler_is_of_second_order(gaussian, documented):
    assert set(documented) - set(SAMPLERS) == {"midpoint"}
    sampler = documented["midpoint"].function
    x = gaussian.sample(50) + 10 * torch.randn(50, 2, dtype=torch.float64)
    exact = gaussian.flow(x, 10.0, 0.1)
    errors = [
        (sampler(gaussian.denoise, x, karras_sigmas(n + 1, 0.1, 10.0)[:-1]).x - exact).norm()
        for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)
