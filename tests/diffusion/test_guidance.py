import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scgm_scvi.diffusion import (
    classifier_free,
    guidance_interval,
    guidance_variants,
    heun,
    karras_sigmas,
)

SCALE = st.floats(-20, 20)
NAMES = ("cell_type", "donor", "stimulation")


def denoiser(x, sigma, c):
    """Each row's answer depends on its own point, level and condition."""
    return torch.tanh(x * (1 + c) + sigma[:, None]) + c.square()


def guided(scale, attributes, conditional, unspecified, composition="joint"):
    """Guide as a model does: a variant's dropped attributes, one a column, are unspecified."""
    variants = []
    for variant in guidance_variants(scale, attributes, composition):
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


@given(scale=SCALE, named=st.booleans(), composition=st.sampled_from(["joint", "additive"]))
def test_one_attribute_has_one_meaning_of_scale(scale, named, composition):
    single = {v.dropped: v.weight for v in guidance_variants(scale, ["donor"])}
    other = guidance_variants({"donor": scale} if named else scale, ["donor"], composition)
    other = {v.dropped: v.weight for v in other}
    for dropped in single.keys() | other.keys():
        assert single.get(dropped, 0) == pytest.approx(other.get(dropped, 0), abs=1e-9)


@given(
    scale=SCALE | st.dictionaries(st.sampled_from(NAMES), SCALE),
    n=st.integers(1, 3),
)
def test_additive_composition_specifies_one_attribute_at_a_time(scale, n):
    names = NAMES[:n]
    variants = guidance_variants(scale, names, "additive")
    assert sum(v.weight for v in variants) == pytest.approx(1)
    assert all(v.weight != 0 for v in variants)
    for dropped, weight in variants:
        kept = set(names) - dropped
        assert dropped <= set(names)
        assert len(kept) <= 1  # so a combination never seen is never asked for
        for name in kept:
            assert weight == (scale.get(name, 1) if isinstance(scale, dict) else scale)


def test_weights_that_are_zero_but_for_rounding_cost_no_pass():
    variants = guidance_variants({"a": 0.3, "b": 0.7}, ["a", "b"], "additive")
    assert [v.weight for v in variants] == [0.3, 0.7]


def test_unknown_composition():
    with pytest.raises(ValueError, match="composition is 'product'; use 'joint' or 'additive'"):
        guidance_variants(1.0, ["a"], "product")


def test_scale_of_an_attribute_left_unspecified_is_ignored():
    assert guidance_variants({"donor": 3.0}, ["cell_type"]) == guidance_variants(1.0, ["cell_type"])
    assert guidance_variants(3.0, []) == guidance_variants(1.0, [])


@pytest.fixture
def batch():
    return torch.randn(6, 2), torch.tensor(0.7, dtype=torch.float64), torch.rand(6, 2)


def test_additive_composition_is_the_sum_of_single_effects(batch):
    x, sigma, c = batch
    levels = sigma.float().expand(6)
    neither = denoiser(x, levels, torch.zeros(6, 1))
    a, b = denoiser(x, levels, c[:, :1]), denoiser(x, levels, c[:, 1:])
    out = guided({"a": 3.0, "b": 0.5}, ["a", "b"], c, 0, "additive")(x, sigma)
    torch.testing.assert_close(out, neither + 3.0 * (a - neither) + 0.5 * (b - neither))


def test_additive_composition_samples_a_combination_never_seen():
    """Two attributes that move an axis each; a network that knows one at a time or none."""
    means, variance = torch.tensor([4.0, -3.0]), 0.25

    def denoiser(x, sigma, specified):
        assert (specified.sum(dim=1) <= 1).all()
        v = torch.where(specified, variance, 1.0 + means**2)
        m = torch.where(specified, means, 0.0)
        return m + v / (v + sigma[:, None] ** 2) * (x - m)

    n = 100
    variants = [
        (v.weight, (torch.tensor([[name not in v.dropped for name in "ab"]]).expand(n, 2),))
        for v in guidance_variants(1.0, ["a", "b"], "additive")
    ]
    start = 80 * torch.randn(n, 2)
    x = heun(classifier_free(denoiser, variants), start, karras_sigmas(60)).x
    # where the flow of N(means, variance) takes the same noise
    expected = means + (variance / (variance + 80.0**2)) ** 0.5 * (start - means)
    torch.testing.assert_close(x.float(), expected, atol=0.01, rtol=0)


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
    assert seen_sigma.shape == (1,)  # one level for all rows
    expected = sum(w * classifier_free(recorded, [(1.0, c)])(x, sigma) for w, c in parts)
    torch.testing.assert_close(out, expected)


