import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgm_scvi.diffusion import classifier_free, guidance_variants

SCALE = st.floats(-20, 20)
NAMES = ("cell_type", "donor", "stimulation")


def denoiser(x, sigma, c):
    """Each row's answer depends on its own point, level and condition."""
    return torch.tanh(x * (1 + c) + sigma[:, None]) + c.square()


def guided(scale, attributes, conditional, unspecified):
    """Guide as a model does: a variant's dropped attributes, one a column, are unspecified."""
    variants = []
    for variant in guidance_variants(scale, attributes):
        c = conditional.clone()
        for j, name in enumerate(attributes):
            if name in variant.dropped:
                c[:, j] = unspecified
        variants.append((variant.weight, (c,)))
    return classifier_free(lambda x, s, c: denoiser(x, s, c.sum(1, keepdim=True)), variants)


@given(scale=SCALE, n=st.integers(0, 3))
def test_weights_of_one_scale_sum_to_one(scale, n):
    variants = guidance_variants(scale, NAMES[:n])
    assert sum(v.weight for v in variants) == pytest.approx(1)
    assert all(v.weight != 0 for v in variants)


@given(scale=st.dictionaries(st.sampled_from(NAMES), SCALE), n=st.integers(0, 3))
def test_weights_of_a_scale_per_attribute_sum_to_one(scale, n):
    variants = guidance_variants(scale, NAMES[:n])
    assert sum(v.weight for v in variants) == pytest.approx(1)
    for dropped, weight in variants:
        assert len(dropped) <= 1  # attributes are guided one at a time
        for name in dropped:
            assert name in NAMES[:n]
            assert weight == 1 - scale[name]


@given(scale=SCALE)
def test_one_attribute_has_one_meaning_of_scale(scale):
    single = {v.dropped: v.weight for v in guidance_variants(scale, ["donor"])}
    mapping = {v.dropped: v.weight for v in guidance_variants({"donor": scale}, ["donor"])}
    for dropped in single.keys() | mapping.keys():
        assert single.get(dropped, 0) == pytest.approx(mapping.get(dropped, 0), abs=1e-9)


def test_scale_of_an_attribute_left_unspecified_is_ignored():
    assert guidance_variants({"donor": 3.0}, ["cell_type"]) == guidance_variants(1.0, ["cell_type"])
    assert guidance_variants(3.0, []) == guidance_variants(1.0, [])


@pytest.fixture
def batch():
    return torch.randn(6, 2), torch.tensor(0.7, dtype=torch.float64), torch.rand(6, 2)


@pytest.mark.parametrize("scale", [1.0, {}, {"a": 1.0, "b": 1.0}])
def test_scale_one_is_the_conditional_model(batch, scale):
    x, sigma, c = batch
    expected = denoiser(x, sigma.float().expand(6), c.sum(1, keepdim=True))
    assert torch.equal(guided(scale, ["a", "b"], c, 0)(x, sigma), expected)


def test_scale_zero_is_the_unconditional_model(batch):
    x, sigma, c = batch
    expected = denoiser(x, sigma.float().expand(6), torch.zeros(6, 1))
    assert torch.equal(guided(0.0, ["a", "b"], c, 0)(x, sigma), expected)


def test_scale_zero_of_one_attribute_leaves_it_unspecified(batch):
    x, sigma, c = batch
    expected = denoiser(x, sigma.float().expand(6), c[:, 1:])
    torch.testing.assert_close(
        guided({"a": 0.0}, ["a", "b"], c, 0)(x, sigma), expected, rtol=0, atol=1e-6
    )


def test_scales_per_attribute_extrapolate_each(batch):
    x, sigma, c = batch
    levels = sigma.float().expand(6)
    full = denoiser(x, levels, c.sum(1, keepdim=True))
    without_a, without_b = denoiser(x, levels, c[:, 1:]), denoiser(x, levels, c[:, :1])
    expected = full + 2.0 * (full - without_a) - 0.5 * (full - without_b)
    torch.testing.assert_close(guided({"a": 3.0, "b": 0.5}, ["a", "b"], c, 0)(x, sigma), expected)


def test_one_batched_call_equals_separate_calls(batch):
    x, sigma, _ = batch
    calls = []

    def recorded(x, sigma, c, d):
        calls.append((x, sigma))
        return denoiser(x, sigma, c * d)

    parts = [(w, (torch.rand(6, 1), torch.rand(6, 1))) for w in (2.5, -1.0, -0.5)]
    out = classifier_free(recorded, parts)(x.double(), sigma)
    assert len(calls) == 1
    seen_x, seen_sigma = calls[0]
    assert seen_x.dtype == seen_sigma.dtype == torch.float32
    assert seen_x.shape == (18, 2)
    assert seen_sigma.shape == (18,)
    expected = sum(w * classifier_free(recorded, [(1.0, c)])(x, sigma) for w, c in parts)
    torch.testing.assert_close(out, expected)
