"""Screens whose truth is known, made of real cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scgm_scvi.datasets import pbmc68k
from scgm_scvi.metrics._space import fit_pca, log_normalize, values_of

CONTROL = "control"
N_STATES = 5  # coordinates of a cell's state


@dataclass
class Law:
    """How vectors and cell states make responses; all of it is drawn once."""

    activity: dict[str, np.ndarray]  # of programs, by single perturbation
    programs: np.ndarray  # sparse, of log expression
    state: np.ndarray  # how a program's effect depends on the cell's state
    context: dict[str, np.ndarray]  # factor of each program
    interaction: dict[str, np.ndarray] = field(default_factory=dict)  # by pair, of programs

    def effect(
        self, name: str, states: np.ndarray, context: str = "all", dose: float = 1.0
    ) -> np.ndarray:
        """True change of log expression of each cell."""
        parts = [p for p in name.split("+") if p != CONTROL]
        activity = sum((self.activity[p] for p in parts), np.zeros(len(self.programs)))
        activity = activity + self.interaction.get(name, 0)
        # half of the effect at a dose of .25, all of it at 1
        activity = activity * dose * 1.25 / (dose + 0.25) * self.context[context]
        return (activity * (1 + np.tanh(states @ self.state))) @ self.programs


@dataclass
class Screen:
    """A screen, the vectors of its perturbations, and the law behind it."""

    adata: AnnData
    vectors: pd.DataFrame
    law: Law
    fresh: AnnData  # control cells that are not in the screen

    def oracle(self, asked: pd.DataFrame, seed: int = 0) -> AnnData:
        """The true effect on fresh control cells: a row of ``asked`` a cell."""
        return _perturbed(self.fresh, asked, self.law, np.random.default_rng([seed, 1]))


def load_control(path: Path | None, n_genes: int) -> AnnData:
    """Control cells of a file, or of scanpy's wheel, with the genes that have most counts."""
    control = pbmc68k() if path is None else ad.read_h5ad(path)
    total = np.asarray(control.X.sum(axis=0)).ravel()
    return control[:, np.sort(np.argsort(-total, kind="stable")[:n_genes])].copy()


def make_screen(
    control: AnnData,
    *,
    context_key: str | None = None,
    n_perturbations: int = 200,
    n_pairs: int = 0,
    n_cells: int = 50,
    n_vector: int = 16,
    n_programs: int = 8,
    density: float = 0.1,
    strength: float = 0.5,
    shared: float = 0.5,
    local: float = 0.0,
    n_families: int | None = None,
    bend: float = 0.3,
    state: float = 0.2,
    epistasis: float = 1.0,
    no_effect: float = 0.1,
    doses: Sequence[float] = (1.0,),
    modulation: float = 0.3,
    seed: int = 0,
) -> Screen:
    r"""Make a screen of real control cells: what was done to them is invented, and known.

    A perturbation with the vector :math:`v` moves programs by

    .. math:: a(v) = s \left[\sqrt{1 - l}\, \mathrm{bend}(A v) + \sqrt{l}\, g(v) + c\right]

    with :math:`\mathrm{bend}(x) = (1 - b) x + b \tanh x`, a function :math:`g` without any
    resemblance beyond a perturbation's own family, and :math:`c` that all share. A cell in the
    state :math:`z` changes log expression by :math:`\sum_r a_r m_r (1 + \tanh(z^T B_r)) W_r`; the
    programs :math:`W` are sparse and there are few. Counts that go down are thinned, :math:`x' \sim
    Bin(x, e^\delta)`, and to those that go up is added :math:`Poisson((e^\delta - 1)(x + \mu d) /
    2)`, with the gene's share :math:`\mu` and the cell's depth :math:`d`, since a gene that is not
    seen in a cell may be once it is induced.

    **What it is not.** No model of biology, and no evidence that a method works on real screens:
    targets are not genes of the panel, effects know nothing of pathways, no cell dies or divides,
    guides are all effective, there are no batches. A real cell is drawn several times, so cells of
    two perturbations are not independent, and a screen shows no more variation than the cells that
    it was made of. It serves to see that an evaluation tells what is true: that a law is found by
    the method that assumes it, that no effect is called none, that the oracle is as good as a
    replicate.

    Parameters
    ----------
    control
        Raw counts of unperturbed cells; a third is kept for the oracle.
    context_key
        Column of ``obs`` whose values are contexts. Default: one context, ``"all"``.
    n_perturbations, n_pairs, n_cells
        How many, and cells for each, in each context and at each dose; as many control cells as
        there are, up to ten times that.
    n_vector, n_programs, density
        Length of the vectors, number of programs, share of the genes in each.
    strength, shared
        Of responses, in log expression of a program's genes, and of what all have in common.
    local, n_families, bend
        Share :math:`l` of the response that vectors tell nothing of beyond the family; number of
        families (default: each is its own); how far from linear the rest is.
    state
        How much responses depend on the state of a cell.
    epistasis
        Of every second pair: strength of what its parts do not do alone.
    no_effect
        Share of perturbations without one.
    doses
        Between 0 and 1, which has the whole effect.
    modulation
        Spread of the logarithm of each program's factor between contexts.
    seed
        Of everything.

    Returns
    -------
    :class:`Screen`: its ``adata`` has ``perturbation``, ``context`` and ``dose`` in ``obs``, and in
    ``uns["truth"]`` whether each perturbation has an effect and each pair is additive.
    """
    rng = np.random.default_rng(seed)
    context = (
        np.full(control.n_obs, "all")
        if context_key is None
        else control.obs[context_key].astype(str).to_numpy()
    )
    names = [f"P{i:03}" for i in range(n_perturbations)]
    vectors, activity = _activities(rng, names, n_vector, n_programs, local, n_families, bend)
    common = shared * rng.normal(size=n_programs)
    silent = set(rng.permutation(names)[: round(no_effect * n_perturbations)])
    activity = {
        n: np.zeros(n_programs) if n in silent else strength * (a + common)
        for n, a in zip(names, activity, strict=True)
    }
    programs = rng.normal(size=(n_programs, control.n_vars))
    programs *= rng.random(programs.shape) < density
    law = Law(
        activity,
        programs,
        state * rng.normal(size=(N_STATES, n_programs)) / np.sqrt(N_STATES),
        {c: np.exp(modulation * rng.normal(size=n_programs)) for c in np.unique(context)},
    )
    loud = [n for n in names if n not in silent]
    drawn = sorted({tuple(sorted(rng.choice(loud, 2, replace=False))) for _ in range(n_pairs)})
    pairs = ["+".join(p) for p in drawn]
    for pair in pairs[::2]:
        law.interaction[pair] = epistasis * strength * rng.normal(size=n_programs)
    if context_key is None:
        law.context["all"] = np.ones(n_programs)

    cells = control.copy()
    cells.obs = pd.DataFrame({"context": context}, index=control.obs_names)
    cells.obsm["state"] = _states(cells)
    fresh = rng.permutation(cells.n_obs) < cells.n_obs // 3
    asked = pd.DataFrame(
        [
            (n, c, d)
            for c in law.context
            for n in (*names, *pairs)
            for d in doses
            for _ in range(n_cells)
        ],
        columns=["perturbation", "context", "dose"],
    )
    perturbed = _perturbed(cells[~fresh], asked, law, rng)
    plain = [
        rng.permutation(np.flatnonzero(~fresh & (context == c)))[: 10 * n_cells]
        for c in law.context
    ]
    plain = cells[np.concatenate(plain)].copy()
    plain.obs["perturbation"], plain.obs["dose"] = CONTROL, 0.0
    plain.X = sparse.csr_matrix(values_of(plain, list(plain.var_names)), dtype=np.float32)
    out = ad.concat([plain, perturbed], index_unique="-")
    out.obs["perturbation"] = out.obs["perturbation"].astype("category")
    out.uns["truth"] = pd.DataFrame(
        {
            "effect": [n not in silent for n in (*names, *pairs)],
            "additive": [n not in law.interaction for n in (*names, *pairs)],
        },
        index=[*names, *pairs],
    )
    return Screen(out, pd.DataFrame(vectors, index=names), law, cells[fresh])


