"""Loading what was saved, and refusing what would run code."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from helpers import SMALL, make_adata, make_model
from scvi.utils import attrdict

from scgm_scvi import SCGM
from scgm_scvi.model.sharing._pickles import require_harmless


class Payload:
    """Unpickled, it calls a function: what a malicious file does."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def write_pickle(file: Path, data: bytes, name: str = "model/data.pkl") -> None:
    """A file as ``torch.save`` writes it, of opcodes of our choice."""
    file.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
        archive.writestr("model/version", "3\n")


@pytest.fixture
def mark(tmp_path) -> Path:
    """A file that a payload would make."""
    return tmp_path / "was-here"


def refused(folder: Path, mark: Path, match: str) -> None:
    for door in (require_harmless, SCGM.load, SCGM.load_registry):
        with pytest.raises(ValueError, match=match):
            door(folder)
    assert not mark.exists()


class TestHarmless:
    @pytest.mark.parametrize("save_anndata", [True, False])
    def test_own_models(self, tmp_path, save_anndata):
        """With all that a model may keep, and every kind of column that ``var`` may have."""
        adata = make_adata()
        n = adata.n_vars
        adata.var["category"] = pd.Categorical(np.resize(["a", "b"], n))
        adata.var["whole"] = pd.array(np.resize([1, None], n), dtype="Int64")
        if not save_anndata:  # which h5ad has no room for
            adata.var["real"] = pd.array(np.resize([1.5, None], n), dtype="Float32")
        adata.var["flag"] = pd.array(np.resize([True, None], n), dtype="boolean")
        adata.var["text"] = pd.array(np.resize(["a", None], n), dtype="string")
        adata.var["mixed"] = np.resize(np.array(["a", None], dtype=object), n)
        model = make_model(adata, epochs=1, steps=5)
        cheap = {"n_samples": 1, "n_levels": 2, "progress_bar": False}
        model.classify(adata[:5].copy(), "stimulation", **cheap)
        assert model.fitted_["classifier"]["weights"]
        model.fitted_["edit_strengths"] = {"stimulation": np.float64(0.5)}
        model.fitted_["outlier_reference"] = {
            "share": np.ones(3),
            "cells": np.ones((2, 2), np.float32),
        }
        model.notes_ = [attrdict({"a": {"b": 1}}), np.datetime64("2020"), pd.Timestamp("2020"), {1}]
        model.save(tmp_path / "model", save_anndata=save_anndata)
        require_harmless(tmp_path / "model" / "model.pt")
        loaded = SCGM.load(tmp_path / "model", **({} if save_anndata else {"adata": False}))
        assert (loaded.adata is not None) == save_anndata
        pd.testing.assert_frame_equal(loaded.var_, model.var_)
        assert loaded.history.keys() == model.history.keys()
        assert loaded.fitted_["classifier"] == model.fitted_["classifier"]
        registry = SCGM.load_registry(tmp_path / "model")
        assert registry["setup_args"] == model.registry_["setup_args"]

    def test_minified_and_query(self, adata, tmp_path):
        model = make_model(adata, epochs=1, steps=2)
        query = make_adata()[:50].copy()
        SCGM.load_query_data(query, model).save(tmp_path / "query")
        require_harmless(tmp_path / "query")
        adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = model.get_latent_representation(
            return_dist=True
        )
        model.minify_adata()
        model.save(tmp_path / "minified", save_anndata=True)
        assert SCGM.load(tmp_path / "minified").minified_data_type is not None

    def test_with_a_prefix(self, model, tmp_path):
        model.save(tmp_path, prefix="mine_", overwrite=True)
        assert SCGM.load(tmp_path, adata=False, prefix="mine_").is_diffusion_trained
        with pytest.raises(FileNotFoundError, match="no 'model.pt'.*it holds: 'mine_model.pt'"):
            SCGM.load(tmp_path, adata=False)


