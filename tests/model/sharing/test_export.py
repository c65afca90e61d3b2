"""Exports: the same model out of files that hold no code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from helpers import QUIET, SMALL, make_adata, make_model

from scgm_scvi import SCGM
from scgm_scvi.model.sharing import _export

REQUEST = {"conditions": {"cell_type": "CD34+"}, "guidance_scale": 1.5, "seed": 5}


@pytest.fixture
def exported(model, tmp_path) -> Path:
    model.export(tmp_path / "export")
    return tmp_path / "export"


def same_cells(a: SCGM, b: SCGM) -> bool:
    a, b = (m.generate(20, **REQUEST, progress_bar=False) for m in (a, b))
    assert a.obs.equals(b.obs)
    assert a.uns["scgm"]["model"] == b.uns["scgm"]["model"]
    return (a.X != b.X).nnz == 0 and np.array_equal(a.obsm["X_scgm"], b.obsm["X_scgm"])


def edit_document(folder: Path, change, *, sign: bool = True) -> None:
    """Change the JSON file, with or without new checksums."""
    file = folder / "model.json"
    document = json.loads(file.read_text())
    change(document)
    if sign:
        sums = document.pop("sha256")
        sums["model.json"] = _export._hash(document)
        document["sha256"] = sums
    file.write_text(json.dumps(document))


class TestRoundTrip:
    def test_same_cells(self, model, exported):
        assert sorted(p.name for p in exported.iterdir()) == ["model.json", "model.safetensors"]
        assert len({p.stat().st_mode for p in exported.iterdir()}) == 1
        loaded = SCGM.from_export(exported)
        assert loaded.adata is None
        assert same_cells(loaded, model)

    def test_in_a_fresh_process(self, model, exported):
        script = (
            "import sys, scgm_scvi, torch\n"
            f"torch.set_num_threads({torch.get_num_threads()})\n"
            "m = scgm_scvi.SCGM.from_export(sys.argv[1] + '/export')\n"
            f"c = m.generate(20, **{REQUEST!r}, progress_bar=False)\n"
            "c.write_h5ad(sys.argv[1] + '/cells.h5ad')\n"
        )
        folder = str(exported.parent)
        subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True)
        cells, want = (
            ad.read_h5ad(exported.parent / "cells.h5ad"),
            model.generate(20, **REQUEST, progress_bar=False),
        )
        assert (cells.X != want.X).nnz == 0
        np.testing.assert_array_equal(cells.obsm["X_scgm"], want.obsm["X_scgm"])

    def test_with_data(self, model, exported):
        loaded = SCGM.from_export(exported, make_adata())
        np.testing.assert_allclose(
            loaded.get_latent_representation(), model.adata.obsm["X_scgm"], rtol=1e-5, atol=1e-6
        )
        adata = make_adata()
        del adata.obs["donor"]
        with pytest.raises(KeyError, match="'donor' is not a column"):
            SCGM.from_export(exported, adata)

    def test_what_a_model_keeps(self, tmp_path):
        """All that save keeps, though not the way it keeps it."""
        adata = make_adata()
        adata.var["category"] = pd.Categorical(np.resize(["a", "b"], adata.n_vars))
        adata.var["whole"] = pd.array(np.resize([1, None], adata.n_vars), dtype="Int64")
        model = make_model(adata, epochs=1, steps=5)
        cheap = {"n_samples": 1, "n_levels": 2, "progress_bar": False}
        model.classify(adata[:5].copy(), "stimulation", **cheap)
        model.fitted_["edit_strengths"] = {"stimulation": 0.5}
        model.fitted_["outlier_reference"] = {
            "seed": 0,
            "axes": np.eye(3, dtype=np.float32),
            "unit": 0.1,
        }
        model.save(tmp_path / "saved")
        model.export(tmp_path / "export")
        saved = SCGM.load(tmp_path / "saved", adata=False)
        loaded = SCGM.from_export(tmp_path / "export")
        names = {n for n, _ in model._get_user_attributes() if n.endswith("_")}
        assert {"history_", "registry_", "init_params_", "fitted_"} <= names
        for name in sorted(names - {"var_", "history_", "fitted_"}):
            a, b = getattr(loaded, name), getattr(saved, name)
            np.testing.assert_equal(a, b, err_msg=name)
            assert type(a) is type(b)
        pd.testing.assert_frame_equal(loaded.var_, model.var_)
        for key, table in model.history.items():
            pd.testing.assert_frame_equal(loaded.history[key], table)
        assert loaded.get_var_names().tolist() == model.get_var_names().tolist()
        weights = loaded.module.state_dict()
        for key, value in model.module.state_dict().items():
            assert torch.equal(weights[key], value)
            assert weights[key].dtype == value.dtype
        # and a second generation of both
        loaded.save(tmp_path / "again")
        assert same_cells(SCGM.load(tmp_path / "again", adata=False), model)
        loaded.export(tmp_path / "export2")
        assert same_cells(SCGM.from_export(tmp_path / "export2"), model)

    def test_minified_and_log_normalised(self, adata, tmp_path):
        model = make_model(adata, epochs=1, steps=5)
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = model.get_latent_representation(
            return_dist=True
        )
        model.minify_adata()
        model.export(tmp_path / "minified")
        assert same_cells(SCGM.from_export(tmp_path / "minified"), model)
        other = make_adata()
        other.X.data = np.log1p(other.X.data)
        SCGM.setup_anndata(other, labels_key="cell_type", is_count_data=False)
        model = SCGM(other, gene_likelihood="normal", **SMALL)
        model.train(max_epochs=1, diffusion_kwargs={"max_steps": 5, **QUIET}, **QUIET)
        model.export(tmp_path / "normal")
        assert same_cells(SCGM.from_export(tmp_path / "normal"), model)

    def test_untrained(self, adata, tmp_path):
        SCGM.setup_anndata(adata)
        SCGM(adata, **SMALL).export(tmp_path / "export")
        with pytest.raises(RuntimeError, match="Stage two is not trained"):
            SCGM.from_export(tmp_path / "export").generate(1)

    def test_nothing_is_unpickled(self, exported, monkeypatch):
        """The files themselves are JSON and safetensors, which hold no pickle."""
        json.loads((exported / "model.json").read_text())
        weights = safetensors.torch.load_file(exported / "model.safetensors")
        assert any(k.startswith("module.denoiser.") for k in weights)
        assert "fitted_['design']['tokens']" in weights


class TestWriting:
    def test_another_format(self, model, tmp_path):
        with pytest.raises(ValueError, match="format is 'onnx'.*'safetensors'"):
            model.export(tmp_path / "export", format="onnx")
        assert not list(tmp_path.iterdir())

    def test_overwrite(self, model, exported):
        with pytest.raises(FileExistsError, match="exists already. Pass overwrite=True"):
            model.export(exported)
        (exported / "model.json").write_text("broken")
        model.export(exported, overwrite=True)
        assert same_cells(SCGM.from_export(exported), model)
        (exported / "notes.txt").touch()
        with pytest.raises(FileExistsError, match="more than an export.*'notes.txt'"):
            model.export(exported, overwrite=True)
        assert [p.name for p in exported.parent.iterdir()] == ["export"]
        with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
            model.export(exported / "nowhere" / "export")

    def test_an_attribute_that_can_t_be_held(self, adata, tmp_path):
        SCGM.setup_anndata(adata)
        model = SCGM(adata, **SMALL)
        model.hook_ = {"a": [print]}
        with pytest.raises(TypeError, match=r"^hook_\['a'\]\[0\] is a builtins.builtin_function"):
            model.export(tmp_path / "export")
        model.hook_ = []
        model.hook_.append(model.hook_)
        with pytest.raises(TypeError, match="hook_ is nested too deeply, or holds itself"):
            model.export(tmp_path / "export")
        del model.hook_
        adata.var["when"] = pd.date_range("2020", periods=adata.n_vars, tz="UTC")
        model.var_ = adata.var
        with pytest.raises(TypeError, match=r"^var_\['when'\] is a .*datetime64\[.*, UTC\]"):
            model.export(tmp_path / "export")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_failure_leaves_things_as_they_were(self, model, tmp_path, monkeypatch, overwrite):
        if overwrite:
            model.export(tmp_path / "export")

        def full(*_, **__):
            raise OSError("No space left on device")

        monkeypatch.setattr(_export, "_hash_of_file", full)
        with pytest.raises(OSError, match="No space left"):
            model.export(tmp_path / "export", overwrite=overwrite)
        monkeypatch.undo()
        if overwrite:
            assert SCGM.from_export(tmp_path / "export").is_diffusion_trained
        assert len(list(tmp_path.iterdir())) == int(overwrite)


class TestReading:
    def test_missing(self, model, exported):
        with pytest.raises(FileNotFoundError, match="nowhere' is no folder"):
            SCGM.from_export(exported / "nowhere")
        (exported / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="has no 'model.safetensors'. Get the export"):
            SCGM.from_export(exported)
        model.save(exported.parent / "saved")
        with pytest.raises(
            FileNotFoundError, match=r"a pickle can run code when it is opened.*SCGM\.load\("
        ):
            SCGM.from_export(exported.parent / "saved")

    def test_the_other_door_says_so(self, exported):
        with pytest.raises(FileNotFoundError, match="holds an export.*SCGM.from_export"):
            SCGM.load(exported)

    @pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
    def test_cut_short(self, exported, name):
        file = exported / name
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ValueError, match=f"{name}' is damaged.*Get "):
            SCGM.from_export(exported)

    def test_a_changed_byte(self, exported):
        file = exported / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match="model.safetensors' is damaged or was changed"):
            SCGM.from_export(exported)

    def test_a_changed_value(self, exported):
        def change(document):
            document["init_params"]["non_kwargs"]["n_latent"] += 1

        edit_document(exported, change, sign=False)
        with pytest.raises(ValueError, match="model.json' is damaged or was changed"):
            SCGM.from_export(exported)
        edit_document(exported, change)  # what fits the checksums, but not the weights
        with pytest.raises(RuntimeError, match="exported by scgm_scvi .*could not load it"):
            SCGM.from_export(exported)

    def test_laid_out_in_another_way(self, model, exported):
        edit_document(exported, lambda document: None, sign=False)
        assert same_cells(SCGM.from_export(exported), model)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda d: d.update(format_version=2), "version 2 of the format; .* reads version 1"),
            (lambda d: d.update(format="other"), "is no export of scgm_scvi"),
            (lambda d: d.update(class_name="SCVI"), "export of a SCVI, not of a SCGM"),
            (lambda d: d.pop("attributes"), "holds what no export does: 'attributes'"),
            (lambda d: d["attributes"].update(train=1), "'train' are no attributes"),
            (lambda d: d["attributes"].update(__class__=1), "'__class__' are no attributes"),
            (lambda d: d["attributes"].update(a_={"$": "eval"}), "'eval' is not a kind of value"),
            (
                lambda d: d["registry"].update(setup_method_name="convert_legacy_save"),
                "its set-up is 'convert_legacy_save'",
            ),
        ],
    )
    def test_what_no_export_holds(self, exported, change, match):
        edit_document(exported, change)
        with pytest.raises(ValueError, match=match):
            SCGM.from_export(exported)