def test_single_estimate_is_weighted_too(batch):
    x, sigma, c = batch
    once = classifier_free(denoiser, [(1.0, (c[:, :1],))])(x, sigma)
    torch.testing.assert_close(classifier_free(denoiser, [(0.5, (c[:, :1],))])(x, sigma), once / 2)


@pytest.mark.parametrize("others_per_row", [True, False])
def test_weights_may_differ_between_rows(batch, others_per_row):
    x, sigma, _ = batch
    weights = [torch.randn(6, 1, dtype=torch.float64) for _ in range(3)]
    if not others_per_row:
        weights[1] = -0.7
    conditions = [(torch.rand(6, 1),) for _ in range(3)]
    variants = list(zip(weights, conditions, strict=True))
    out = classifier_free(denoiser, variants)(x, sigma)
    assert out.dtype == torch.float32
    for i in range(6):
        row = [
            (float(w[i]) if isinstance(w, torch.Tensor) else w, (c[0][i : i + 1],))
            for w, c in variants
        ]
        torch.testing.assert_close(out[i], classifier_free(denoiser, row)(x[i : i + 1], sigma)[0])


def test_rows_of_weight_zero_and_one_take_the_conditions_as_they_are(batch):
    x, sigma, _ = batch
    t = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])[:, None]
    a, b = torch.rand(6, 1), torch.rand(6, 1)
    out = classifier_free(denoiser, [(1 - t, (a,)), (t, (b,))])(x, sigma)
    expected = classifier_free(denoiser, [(1.0, (torch.where(t == 1, b, a),))])(x, sigma)
    assert torch.equal(out, expected)


def test_inputs_are_not_changed(batch):
    x, sigma, c = batch
    estimate = torch.rand(12, 2)
    kept, before = x.clone(), estimate.clone()
    variants = [(3.0, (c,)), (torch.full((6, 1), -2.0), (c,))]
    classifier_free(lambda x, s, c: estimate, variants)(x, sigma)
    assert torch.equal(x, kept)
    assert torch.equal(estimate, before)


@pytest.mark.parametrize("shape", [(6,), (5, 1), (6, 2), (1, 6)])
def test_weights_per_row_must_be_a_column(batch, shape):
    with pytest.raises(ValueError, match=r"one number, or one a row: \(6, 1\)"):
        classifier_free(denoiser, [(torch.ones(shape), (batch[2],))])


def test_something_must_be_asked_for():
    with pytest.raises(ValueError, match="variants is empty"):
        classifier_free(denoiser, [])


@pytest.mark.parametrize(
    ("composition", "outside"),
    [("joint", [{"a", "b"}]), ("additive", [{"a"}, {"b"}, set()])],
)
def test_outside_the_interval_the_scale_is_one(batch, composition, outside):
    x, _, c = batch
    rows = []

    def recorded(x, sigma, c):
        rows.append(len(x))
        return denoiser(x, sigma, c.sum(1, keepdim=True))

    def variants(scale):
        return [
            (w, (c * torch.tensor([name not in dropped for name in "ab"]),))
            for dropped, w in guidance_variants(scale, ["a", "b"], composition)
        ]

    high, one = classifier_free(recorded, variants(3.0)), classifier_free(recorded, variants(1.0))
    denoise = guidance_interval(high, one, (0.3, 5.0))
    inside = {0.3: False, 0.31: True, 1.0: True, 5.0: True, 5.01: False, 80.0: False}
    for level, expected in inside.items():
        sigma = torch.tensor(level, dtype=torch.float64)
        rows.clear()
        out = denoise(x, sigma)
        if not expected:
            assert rows == [6 * len(outside)]  # one call, of the variants of scale 1 alone
        assert torch.equal(out, (high if expected else one)(x, sigma))
        assert not torch.equal(out, (one if expected else high)(x, sigma))


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_interval_must_be_one(interval):
    with pytest.raises(ValueError, match="need 0 <= low < high"):
        guidance_interval(None, None, interval)
