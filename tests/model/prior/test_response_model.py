"""Responses against what linear algebra says of them, and against laws that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgm_scvi.model.prior._dose_curve import DoseCurve
from scgm_scvi.model.prior._joined_responses import joined_responses
from scgm_scvi.model.prior._left_out import blocks_of, left_out_scores
from scgm_scvi.model.prior._measured_responses import MeasuredResponses, Observed
from scgm_scvi.model.prior._response_axes import find_axes
from scgm_scvi.model.prior._response_kernels import Places
from scgm_scvi.model.prior._response_model import ResponseModel
from scgm_scvi.model.prior._variance_components import fit_components

N_FEATURES = 50


def make_measured(
    names, changes, *, doses=None, contexts=None, n_cells=200, n_controls=1e9, baselines=None
):
    """Groups with these changes, and the noise of so many cells, and of the controls they share."""
    rng = np.random.default_rng(1)
    contexts = [0] * len(names) if contexts is None else contexts
    doses = [1.0] * len(names) if doses is None else doses
    changes = np.array(changes)
    noise = rng.normal(size=(2, *changes.shape)) / np.sqrt(n_cells / 2)
    shared = rng.normal(size=(2, 1, changes.shape[1])) / np.sqrt(n_controls / 2)
    halves = changes + noise + shared
    n_contexts = max(contexts) + 1
    if baselines is None:
        baselines = rng.normal(size=(n_contexts, N_FEATURES))
    return MeasuredResponses(
        [
            Observed(tuple(sorted(n.split("+"))), d, c)
            for n, d, c in zip(names, doses, contexts, strict=True)
        ],
        np.full(len(names), float(n_cells)),
        halves.mean(axis=0),
        halves,
        np.full((len(names), 1), n_controls**-0.5),
        np.ones(changes.shape[1]),
        [(c,) for c in range(n_contexts)],
        baselines,
    )


def make_model(measured, vectors=None):
    vectors = pd.DataFrame(dtype=np.float64) if vectors is None else vectors
    return ResponseModel.fit(measured, vectors, places_of(measured))


def places_of(measured):
    n = len(measured.contexts)
    return Places(measured.baselines, np.zeros((n, 0)), np.arange(n))


def scores(measured, vectors=None):
    vectors = pd.DataFrame(dtype=np.float64) if vectors is None else vectors
    return left_out_scores(measured, vectors, places_of(measured), find_axes(measured)[1])


def r2(true, found):
    return 1 - ((true - found) ** 2).sum() / (true**2).sum()


@pytest.fixture(scope="module")
def linear():
    """Forty perturbations whose responses are linear in their vectors; ten are not seen."""
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(40)]
    vectors = pd.DataFrame(rng.normal(size=(40, 4)), index=names)
    responses = vectors.to_numpy() @ rng.normal(size=(4, N_FEATURES)) * 0.3 + 0.2
    model = make_model(make_measured(names[:30], responses[:30]), vectors)
    return model, names, responses


def test_names_that_no_cell_had_respond_as_their_vectors_say(linear):
    model, names, responses = linear
    found = model.predict([Observed((n,), 1.0, 0) for n in names[30:]])
    assert r2(responses[30:], found.change) > 0.9
    assert r2(responses[30:], responses[:30].mean(axis=0)) < 0.6
    assert (found.r2 > 0.7).all() and (found.r2 <= 1).all()


def test_the_posterior_is_that_of_a_gaussian_process(linear):
    model, names, _ = linear
    asked = [Observed((n,), 1.0, 0) for n in ("P3", "P35")]
    among = model.likeness.between(model.observed, model.observed)
    across = model.likeness.between(asked, model.observed)
    for k in range(3):
        c = sum(w * m for w, m in zip(model.weights[k], among, strict=True))
        c = c + model.noise_factor[k] * np.diag(1 / model.n_cells)
        shared = sum(w * m for w, m in zip(model.weights[k], across, strict=True))
        by_hand = shared @ np.linalg.solve(c, model.scores[:, k])
        mean = (model.predict(asked).change / model.noise) @ model.axes[k]
        np.testing.assert_allclose(mean, by_hand, rtol=1e-4, atol=1e-6)


def test_leaving_out_is_fitting_without(linear):
    _, names, responses = linear
    measured = make_measured(names[:30], responses[:30])
    vectors = linear[0].likeness.vectors
    whole, halves = find_axes(measured)
    left = []
    for axes, own, other in zip(halves, measured.halves, measured.halves[::-1], strict=True):
        model = ResponseModel.fit(
            measured.half(int(own is not measured.halves[0])), vectors, places_of(measured), axes
        )
        for block in blocks_of(model.observed, "perturbation"):
            rest = np.setdiff1d(np.arange(30), block)
            kept = {k: getattr(model, k)[rest] for k in ("n_cells", "pools", "scores")}
            without = replace(model, observed=[model.observed[i] for i in rest], **kept)
            m = without.predict([model.observed[i] for i in block]).change
            left.append((2 * m * other[block] - m**2).sum())
    both = 2 * (measured.halves[0] * measured.halves[1]).sum()
    found = scores(measured, vectors)["perturbation"]
    assert found["response"] == pytest.approx(sum(left) / both, abs=1e-4)
    assert found["response"] > 0.8 > found["mean_response"]


def test_without_any_law_the_mean_response_is_not_beaten_and_it_says_so():
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(30)]
    vectors = pd.DataFrame(rng.normal(size=(30, 4)), index=names)
    common = rng.normal(size=N_FEATURES)
    responses = common + rng.normal(size=(30, N_FEATURES))
    found = scores(make_measured(names, responses), vectors)["perturbation"]
    assert abs(found["response"] - found["mean_response"]) < 0.1


@pytest.mark.parametrize(
    ("n_features", "n_controls"), [(50, 400), (600, 400), (150, 40), (150, 10)]
)
def test_noise_is_no_response(n_features, n_controls):
    names = [f"P{i}" for i in range(20)]
    nothing = np.zeros((20, n_features))
    measured = make_measured(
        names,
        nothing,
        n_cells=40,
        n_controls=n_controls,
        baselines=np.zeros((1, n_features)),
    )
    found = make_model(measured).predict([Observed((n,), 1.0, 0) for n in (*names, "P99")])
    assert found.r2.max() < 0.1
    assert (found.change**2).sum() < 0.05 * (measured.change**2).sum()
    of_seen = scores(measured)["seen"]["response"]
    assert np.isnan(of_seen) or of_seen < 0.1


@pytest.mark.parametrize(("size", "n_controls"), [(0.1, 300), (0.2, 300), (0.5, 300), (0.3, 30)])
def test_how_much_is_right_is_known(size, n_controls):
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(20)]
    responses = size * rng.normal(size=(20, 5)) @ rng.normal(size=(5, 300))
    measured = make_measured(
        names, responses, n_cells=30, n_controls=n_controls, baselines=np.zeros((1, 300))
    )
    found = make_model(measured).predict(measured.observed)
    true = r2(responses, found.change)
    assert true > r2(responses, measured.change)
    assert found.r2.mean() == pytest.approx(true, abs=0.15)
    assert scores(measured)["seen"]["response"] == pytest.approx(true, abs=0.2)


@pytest.mark.parametrize("rank", [3, 40])  # a few axes that stand out, or none
def test_axes_are_trusted_for_what_is_there_and_the_process_takes_noise_off_once(rank):
    rng = np.random.default_rng(0)
    n, n_features, n_cells = 40, 200, 20
    signal = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, n_features))
    signal *= 0.7 / np.sqrt(n_cells) / signal.std()
    measured = make_measured([f"P{i}" for i in range(n)], signal, n_cells=n_cells)
    axes = find_axes(measured)[0]
    seen, true = (measured.whitened(x) @ axes.axes.T for x in (measured.change, signal))
    square = (seen**2).sum(axis=0)
    scored = axes.trust**2 * square / n / axes.noise  # of which 1 is noise
    shrunk = axes.trust * (1 - 1 / scored)
    known = (seen * true).sum(axis=0) / square
    assert np.mean(shrunk) == pytest.approx(np.mean(known), abs=0.06)
    model = make_model(measured)
    assert r2(signal, model.predict(measured.observed).change) > 0.9 * r2(
        signal, seen * known @ axes.axes / np.sqrt(n_cells)
    )


def test_two_screens_are_one():
    rng = np.random.default_rng(0)
    names = [f"P{i}" for i in range(24)]
    responses = rng.normal(size=(24, N_FEATURES))
    before = make_model(make_measured(names[:16], responses[:16]))
    now = make_measured(names[12:], responses[12:])
    both = joined_responses(before, now)
    assert len(both.observed) == 24 and both.n_cells.tolist() == [200] * 12 + [400] * 4 + [200] * 8
    assert both.pools.shape == (24, 2)
    found = make_model(both).predict([Observed((n,), 1.0, 0) for n in names]).change
    assert r2(responses, found) > 0.9
    # what the second screen did not measure goes with what it did
    missing = [0, 1, 2]
    few = make_measured(names[10:16], responses[10:16])
    for of in (few.change, few.halves):
        of[..., missing] = 0
    filled = joined_responses(before, few, missing)
    assert r2(responses[10:16][:, missing], filled.change[10:16][:, missing]) > 0.9


@pytest.mark.parametrize("order", ["P0+P1", "P1+P0"])
def test_responses_of_parts_add_up(order):
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(12, N_FEATURES))
    names = [f"P{i}" for i in range(12)]
    model = make_model(make_measured(names, responses, n_cells=2000))
    found = model.predict([Observed(tuple(sorted(order.split("+"))), 1.0, 0)])
    assert r2(responses[0] + responses[1], found.change[0]) > 0.95


def test_sets_that_were_seen_keep_what_their_parts_do_not_do():
    rng = np.random.default_rng(0)
    single = rng.normal(size=(6, N_FEATURES))
    extra = rng.normal(size=N_FEATURES)
    names = [*(f"P{i}" for i in range(6)), "P0+P1", "P2+P3"]
    responses = [*single, single[0] + single[1] + extra, single[2] + single[3]]
    model = make_model(make_measured(names, responses, n_cells=2000))
    found = model.predict([Observed(("P0", "P1"), 1.0, 0)]).change[0]
    assert r2(responses[6], found) > 0.95


def test_a_dose_between_two_is_on_the_curve_that_all_share():
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(10, N_FEATURES))
    size = {0.1: 0.3, 10.0: 1.0}
    names = [f"P{i}" for i in range(10) for _ in size]
    changes = [size[d] * responses[i] for i in range(10) for d in size]
    model = make_model(make_measured(names, changes, doses=list(size) * 10))
    np.testing.assert_allclose(model.likeness.curve.sizes, [0.3, 1.0], atol=0.05)
    found = model.predict([Observed(("P4",), d, 0) for d in (0.0, 1.0, 10.0)]).change
    assert np.abs(found[0]).max() == 0
    assert r2(0.65 * responses[4], found[1]) > 0.95
    assert r2(responses[4], found[2]) > 0.95


@pytest.mark.parametrize("doses", [[1.0], [0.1, 0.5, 5.0]])
def test_sizes_never_fall_and_are_0_at_0(doses):
    curve = DoseCurve(tuple(doses), tuple(np.linspace(0.2, 1, len(doses))))
    sizes = curve(np.linspace(0, 10, 200))
    assert sizes[0] == 0 and (np.diff(sizes) >= 0).all() and sizes[-1] == curve.sizes[-1]


def test_a_new_context_responds_as_those_that_look_like_it():
    rng = np.random.default_rng(0)
    poles, kinds = rng.normal(size=(2, 2, N_FEATURES))
    pole = [0, 0, 0, 1, 1, 1]
    baselines = poles[pole] + 0.1 * rng.normal(size=(6, N_FEATURES))
    names = ["P0"] * 6
    measured = make_measured(
        names, kinds[pole], contexts=list(range(6)), baselines=baselines, n_cells=500
    )
    model = make_model(measured)
    places = Places(poles + 0.05, np.zeros((2, 0)), np.array([-1, -1]))
    found = model.predict([Observed(("P0",), 1.0, c) for c in (0, 1)], places).change
    for i in (0, 1):
        assert r2(kinds[i], found[i]) > 0.6
        assert r2(kinds[i], found[i]) > r2(kinds[i], kinds.mean(axis=0))


def test_what_a_model_keeps_predicts_the_same(linear):
    model, names, _ = linear
    again = ResponseModel.from_dict(model.to_dict())
    asked = [Observed((n,), 1.0, 0) for n in names]
    for a, b in zip(model.predict(asked), again.predict(asked), strict=True):
        np.testing.assert_array_equal(a, b)


def test_components_find_what_made_the_scores():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    smooth = x @ x.T / 3
    scores = np.linalg.cholesky(2 * smooth + 1e-6 * np.eye(80)) @ rng.normal(size=(80, 2))
    scores += 0.1 * rng.normal(size=(80, 2))
    weights, noise = fit_components(
        scores, np.stack([smooth, np.eye(80)]), 0.01 * np.eye(80), np.ones(2)
    )
    assert (weights[:, 0] > 10 * weights[:, 1]).all()
    assert (noise > 0.5).all() and (noise < 2).all()
