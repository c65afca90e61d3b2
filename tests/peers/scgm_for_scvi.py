"""A pytest plugin that puts SCGM in SCVI's place, small and quick to train.

Loaded by :mod:`scvi_tools`, into the tests of scvi-tools.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scvi
import scvi.model
from anndata import AnnData
from scvi.data._utils import _assign_adata_uuid

from scgm_scvi import SCGM

_OF_SCVI_ALONE = (
    "batch_embedding_kwargs",
    "batch_representation",
    "deeply_inject_covariates",
    "latent_distribution",
    "log_variational",
    "use_batch_norm",
    "use_layer_norm",
    "use_observed_lib_size",
    "var_activation",
)
"""Arguments that are left out: what SCGM has no such choice in is not what the tests are to find."""


class StandIn(SCGM):
    """SCGM with few weights and steps; not by the name of SCVI, which scvi-tools makes exceptions for.

    Where a long test asks in passing for what SCGM has not, the stand-in asks for what it has
    instead, so that the test goes on.
    """

    _asked_about: tuple[Any, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = {k: v for k, v in kwargs.items() if k not in _OF_SCVI_ALONE}
        small = {"n_hidden": 16, "n_latent": 5, "gene_likelihood": "zinb"}
        denoiser = {"denoiser_kwargs": {"n_hidden": 8, "n_layers": 1}}
        super().__init__(*args, **{**small, **denoiser, **own})

    @classmethod
    def setup_anndata(cls, adata: AnnData, **kwargs: Any) -> None:
        """As SCGM, which wants to be told of values that are not counts."""
        super().setup_anndata(adata, **{"is_count_data": "log1p" not in adata.uns, **kwargs})

    def train(self, *args: Any, **kwargs: Any) -> None:
        """As SCGM, for one epoch where a test does not say, and three steps of stage two."""
        few = {"diffusion_kwargs": {"max_steps": 3, "enable_progress_bar": False}}
        few |= {} if args or "max_steps" in kwargs else {"max_epochs": 1}
        super().train(*args, **{**few, "enable_progress_bar": False, **kwargs})

    def get_latent_library_size(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The sizes observed: there is no distribution whose mean they could be."""
        return super().get_latent_library_size(*args, **{"give_mean": False, **kwargs})

    def view_anndata_setup(self, adata: Any = None, hide_state_registries: bool = False) -> None:
        """As SCGM; nothing of cells that it was asked about, and did not set up by that."""
        if not any(adata is cells for cells in self._asked_about):
            super().view_anndata_setup(adata, hide_state_registries)

    def _stand_in_for(self, adata: Any, *args: Any, **kwargs: Any) -> Any:
        """As SCGM; but cells that it is asked about get an identity, as if they were set up."""
        stand_in = super()._stand_in_for(adata, *args, **kwargs)
        self._asked_about = (*self._asked_about, adata)
        if adata is not self.adata and not adata.is_view:
            _assign_adata_uuid(adata, overwrite=True)
        return stand_in


StandIn.__init__.__signature__ = inspect.signature(SCGM.__init__)  # scvi-tools saves by it
StandIn.__module__ = "scvi.model"
scvi.model.SCVI = StandIn


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Put the number of workers back, which one test sets for all that follow."""
    names = ("dl_num_workers", "dl_persistent_workers")
    before = [getattr(scvi.settings, name) for name in names]
    yield
    for name, value in zip(names, before, strict=True):
        setattr(scvi.settings, name, value)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write what became of each test, and why, where the script looks for it."""
    if report.when != "call" and report.outcome == "passed":
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    why = str(report.longrepr) if crash is None else crash.message
    if report.skipped and isinstance(report.longrepr, tuple):
        why = report.longrepr[-1]  # after file and line
    line = {"test": report.nodeid, "outcome": report.outcome, "why": why[:600]}
    with open(os.environ["SCGM_PEER_OUTCOMES"], "a") as file:
        file.write(json.dumps({**line, "seconds": round(report.duration, 1)}) + "\n")
