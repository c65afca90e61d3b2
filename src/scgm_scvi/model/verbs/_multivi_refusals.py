"""What scvi-tools' model of several modalities offers, and one of genes and peaks can't do."""

from __future__ import annotations

from ._refusals import refused

__all__ = ["MultiviRefusalsMixin"]

_MINIFIED = (
    "{name} can't be minified. A model without data generates all the same: save it without its "
    "data, and load it with adata=False."
)


class MultiviRefusalsMixin:
    """Say so, before scvi-tools fails half-way. Comes before :class:`scvi.model.MULTIVI`."""

    get_protein_foreground_probability = refused(
        ", which has no proteins",
        "{name} is a model of genes and peaks, without proteins: use get_normalized_expression or "
        "get_normalized_accessibility.",
    )
    minify_adata = refused(", which needs counts", _MINIFIED)
    minify_mudata = refused(", which needs counts", _MINIFIED)
