"""Load a saved model, and look into its file before that."""

from __future__ import annotations

import os
import pickle
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from anndata import AnnData
from mudata import MuData

from scgm_scvi._mudata import columns_stay
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

from ._pickles import model_file, require_harmless

__all__ = ["LoadingMixin"]


class LoadingMixin(LatentDiffusionMixin):
    """What unpickles, and refuses to where it is not asked to trust a file."""

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: Any = None,
        allowed_classes_names_list: list[str] | None = None,
        *,
        trusted: bool = False,
    ) -> Self:
        """Load a model that :meth:`save` wrote.

        The file is a pickle, and a pickle can run code when it is opened. Before that, this looks
        at what the file would import, and refuses more than saved models hold.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote.
        adata
            Cells to load it with. Default: those saved with it. ``False``: none; the model can
            generate. With others than it was trained on, it forgets which cells were held out.
        accelerator, device
            As in :meth:`scvi.model.SCVI.load`.
        prefix
            Of the names of saved files.
        backup_url
            Where to download the file from if the folder lacks it; needs ``trusted=True``.
        datamodule
            Not here: pass it to :meth:`train`.
        allowed_classes_names_list
            As in :meth:`scvi.model.SCVI.load`.
        trusted
            Open the file whatever it would import. Only for one whose maker you trust.

        Returns
        -------
        The model, of the class that was saved: ``SCGM``, or what ``SCGM.from_scvi_model`` made.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        TypeError
            If ``adata`` holds no cells.
        ValueError
            If the file is damaged, would import more than saved models hold, or holds a model of
            another class; if cells can't be the model's, or those saved beside it are of another.
        RuntimeError
            If it was written by a version of scgm_scvi whose models differ.

        See Also
        --------
        from_export : Load a model that someone else made.

        Examples
        --------
        >>> model.save("model/")  # doctest: +SKIP
        >>> model = SCGM.load("model/", adata)  # doctest: +SKIP
        >>> model = SCGM.load("model/", adata=False)  # without data  # doctest: +SKIP
        """
        if datamodule is not None:
            raise ValueError(
                "A model is loaded without its data module, which is wanted for training alone: "
                f"{cls.__name__}.load(path, adata=False).train(datamodule=...)."
            )
        if backup_url is not None and not trusted:
            raise ValueError(
                f"backup_url={backup_url!r} would download a pickle, which can run code when it is "
                "opened. If you trust it, pass trusted=True; or ask for the model as an export "
                "(SCGM.from_export)."
            )
        if not (adata is None or adata is False or isinstance(adata, AnnData | MuData)):
            raise TypeError(
                f"adata is a {type(adata).__name__}; pass cells, as an AnnData, or adata=False for "
                "the model alone. Those saved with the model, if any, are read without adata."
            )
        if not trusted:
            require_harmless(dir_path, prefix)
        elif backup_url is None:
            model_file(dir_path, prefix)
        try:
            with columns_stay(), warnings.catch_warnings():
                # scvi-tools 1.4 asks a MuData for its modalities in the old way
                warnings.filterwarnings("ignore", "The method mod_names is deprecated")
                model = super().load(
                    str(dir_path),
                    adata=adata,
                    accelerator=accelerator,
                    device=device,
                    prefix=prefix,
                    backup_url=backup_url,
                    allowed_classes_names_list=allowed_classes_names_list,
                )
            model._hold_features()
        except (RuntimeError, TypeError, AttributeError, LookupError, ValueError) as e:
            kind = cls._kin().get(_saved_class(model_file(dir_path, prefix)))
            if kind is not None:
                options = {"accelerator": accelerator, "device": device, "prefix": prefix}
                return kind.load(dir_path, adata, **options, trusted=trusted)
            file = model_file(dir_path, prefix)
            _explain(e, cls.__name__, file, allowed_classes_names_list, adata)
            raise
        if model.adata is not None:
            saved = model.adata_manager._source_registry
            if model._forget_split_of_others(saved) and adata is None:
                raise ValueError(
                    f"The cells in {str(dir_path)!r} are not those of the model there, which was "
                    "saved later, without its own. Pass them, or adata=False for the model alone; "
                    "to save both: model.save(path, overwrite=True, save_anndata=True)."
                )
        return model

    @classmethod
    def _kin(cls) -> dict[str, type[Any]]:
        """Other classes that :meth:`load` gives back if such a model was saved."""
        return {}

    @staticmethod
    def load_registry(
        dir_path: str | os.PathLike, prefix: str | None = None, *, trusted: bool = False
    ) -> dict:
        """The registry saved with a model: what of an AnnData it was set up with.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote.
        prefix
            Of the names of saved files.
        trusted
            As in :meth:`load`.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`load` does.
        """
        if not trusted:
            require_harmless(dir_path, prefix)
        file = model_file(dir_path, prefix)
        return torch.load(file, map_location="cpu", weights_only=False)["attr_dict"]["registry_"]

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Not for these models: no version of scgm_scvi wrote scvi-tools' old format."""
        raise NotImplementedError(
            f"{cls.__name__} was never saved in the format of scvi-tools before 0.15, so there is "
            "nothing to convert. Load a saved model with load."
        )


def _saved_class(file: Path) -> str:
    """Class of the model in a file; empty where it does not tell."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=False)
        return saved["attr_dict"]["registry_"].get("model_name", "")
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, LookupError, AttributeError):
        return ""


def _explain(
    error: Exception, name: str, file: Path, allowed: list[str] | None, adata: Any
) -> None:
    """Raise what is behind an error of scvi-tools, if what was saved tells."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise ValueError(
            f"{str(file)!r} can't be unpickled: {error}. It is damaged, or was written with newer "
            f"versions of pandas or numpy. Get it again, or as an export ({name}.export), which "
            "moves between versions."
        ) from error
    attributes = saved.get("attr_dict") if isinstance(saved, dict) else None
    if not isinstance(attributes, dict) or "registry_" not in attributes:
        raise ValueError(f"{str(file)!r} holds no model that {name}.save wrote.") from error
    saved_name = attributes["registry_"].get("model_name", name)
    if saved_name != name and saved_name not in (allowed or []):
        raise ValueError(
            f"{str(file)!r} holds a model of class {saved_name!r}, not {name!r}. "
            f"Load it with {saved_name}.load."
        ) from error
    of_mudata = attributes["registry_"].get("setup_method_name") == "setup_mudata"
    if isinstance(adata, AnnData | MuData) and isinstance(adata, MuData) != of_mudata:
        raise TypeError(
            f"adata is a {type(adata).__name__}, and {str(file)!r} holds a model that was set up "
            f"with {'a MuData' if of_mudata else 'an AnnData'}. Pass such, or adata=False for the "
            "model alone, which reads other cells all the same."
        ) from error
    if isinstance(error, RuntimeError | TypeError | AttributeError):
        raise RuntimeError(
            f"{str(file)!r} was saved by scgm_scvi {attributes.get('scgm_version_', 'unknown')}; "
            f"this is {version('scgm_scvi')}, and could not load it: {error}"
        ) from error