def _activities(
    rng: np.random.Generator,
    names: list[str],
    n_vector: int,
    n_programs: int,
    local: float,
    n_families: int | None,
    bend: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and what of a response follows from them."""
    n_families = n_families or len(names)
    family = np.arange(len(names)) % n_families
    spread = 0.2 if n_families < len(names) else 0.0
    vectors = rng.normal(size=(n_families, n_vector))[family]
    vectors = vectors + spread * rng.normal(size=vectors.shape)
    linear = vectors @ rng.normal(size=(n_vector, n_programs)) / np.sqrt(n_vector)
    own = rng.normal(size=(n_families, n_programs))[family]
    smooth = (1 - bend) * linear + bend * np.tanh(linear)
    return vectors, np.sqrt(1 - local) * smooth + np.sqrt(local) * own


def _states(cells: AnnData) -> np.ndarray:
    log = log_normalize(values_of(cells, list(cells.var_names)))
    state = fit_pca(log, N_STATES).transform(log)
    return state / state.std(axis=0)


def _perturbed(cells: AnnData, asked: pd.DataFrame, law: Law, rng: np.random.Generator) -> AnnData:
    """Cells drawn from those of their contexts, with what was asked for done to them."""
    x = values_of(cells, list(cells.var_names))
    of = {c: np.flatnonzero(cells.obs["context"] == c) for c in law.context}
    share = {c: x[rows].sum(axis=0) / x[rows].sum() for c, rows in of.items()}
    blocks, order = [], []
    for (name, c, dose), rows in asked.groupby(
        ["perturbation", "context", "dose"], observed=True
    ).indices.items():
        drawn = rng.choice(of[c], len(rows), replace=len(rows) > len(of[c]))
        effect = law.effect(name, cells.obsm["state"][drawn], c, dose)
        blocks.append(sparse.csr_matrix(changed(x[drawn], effect, share[c], rng)))
        order.append(rows)
    order = np.argsort(np.concatenate(order))
    counts = sparse.vstack(blocks).tocsr()[order].astype(np.float32)
    obs = asked.set_axis([f"c{i}" for i in range(len(asked))])
    return AnnData(counts, obs=obs, var=cells.var[[]])


def changed(
    counts: np.ndarray, effect: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Counts thinned where log expression falls, with Poisson gain where it rises."""
    fold = np.exp(np.clip(effect, -5, 3))
    kept = rng.binomial(counts.astype(np.int64), np.minimum(fold, 1))
    gain = (counts + share * counts.sum(axis=1, keepdims=True)) / 2
    return kept + rng.poisson(np.maximum(fold - 1, 0) * gain)
