"""Save a model, and see that what was written can be read."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pyro
import torch

from scgm_scvi._errors import listed
from scgm_scvi._mudata import columns_stay
from scgm_scvi.model.training._diffusion import LatentDiffusionMixin

from . import _tables_in_pickles
from ._pickles import model_file, strange_names

__all__ = ["SavingMixin"]


class SavingMixin(LatentDiffusionMixin):
    """What writes the file that ``LoadingMixin`` reads."""

    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        legacy_mudata_format: bool = False,
        datamodule: Any = None,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Write the model to a folder, for :meth:`load`.

        What is written is looked at before it gets its name: a file that ``load`` would refuse is
        an error here, and an older model stays where it was.

        Parameters
        ----------
        dir_path
            The folder.
        prefix
            Of the names of saved files.
        overwrite
            Write to a folder that exists, in place of files of the same names.
        save_anndata
            Whether to write the cells beside the model.
        save_kwargs
            Passed to :func:`torch.save`.
        legacy_mudata_format, datamodule
            As in :meth:`scvi.model.SCVI.save`.
        **anndata_write_kwargs
            Passed to the writer of the cells.

        Raises
        ------
        FileExistsError
            If ``dir_path`` is a file.
        ValueError
            If it exists, without ``overwrite``; or if cells are to be saved whose counts were
            changed since they were set up, or whose columns say what the model does not know.
        KeyError
            If cells are to be saved that lack a column.
        TypeError
            If the model has an attribute that can't be saved, or not so that :meth:`load` opens
            it; the message names it.

        Examples
        --------
        >>> model.save("model/")  # doctest: +SKIP
        >>> model = SCGM.load("model/", adata)  # doctest: +SKIP
        """
        path = Path(dir_path)
        if path.exists() and not path.is_dir():
            raise FileExistsError(
                f"{str(path)!r} is a file; a model is saved to a folder. Name another, or remove it."
            )
        is_new = not path.exists()
        if not is_new and not overwrite:
            raise ValueError(
                f"{str(path)!r} already exists. Please provide another directory for saving, or "
                "pass overwrite=True."
            )
        if save_anndata and self.adata is not None:
            self._require_unchanged()  # load would refuse them
            self._require_columns()
        path.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=path) as part:
                self._write_checked(
                    part,
                    prefix=prefix,
                    save_anndata=save_anndata,
                    save_kwargs={"pickle_module": _tables_in_pickles, **(save_kwargs or {})},
                    legacy_mudata_format=legacy_mudata_format,
                    datamodule=datamodule,
                    **anndata_write_kwargs,
                )
                for file in Path(part).iterdir():
                    file.replace(path / file.name)
        except BaseException:
            if is_new and not any(path.iterdir()):
                path.rmdir()
            raise

    def _write_checked(
        self, part: str, *, prefix: str | None, save_kwargs: dict[str, Any], **kwargs: Any
    ) -> None:
        """Write to a folder of its own what :meth:`load` opens, or raise."""
        try:
            # scvi-tools adds what Pyro's store holds: parameters of other models, and of none here
            with pyro.get_param_store().scope(), columns_stay():
                super().save(part, prefix=prefix, overwrite=True, save_kwargs=save_kwargs, **kwargs)
            foreign, hidden = strange_names(model_file(part, prefix))
            if foreign or hidden:
                raise ValueError(f"it would hold {listed([*foreign, *hidden])}")
            # maps weights in place of reading them
            torch.load(model_file(part, prefix), "cpu", mmap=True, weights_only=False)
        except Exception as e:
            for name, value in self._get_user_attributes():
                if name.endswith("_") and (why := _why_not(value, Path(part))):
                    raise TypeError(
                        f"The model can't be saved so that load opens it: model.{name} {why}. It "
                        "may hold builtins, arrays of numbers and strings, and pandas tables of "
                        "those: replace it by one of them, or remove it from the model."
                    ) from e
            raise


def _why_not(value: Any, folder: Path) -> str | None:
    """What keeps an attribute from being saved, if anything does."""
    try:
        torch.save(value, folder / "attribute", pickle_module=_tables_in_pickles)
        foreign, _ = strange_names(folder / "attribute")
    except (pickle.PicklingError, AttributeError, RuntimeError, TypeError, ValueError) as e:
        return f"is a {type(value).__name__}, which can't be pickled ({e})"
    return f"holds {listed(foreign)}" if foreign else None
