"""Models as files that can be opened without trusting who made them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from anndata import AnnData
from safetensors import SafetensorError

from scgm_scvi._errors import listed
from scgm_scvi._whole import written_whole
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

from ._codec import Encoder, decode

__all__ = ["ExportMixin"]

_WEIGHTS, _JSON = "model.safetensors", "model.json"
_FORMAT, _FORMAT_VERSION = "scgm_scvi export", 1
_MODULE = "module."  # what weights are called, before the name that the module knows them by
_ATTRIBUTE = re.compile(r"[A-Za-z]\w*(?<!_)_")
_SETUPS = ("setup_anndata", "setup_mudata")


class ExportMixin(LatentDiffusionMixin):
    """Export to safetensors and JSON, and load that; knows nothing of what the features are."""

    def export(
        self, path: str | os.PathLike, *, format: str = "safetensors", overwrite: bool = False
    ) -> None:
        """Write the model to files that hold no code, to be shared.

        A folder with ``model.safetensors`` (weights, and the arrays among the model's attributes)
        and ``model.json`` (all else that :meth:`save` keeps: registry, parameters, history, names
        of features, versions, and checksums). It holds no cells.

        Parameters
        ----------
        path
            The folder. It appears when it is complete.
        format
            ``"safetensors"``.
        overwrite
            Replace an earlier export.

        Raises
        ------
        ValueError
            If the format is unknown, or the model was set up by a data module.
        FileExistsError, FileNotFoundError
            If ``path`` exists, or the folder that it is to be in does not.
        TypeError
            If an attribute of the model can't be held; the message names it.

        Examples
        --------
        >>> model.export("shared/")  # doctest: +SKIP
        >>> model = SCGM.from_export("shared/")  # doctest: +SKIP

        References
        ----------
        https://github.com/huggingface/safetensors
        """
        if format != "safetensors":
            raise ValueError(f"format is {format!r}; the one that exports have is 'safetensors'.")
        path = _free_place(Path(path), overwrite)
        document, tensors = self._document()
        with written_whole(path) as part:
            part.mkdir()
            safetensors.torch.save_file(tensors, part / _WEIGHTS, metadata={"format": "pt"})
            document["sha256"] = {_WEIGHTS: _hash_of_file(part / _WEIGHTS), _JSON: _hash(document)}
            (part / _JSON).write_text(_json(document, indent=1) + "\n", encoding="utf-8")
            (part / _WEIGHTS).chmod((part / _JSON).stat().st_mode)  # safetensors': the owner's only

    def _document(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What goes to the JSON file, and the tensors that go to the other."""
        attributes = {  # as scvi-tools' save chooses them
            name: value
            for name, value in inspect.getmembers(self, lambda v: not inspect.isroutine(v))
            if _ATTRIBUTE.fullmatch(name)
        }
        method = attributes["registry_"].get("setup_method_name", _SETUPS[0])
        if method not in _SETUPS:
            raise ValueError(
                f"The model was set up by {method}, which an export can't do again. Use save."
            )
        encoder, content = Encoder(), {}
        content["var_names"] = encoder.encode(self.get_var_names(), "var_names")
        for name, value in attributes.items():
            try:
                content[name] = encoder.encode(value, name)
            except RecursionError:
                raise TypeError(f"{name} is nested too deeply, or holds itself.") from None
        weights = {}
        for name, value in self.module.state_dict().items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"The weight {name!r} is a {type(value).__name__}, no tensor.")
            weights[_MODULE + name] = value.detach().cpu().contiguous().clone()
        document = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "class_name": type(self).__name__,
            "versions": {name: version(name) for name in ("scgm_scvi", "scvi-tools", "torch")},
            "var_names": content.pop("var_names"),
            "registry": content.pop("registry_"),
            "init_params": content.pop("init_params_"),
            "attributes": content,
        }
        return document, {**weights, **encoder.tensors}

    @classmethod
    def from_export(
        cls,
        path: str | os.PathLike,
        adata: AnnData | None = None,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """The model that :meth:`export` wrote. Nothing in the files can run.

        Parameters
        ----------
        path
            Folder that :meth:`export` wrote.
        adata
            Cells to load the model with, organised like those it was trained on. Default: none; it
            can generate.
        accelerator, device
            As in :meth:`load`.

        Raises
        ------
        FileNotFoundError
            If the folder, or a file in it, is missing.
        ValueError
            If a file is damaged or was changed, the export is of another format, or holds a model
            of another class.
        RuntimeError
            If it was written by a version of scgm_scvi whose models differ.

        Examples
        --------
        >>> model = SCGM.from_export("shared/")  # doctest: +SKIP
        >>> cells = model.generate(100, {"cell_type": "B"})  # doctest: +SKIP
        """
        path = Path(path)
        document, tensors = _read(path, cls.__name__)
        try:
            saved = _saved(document, tensors)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
            raise ValueError(f"{str(path / _JSON)!r} holds what no export does: {e}.") from e
        # scvi-tools builds models from the file that save writes: made here, so it is to be trusted
        with tempfile.TemporaryDirectory() as folder:
            torch.save(saved, Path(folder) / "model.pt")
            try:
                return cls.load(
                    folder,
                    adata=False if adata is None else adata,
                    accelerator=accelerator,
                    device=device,
                    trusted=True,
                )
            except RuntimeError as e:
                raise RuntimeError(
                    f"{str(path)!r} was exported by scgm_scvi "
                    f"{document['versions'].get('scgm_scvi', 'unknown')}; this is "
                    f"{version('scgm_scvi')}, and could not load it: {e.__cause__ or e}"
                ) from e


def _free_place(path: Path, overwrite: bool) -> Path:
    """``path`` if an export can be written there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.parent)!r} does not exist.")
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"{str(path)!r} exists already. Pass overwrite=True, or another.")
        others = sorted(p.name for p in path.iterdir()) if path.is_dir() else [path.name]
        others = [name for name in others if name not in (_WEIGHTS, _JSON)]
        if others:
            raise FileExistsError(
                f"{str(path)!r} is more than an export, and is not overwritten: {listed(others)}."
            )
    return path


def _read(path: Path, class_name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Both files of an export, checked."""
    for file in (path / _JSON, path / _WEIGHTS):
        if file.is_file():
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"{str(path)!r} is no folder: there is no export.")
        if any(path.glob("*model.pt")):
            raise FileNotFoundError(
                f"{str(path)!r} holds a saved model, no export: a pickle, and a pickle can run code "
                f"when it is opened. If you trust where it comes from: {class_name}.load({str(path)!r})."
            )
        raise FileNotFoundError(f"{str(path)!r} has no {file.name!r}. Get the export again.")
    file = path / _JSON
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{str(file)!r} is damaged ({e}). Get it again.") from e
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"{str(file)!r} is no export of scgm_scvi.")
    if document.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{str(file)!r} has version {document.get('format_version')!r} of the format; "
            f"scgm_scvi {version('scgm_scvi')} reads version {_FORMAT_VERSION}. Install the version "
            f"of scgm_scvi that wrote it, or a newer one."
        )
    sums = document.pop("sha256", None)
    if not isinstance(sums, dict):
        raise ValueError(f"{str(file)!r} has no checksums. Get it again.")
    for name, found in ((_JSON, _hash(document)), (_WEIGHTS, _hash_of_file(path / _WEIGHTS))):
        if sums.get(name) != found:
            raise ValueError(
                f"{str(path / name)!r} is damaged or was changed: its checksum is not the one that "
                "was written with it. Get the export again."
            )
    if document.get("class_name") != class_name:
        raise ValueError(
            f"{str(path)!r} is the export of a {document.get('class_name')}, not of a {class_name}: "
            f"use {document.get('class_name')}.from_export."
        )
    try:
        return document, safetensors.torch.load_file(path / _WEIGHTS)
    except SafetensorError as e:
        raise ValueError(f"{str(path / _WEIGHTS)!r} is damaged ({e}). Get it again.") from e


def _saved(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The dictionary that scvi-tools' ``save`` writes."""
    parts = {
        "registry_": document["registry"],
        "init_params_": document["init_params"],
        **document["attributes"],
    }
    strange = [name for name in parts if not _ATTRIBUTE.fullmatch(name)]
    if strange:
        raise ValueError(f"{listed(strange)} are no attributes of a model")
    attributes = {name: decode(value, tensors) for name, value in parts.items()}
    method = attributes["registry_"].get("setup_method_name", _SETUPS[0])
    if method not in _SETUPS:  # scvi-tools calls the method of this name
        raise ValueError(f"its set-up is {method!r}")
    weights = {k: v for k, v in tensors.items() if k.startswith(_MODULE)}
    return {
        "model_state_dict": {k.removeprefix(_MODULE): v for k, v in weights.items()},
        "var_names": decode(document["var_names"], tensors),
        "attr_dict": attributes,
    }


def _json(document: dict[str, Any], **kwargs: Any) -> str:
    return json.dumps(document, allow_nan=False, **kwargs)


def _hash(document: dict[str, Any]) -> str:
    """Of the content, however the text is laid out."""
    return hashlib.sha256(_json(document, separators=(",", ":")).encode()).hexdigest()


def _hash_of_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
