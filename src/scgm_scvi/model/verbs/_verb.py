"""What verbs begin with: a trained prior, a seed, how many cells at a time, a bar, a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from scgm_scvi._errors import whole_number
from scgm_scvi.model._batch_sizes import default_batch_size
from scgm_scvi.model.prior._encoding import encode
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin
from scgm_scvi.model.training._fingerprint import weights_fingerprint

__all__ = ["Run", "Verb", "fit_steps", "fresh_seed", "require_expression"]


@dataclass(frozen=True)
class Run:
    """How a verb runs.

    Attributes
    ----------
    seed
        Of all that it draws.
    batch_size
        Cells at a time.
    progress_bar
        Whether to show one.
    """

    seed: int
    batch_size: int
    progress_bar: bool

    def bar(self, total: int, what: str) -> tqdm:
        """A bar over cells."""
        return tqdm(total=total, unit="cell", desc=what, disable=not self.progress_bar)

    def chunks(self, n: int) -> Iterator[tuple[int, slice]]:
        """Numbers of the chunks of ``n`` cells, and their rows."""
        for i, start in enumerate(range(0, n, self.batch_size)):
            yield i, slice(start, start + self.batch_size)

    def seeds(self, chunk: int, n: int) -> np.ndarray:
        """Seeds of a chunk's own, 64 bits each."""
        return np.random.SeedSequence([self.seed, chunk]).generate_state(n, np.uint64)


class Verb(LatentDiffusionMixin):
    """The base of every verb of a trained model."""

    def _run(
        self,
        seed: int | None,
        batch_size: int | None,
        progress_bar: bool,
        *,
        usual: int | None = None,
    ) -> Run:
        """Check that stage two is trained, and say how to run.

        Parameters
        ----------
        usual
            Batch size where a user names none. Default: as many cells as are decoded within the
            budget.
        """
        self._require_diffusion()
        if batch_size is None:
            batch_size = default_batch_size(len(self.var_)) if usual is None else usual
        return Run(
            seed=fresh_seed() if seed is None else seed,
            batch_size=whole_number(batch_size, "batch_size"),
            progress_bar=progress_bar,
        )

    def _states(self, adata: Any) -> tuple[Attributes, torch.Tensor]:
        """Attributes and mean states of cells; default: the model's own."""
        return encode(self.prior, self._minibatches(adata))

    def _provenance(self, run: Run, **parameters: Any) -> dict[str, Any]:
        """What made some cells, as builtins: the model, the ``parameters``, and the seed."""
        return {
            "model": weights_fingerprint(self.module.state_dict()),
            "class": type(self).__name__,
            **parameters,
            "seed": int(run.seed),
            "version": version("scgm_scvi"),
        }


def fresh_seed() -> int:
    """A seed for who names none."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def fit_steps(n_fit_steps: int) -> int:
    """How many steps to fit a posterior by; 0: none."""
    return 0 if n_fit_steps == 0 else whole_number(n_fit_steps, "n_fit_steps")


def require_expression(expression: str) -> None:
    """Raise ``ValueError`` unless it is a kind of expression that cells come in."""
    if expression not in ("counts", "normalized"):
        raise ValueError(f"expression is {expression!r}; use 'counts' or 'normalized'.")
