"""Each baseline against loops over its definition, on raw arrays."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scgm_scvi.metrics import baseline_responses

GENES = [f"gene{i:02}" for i in range(12)]
SINGLES, LINES = ["a", "b", "c", "d", "e", "f"], ["x", "y", "z"]
DOUBLES = ["a+b", "d+c"]
VECTORS = dict(zip(SINGLES, np.random.default_rng(5).normal(size=(6, 3)), strict=True))


def make_screen(seed=0, n=15, kinds=(*SINGLES, *DOUBLES), lines=LINES):
    rng = np.random.default_rng(seed)
    effect = {k: rng.normal(size=len(GENES)) for k in kinds} | {"ctrl": np.zeros(len(GENES))}
    rows = [(k, c) for c in lines for k in effect for _ in range(n)]
    rate = np.array([np.exp(1 + 0.5 * effect[k] * (1 + lines.index(c) / 2)) for k, c in rows])
    obs = pd.DataFrame(rows, columns=["target", "line"], index=[f"c{i}" for i in range(len(rows))])
    counts = rng.poisson(rate * np.ones(len(GENES))).astype(np.float32)
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=GENES))


# b is unseen in x, and so is the pair of it
TRAIN = make_screen()
TRAIN = TRAIN[~((TRAIN.obs["line"] == "x") & TRAIN.obs["target"].isin(["b", "a+b"]))].copy()


def ask(train=TRAIN, wanted=("a+b", "b", "c+d"), **kwargs):
    arguments = {
        "perturbation_key": "target",
        "control_value": "ctrl",
        "context_key": "line",
        "embeddings": VECTORS,
        **kwargs,
    }
    return baseline_responses(train, list(wanted), **arguments)


def change(line, kind, train=TRAIN):
    x = train.X.toarray().astype(float)
    log = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    mean = {
        k: log[((train.obs["line"] == line) & (train.obs["target"] == k)).to_numpy()].mean(0)
        for k in (kind, "ctrl")
    }
    return mean[kind] - mean["ctrl"]


SEEN = [k for k in (*SINGLES, *DOUBLES) if k not in ("b", "a+b")]  # in x


def vector(kind):
    return sum(VECTORS[p] for p in kind.split("+"))


def brute_ridge(x, y, asked):
    center, scale = x.mean(0), x.std(0)
    x, asked = (x - center) / scale, (asked - center) / scale

    def fit(rows, penalty):
        a = np.column_stack([np.ones(rows.sum()), x[rows]])
        d = np.diag([0.0] + [penalty] * x.shape[1])
        return np.linalg.solve(a.T @ a + d, a.T @ y[rows])

    def error(penalty):
        out = 0
        for i in range(len(x)):
            rows = np.arange(len(x)) != i
            out += ((y[i] - np.r_[1, x[i]] @ fit(rows, penalty)) ** 2).sum()
        return out

    penalty = min([len(x) * 10**p for p in np.arange(-3, 3.5, 0.5)], key=error)
    return np.r_[1, asked] @ fit(np.ones(len(x), bool), penalty)


def test_each_is_what_its_definition_says():
    table = ask()
    rows = {key: table.loc[key].to_numpy() for key in table.index}
    assert list(table.columns) == GENES

    def same(method, kind, expected, line="x"):
        assert rows[method, line, kind] == pytest.approx(expected, abs=1e-10), (method, kind)

    here = {k: change("x", k) for k in SEEN}
    lines = {k: [change(c, k) for c in ("y", "z")] for k in (*SINGLES, *DOUBLES)}
    there = {k: np.mean(v, axis=0) for k, v in lines.items()}
    for kind in ("b", "a+b", "c+d"):
        same("control", kind, np.zeros(len(GENES)))
        same("mean", kind, np.mean(list(here.values()), axis=0))
        same("mean_across", kind, np.mean(list(there.values()), axis=0))
        for method, pool in {"nearest": here, "nearest_across": there}.items():
            like = min(pool, key=lambda k, kind=kind: np.linalg.norm(vector(k) - vector(kind)))
            same(method, kind, pool[like])
        for method, pool in {"ridge": here, "ridge_across": there}.items():
            x = np.array([vector(k) for k in pool])
            same(method, kind, brute_ridge(x, np.array(list(pool.values())), vector(kind)))
    for kind in ("b", "a+b"):
        r = {
            k: np.mean([np.corrcoef(change(c, kind), change(c, k))[0, 1] for c in ("y", "z")])
            for k in SEEN
        }
        same("nearest_profile", kind, here[max(r, key=r.get)])
    same("additive_across", "b", there["b"])
    same("additive_across", "a+b", there["a+b"])
    same("additive", "c+d", here["d+c"])  # it was seen, in other words
    assert ("additive", "x", "b") not in rows
    assert ("additive", "x", "a+b") not in rows


def test_a_sum_of_parts_where_the_pair_was_not_seen():
    table = ask(wanted=["a+c", "a+b"])
    expected = change("x", "a") + change("x", "c")
    assert table.loc["additive", "x", "a+c"].to_numpy() == pytest.approx(expected)
    assert table.loc["additive", "y", "a+b"].to_numpy() == pytest.approx(change("y", "a+b"))


def test_names_are_read_as_sets():
    ordered = ask(wanted=["a+b", "c+d", "a+ctrl"])
    other = ask(wanted=["b+a", "d+c", "a"])
    np.testing.assert_array_equal(ordered.to_numpy(), other.to_numpy())


def test_a_context_of_controls_has_other_contexts_alone():
    train = TRAIN[~((TRAIN.obs["line"] == "x") & (TRAIN.obs["target"] != "ctrl"))]
    table = ask(train, contexts=["x"])
    methods = set(table.index.get_level_values("method"))
    across = {"mean_across", "additive_across", "nearest_across", "ridge_across"}
    assert methods == {"control", *across}


def test_without_contexts_or_vectors():
    one = TRAIN[TRAIN.obs["line"] == "y"]
    table = ask(one, context_key=None, embeddings=None, wanted=["b"])
    assert list(table.index) == [(m, "all", "b") for m in ("control", "mean", "additive")]


@pytest.mark.parametrize("n_vectors", [2, 30])
def test_ridge_with_more_coordinates_than_perturbations(n_vectors):
    vectors = {n: np.random.default_rng(i).normal(size=n_vectors) for i, n in enumerate(SINGLES)}
    train = TRAIN[~TRAIN.obs["target"].isin(DOUBLES)]
    table = ask(train, wanted=["b"], embeddings=pd.DataFrame(vectors).T, contexts=["x"])
    kinds = [k for k in SEEN if k in SINGLES]
    x, y = np.array([vectors[k] for k in kinds]), np.array([change("x", k) for k in kinds])
    expected = brute_ridge(x, y, vectors["b"])
    assert table.loc["ridge", "x", "b"].to_numpy() == pytest.approx(expected, abs=1e-8)


def test_order_of_cells_and_genes_does_not_matter():
    rng = np.random.default_rng(0)
    other = TRAIN[rng.permutation(TRAIN.n_obs), rng.permutation(TRAIN.n_vars)]
    pd.testing.assert_frame_equal(ask(other)[GENES], ask(), rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match=r"embeddings has more than one row for 'a'"):
        ask(embeddings=pd.DataFrame(np.ones((2, 2)), index=["a", "a"]))
    with pytest.raises(ValueError, match="vectors of different lengths"):
        ask(embeddings={"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(ValueError, match="infinite or NaN values for 'a'"):
        ask(embeddings={"a": np.array([np.nan])})
    without = TRAIN[~((TRAIN.obs["line"] == "x") & (TRAIN.obs["target"] == "ctrl"))]
    with pytest.raises(ValueError, match="perturbed cells of context 'x' and no control cells"):
        ask(without)
    with pytest.raises(ValueError, match="control_value: 'crtl' is not a value of train.obs"):
        ask(control_value="crtl")
