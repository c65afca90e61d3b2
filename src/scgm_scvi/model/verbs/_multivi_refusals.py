"""What scvi-tools' model of several modalities offers, and one of genes and peaks can't do."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["MultiviRefusalsMixin"]


class MultiviRefusalsMixin:
    """Say so, before scvi-tools fails half-way. Comes before :class:`scvi.model.MULTIVI`."""

    def get_protein_foreground_probability(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, which has no proteins.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a model of genes and peaks, without proteins: use "
            "get_normalized_expression or get_normalized_accessibility."
        )

    def minify_adata(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, which needs counts.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse_to_minify()

    def minify_mudata(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of this model, which needs counts.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self._refuse_to_minify()

    def _refuse_to_minify(self) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} can't be minified. A model without data generates all the same: "
            "save it without its data, and load it with adata=False."
        )
