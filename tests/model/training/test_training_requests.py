"""Training does what is asked, or says why not before it begins; cut short, it is not done."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import BRIEF, QUIET, SMALL, make_adata, make_mdata, make_model
from lightning.pytorch.callbacks import Callback

from scgm_scvi import SCGM, MultiSCGM


def make_few(n: int) -> SCGM:
    adata = make_adata()[:n].copy()
    adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
    SCGM.setup_anndata(adata, condition_keys=["phase"])
    return SCGM(adata, **SMALL)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_few_cells_train(n):
    model = make_few(n)
    model.train(**BRIEF)
    cells = model.generate(3, progress_bar=False)
    assert np.isfinite(cells.obsm["X_scgm"]).all()


@pytest.mark.filterwarnings("ignore:Category .* fewer than 3 cells")
@pytest.mark.parametrize("n", [1, 2])
def test_fewer_are_refused(n):
    with pytest.raises(ValueError, match=f"{n} cells to train on; at least 3"):
        make_few(n).train(**BRIEF)


@pytest.mark.parametrize(
    "split",
    [
        {"train_size": 1.0},
        {"train_size": 0.9, "validation_size": 0},
        {"datasplitter_kwargs": {"external_indexing": [np.arange(20)]}},
    ],
)
def test_nothing_to_stop_by(split):
    model = make_few(20)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    with pytest.raises(ValueError, match="early_stopping needs held-out cells"):
        model.train(early_stopping=True, **split, **BRIEF)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"max_epoch": 1}, "train takes no 'max_epoch'.*Did you mean 'max_epochs'"),
        ({"early_stoping_patience": 1}, "Did you mean 'early_stopping_patience'"),
        ({"diffusion_kwargs": {"max_step": 1}}, "diffusion_kwargs takes no .*'max_steps'"),
        ({"diffusion_kwargs": {"plan_kwargs": {"lrr": 1}}}, "plan_kwargs takes no 'lrr'.*'lr'"),
    ],
)
def test_unknown_arguments_of_train(kwargs, match):
    model = make_few(20)
    with pytest.raises(TypeError, match=match):
        model.train(**{**BRIEF, **kwargs})
    assert not model.is_trained_
    assert model.history_ is None


def test_unknown_arguments_elsewhere(model, adata):
    with pytest.raises(TypeError, match="train_diffusion takes no 'max_step'.*'max_steps'"):
        model.train_diffusion(max_step=1)
    assert model.is_diffusion_trained
    with pytest.raises(TypeError, match="setup_anndata takes no 'label_key'.*'labels_key'"):
        SCGM.setup_anndata(adata, label_key="cell_type")
    with pytest.raises(TypeError, match="setup_mudata takes no 'label_key'.*'labels_key'"):
        MultiSCGM.setup_mudata(make_mdata(), label_key="cell_type")
    with pytest.raises(TypeError, match="setup_anndata takes no 'label_key'.*'labels_key'"):
        MultiSCGM.setup_anndata(adata, label_key="cell_type")
    assert not any(c.startswith("_scvi") for c in adata.obs)


class CutShort(Callback):
    """An interruption after the second step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 2:
            raise self.error


# what Lightning makes of an interruption from the keyboard is SystemExit
@pytest.mark.parametrize("error", [SystemExit(1), RuntimeError("no memory")])
def test_stage_two_cut_short(adata, error):
    model = make_model(adata, epochs=1, steps=2)
    with pytest.raises(type(error)):
        model.train_diffusion(max_steps=5, callbacks=[CutShort(error)], **QUIET)
    assert not model.is_diffusion_trained
    with pytest.raises(RuntimeError, match="its training was cut short"):
        model.generate(1)
    model.train_diffusion(max_steps=2, **QUIET)
    assert model.is_diffusion_trained


def test_stage_two_not_begun(adata):
    model = make_model(adata, epochs=1, steps=2)
    with pytest.raises(ValueError, match="can't be trained from a data module"):
        model.train_diffusion(datamodule="none")
    assert model.is_diffusion_trained


def test_stage_one_cut_short(adata):
    model = make_model(adata, epochs=1, steps=2)
    with pytest.raises(RuntimeError, match="no memory"):
        model.train(max_epochs=2, callbacks=[CutShort(RuntimeError("no memory"))], **QUIET)
    assert not model.is_trained_
    assert not model.is_diffusion_trained
    with pytest.raises(RuntimeError, match="stage one changed"):
        model.generate(1)
    with pytest.raises(RuntimeError, match="Stage one is not trained"):
        model.train_diffusion()