class TestRefused:
    @pytest.mark.parametrize("function", [os.system, subprocess.check_call, eval, exec, getattr])
    def test_a_payload_beside_real_weights(self, model, tmp_path, mark, function):
        model.save(tmp_path / "model")
        file = tmp_path / "model" / "model.pt"
        saved = torch.load(file, weights_only=False)
        code = {
            os.system: f"touch {mark}",
            subprocess.check_call: ["touch", str(mark)],
            getattr: "a",
        }.get(function, f"open({str(mark)!r}, 'w').close()")
        arguments = (code,) if function is not getattr else (code, "upper")
        saved["attr_dict"]["scgm_version_"] = Payload(function, *arguments)
        torch.save(saved, file)
        refused(tmp_path / "model", mark, f"names what no saved model needs.*{function.__name__}")

    def test_trusted_opens_it(self, model, tmp_path, mark):
        """So the payload is real, and the check is what keeps it from running."""
        model.save(tmp_path / "model")
        file = tmp_path / "model" / "model.pt"
        saved = torch.load(file, weights_only=False)
        saved["attr_dict"]["scgm_version_"] = Payload(os.system, f"touch {mark}")
        torch.save(saved, file)
        SCGM.load(tmp_path / "model", adata=False, trusted=True)
        assert mark.exists()

    @pytest.mark.parametrize("protocol", [3, 4, 5])
    def test_names_from_the_stack(self, tmp_path, mark, protocol):
        """From protocol 4 on, a name may be put together from strings."""
        torch.save(
            Payload(os.system, f"touch {mark}"), tmp_path / "model.pt", pickle_protocol=protocol
        )
        refused(tmp_path, mark, "STACK_GLOBAL" if protocol > 3 else "system")

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            # memo: the two strings of the name come from far apart
            (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94000h\x00h\x01\x93.", "STACK_GLOBAL"),
            # a dotted name, which protocol 4 follows from attribute to attribute
            (b"\x80\x04ctorch\nserialization.os.system\n.", "torch.serialization.os.system"),
            (b"\x80\x04cpandas\nDataFrame.to_pickle\n.", "pandas.DataFrame.to_pickle"),
            # spelled as pickletools, but not as unpickling reads it
            (b"\x80\x02ccollections\nOrdered\\x44ict\n.", "collections.OrderedDict"),
            (b"\x80\x02(S'id'\niposix\nsystem\n.", "'INST'"),
            (b"\x80\x02(cposix\nsystem\nU\x02ido.", "posix.system"),
            (b"\x80\x02\x82\x01.", "'EXT1'"),
            (b"\x80\x02Pid\n.", "'PERSID'"),
            (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
            (b"\x80\x02cbuiltins\ngetattr\n.", "builtins.getattr"),
            (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
            (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes"),
            (b"\x80\x02}", "damaged"),
            (b"\x80\x02X\xff\xff", "damaged"),
            (b"", "damaged"),
        ],
    )
    def test_opcodes(self, tmp_path, mark, data, match):
        write_pickle(tmp_path / "model.pt", data)
        refused(tmp_path, mark, match)

    def test_an_older_format_and_another_program(self, tmp_path, mark):
        bad = Payload(os.system, f"touch {mark}")
        file = tmp_path / "model.pt"
        torch.save(bad, file, _use_new_zipfile_serialization=False)
        refused(tmp_path, mark, "not of the format that torch.save writes")
        file.write_bytes(pickle.dumps(bad))
        refused(tmp_path, mark, "not of the format")
        write_pickle(file, b"\x80\x02}.", name="model/constants.pkl")
        refused(tmp_path, mark, "TorchScript")

    def test_two_faces(self, tmp_path, mark):
        """A harmless archive behind a harmful pickle, and one with two pickles."""
        file = tmp_path / "model.pt"
        torch.save({}, file)
        file.write_bytes(pickle.dumps(Payload(os.system, f"touch {mark}"), 2) + file.read_bytes())
        refused(tmp_path, mark, "not of the format")
        for harmful_first in (True, False):
            bad = pickle.dumps(Payload(os.system, f"touch {mark}"), 2)
            both = [bad, b"\x80\x02}."] if harmful_first else [b"\x80\x02}.", bad]
            with (
                zipfile.ZipFile(file, "w") as archive,
                pytest.warns(UserWarning, match="Duplicate"),
            ):
                for data in both:
                    archive.writestr("model/data.pkl", data)
                archive.writestr("model/version", "3\n")
            with pytest.raises(ValueError, match="posix.system|holds no model"):
                SCGM.load(tmp_path)
            assert not mark.exists()

    def test_a_download(self, tmp_path, monkeypatch):
        url = "https://example.org/model.pt"
        with pytest.raises(ValueError, match="would download a pickle.*trusted=True"):
            SCGM.load(tmp_path, backup_url=url)
        asked = []
        monkeypatch.setattr(
            scvi.model.base._save_load, "_download", lambda url, *_: asked.append(url)
        )
        with pytest.raises(FileNotFoundError, match="holds no 'model.pt'"):
            SCGM.load(tmp_path, backup_url=url, trusted=True)
        assert asked == [url]

    def test_the_old_format_of_scvi(self, tmp_path):
        with pytest.raises(NotImplementedError, match="nothing to convert"):
            SCGM.convert_legacy_save(tmp_path, tmp_path / "new")


class TestErrors:
    def test_no_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
            SCGM.load(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="holds no 'model.pt'.*it holds: none"):
            SCGM.load(tmp_path, trusted=True)
        torch.save(collections.OrderedDict(a=torch.zeros(1)), tmp_path / "model.pt")
        with pytest.raises(ValueError, match="holds no model that SCGM.save wrote"):
            SCGM.load(tmp_path)

    @pytest.mark.parametrize("trusted", [False, True])
    def test_cut_short(self, model, tmp_path, trusted):
        model.save(tmp_path / "model")
        file = tmp_path / "model" / "model.pt"
        file.write_bytes(file.read_bytes()[:-1000])
        match = r"can't be unpickled.*is damaged, or was" if trusted else "is damaged"
        with pytest.raises(ValueError, match=rf"(?s)model\.pt' {match}.*Get it again"):
            SCGM.load(tmp_path / "model", adata=False, trusted=trusted)

    def test_another_class(self, tmp_path):
        adata = make_adata()
        scvi.model.SCVI.setup_anndata(adata)
        scvi.model.SCVI(adata, n_hidden=8, n_latent=2).save(tmp_path / "scvi")
        with pytest.raises(ValueError, match="class 'SCVI', not 'SCGM'. Load it with SCVI.load"):
            SCGM.load(tmp_path / "scvi", adata=False)

    def test_other_data(self, model, tmp_path):
        model.save(tmp_path / "model")
        adata = make_adata()
        del adata.obs["donor"]
        with pytest.raises(KeyError, match="'donor' is not a column"):
            SCGM.load(tmp_path / "model", adata)

    def test_weights_of_another_shape(self, tmp_path):
        adata = make_adata()
        SCGM.setup_anndata(adata)
        model = SCGM(adata, **SMALL)
        model.init_params_["non_kwargs"]["n_latent"] = 13
        model.save(tmp_path / "model")
        with pytest.raises(
            RuntimeError, match=r"saved by scgm_scvi (?s:.*)could not load it.*\n.*size mismatch"
        ):
            SCGM.load(tmp_path / "model", adata=False)
