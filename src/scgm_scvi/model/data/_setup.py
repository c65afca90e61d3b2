"""What in an AnnData a model learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._utils import _get_adata_minify_type
from scvi.data.fields import (
    BaseAnnDataField,
    CategoricalJointObsField,
    CategoricalObsField,
    NumericalObsField,
)

from scgm_scvi._errors import require_keywords
from scgm_scvi._perturbed import check_perturbations, name_perturbations
from scgm_scvi.model.requests._kinds import KINDS, further_arguments
from scgm_scvi.model.requests._spec import ConditionSpec
from scgm_scvi.module import SCGM_KEYS

from ._columns import check_columns, check_kinds
from ._fields import ConditionsField, LabelsField, MatrixField
from ._nuisances import check_nuisances
from ._number_fields import ConditionValuesField, NumbersField
from ._registration import RegistrationMixin
from ._validation import validate_adata, validate_keys, validate_matrix, validate_specified

__all__ = ["SetupMixin", "check_keywords", "named_columns", "require_kinds", "take_further"]

_TRANSFER = ("source_registry", "extend_categories", "allow_missing_labels")  # of scvi-tools


class SetupMixin(RegistrationMixin):
    """Register an AnnData of counts."""

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        condition_keys: Sequence[str] | None = None,
        continuous_condition_keys: Sequence[str] | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        is_count_data: bool = True,
        unlabeled_category: str | None = None,
        perturbation_key: str | None = None,
        control: str | None = None,
        perturbation_separator: str = "+",
        dose_key: str | None = None,
        condition_embeddings: Mapping[str, pd.DataFrame] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what in ``adata`` a model learns from.

        All input is checked before anything is written to ``adata``.

        Parameters
        ----------
        adata
            Cells by features, in memory and no view.
        layer
            Layer with raw counts; default ``adata.X``.
        batch_key, categorical_covariate_keys, continuous_covariate_keys
            Columns of ``obs`` with nuisances: removed from the latent, given to the decoder.
        labels_key
            Column with cell types. Missing values are "unspecified".
        condition_keys
            Columns with further categorical attributes to steer by. Missing values are
            "unspecified".
        continuous_condition_keys
            Columns with numeric attributes to steer by (dose, age, time). NaN is "unspecified".
        size_factor_key
            Column with size factors, used in place of the library size.
        is_count_data
            ``False`` for log-normalised values, with ``gene_likelihood="normal"``.
        unlabeled_category
            Value of ``labels_key`` that means "unspecified", as missing values do.
        perturbation_key
            Column with what was done to a cell, a further condition: names of genes, drugs and the
            like, or sets of them, ``"A+B"``. With it :meth:`predict` answers for what was never
            done.
        control
            Its value for control cells.
        perturbation_separator
            What stands between the parts of a set.
        dose_key
            Column with the dose of the perturbation, a further continuous condition; zero is the
            control.
        condition_embeddings
            Vectors that describe perturbations, such as embeddings of genes or fingerprints of
            drugs, and contexts: a dict of a condition's name to a DataFrame with a row a value. What
            has a vector can be asked for though no cell had it.
        **kwargs
            Of scvi-tools, when it transfers a set-up to other data.

        Raises
        ------
        TypeError, ValueError, KeyError
            If data or keys can't be used; the message says which, where, and what to do.

        Examples
        --------
        >>> import scgm_scvi
        >>> adata = scgm_scvi.datasets.pbmc68k()
        >>> scgm_scvi.SCGM.setup_anndata(adata, labels_key="cell_type", condition_keys=["phase"])
        """
        check_keywords(kwargs, cls.setup_anndata)
        setup_method_args = cls._get_setup_method_args(**locals())
        setup_method_args["setup_args"] |= take_further(kwargs)
        name_perturbations(setup_method_args["setup_args"])
        minify_type = _get_adata_minify_type(adata) if isinstance(adata, AnnData) else None
        transferred = kwargs.get("source_registry") is not None
        validate_adata(adata)
        attributes = cls._attribute_fields(adata, setup_method_args["setup_args"], kwargs)
        if minify_type is None:
            validate_matrix(adata, layer, is_count_data, check_features=not transferred)
        fields = [
            MatrixField(REGISTRY_KEYS.X_KEY, layer, is_count_data=is_count_data),
            *attributes,
        ]
        if minify_type is not None:
            fields += cls._get_fields_for_adata_minification(minify_type)
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_annbatch(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of these models: scvi-tools' set-up of collections on disk knows no conditions.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{cls.__name__} trains from disk through scgm_scvi.atlas.AtlasDataModule: "
            f"{cls.__name__}(registry=dm.registry).train(datamodule=dm)."
        )

    @classmethod
    def _attribute_fields(
        cls,
        adata: AnnData,
        setup_args: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        name: str = "adata",
    ) -> list[BaseAnnDataField]:
        """Fields of all that is said of cells in ``obs``, checked.

        Parameters
        ----------
        setup_args
            Arguments of the set-up.
        kwargs
            Those of scvi-tools.
        name
            What messages call ``adata``.
        """
        lists = {
            argument: as_list(setup_args.get(argument), argument)
            for argument in (
                "condition_keys",
                "continuous_condition_keys",
                "categorical_covariate_keys",
                "continuous_covariate_keys",
            )
        }
        single = ("batch_key", "labels_key", "size_factor_key")
        batch_key, labels_key, size_factor_key = (setup_args.get(argument) for argument in single)
        unlabeled_category = setup_args.get("unlabeled_category")
        labels = [labels_key] if labels_key else []
        keys = {
            "batch_key": [batch_key],
            "labels_key": labels,
            "size_factor_key": [size_factor_key],
            **lists,
            **{a: list(conditions_of(setup_args.get(a), a)) for a in further_arguments()},
        }
        source = kwargs.get("source_registry")
        known = {}
        if kwargs.get("extend_categories"):  # a query may lack conditions: unspecified
            del keys["labels_key"], keys["condition_keys"]
            spec = ConditionSpec.from_registry(kwargs["source_registry"])
            check_kinds(adata.obs, {**spec.nuisances, **spec.categorical}, name)
        elif source is not None:
            known = ConditionSpec.from_registry(source).nuisances
        conditions = {
            key: (kind, told)
            for kind, entry in KINDS.items()
            for key, told in conditions_of(setup_args.get(entry.argument), entry.argument).items()
        }
        if source is not None:  # in the model's order, whatever that of KINDS is here
            own = [key for key in ConditionSpec.from_registry(source).numeric if key in conditions]
            conditions = {key: conditions[key] for key in own} | conditions
        numeric = ("continuous_condition_keys", "size_factor_key", "continuous_covariate_keys")
        check_columns(adata.obs, keys, numeric, name, check_names=source is None)
        validate_keys(adata, keys, numeric, name)
        if source is None:
            validate_specified(adata.obs, keys, name, further_arguments())
        check_nuisances(adata.obs, keys, known, name)
        check_perturbations(adata.obs, setup_args, name, is_first=source is None)
        values = ConditionValuesField(SCGM_KEYS.CONDITION_VALUES_KEY, conditions)
        values.check(adata.obs, source)
        further = cls._further_fields(labels_key, unlabeled_category)
        if unlabeled_category is not None and labels_key is None:
            raise ValueError(
                f"unlabeled_category is {unlabeled_category!r}, but there is no labels_key whose "
                "value it could be."
            )
        return [
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False),
            CategoricalJointObsField(
                REGISTRY_KEYS.CAT_COVS_KEY, setup_args.get("categorical_covariate_keys")
            ),
            NumbersField(REGISTRY_KEYS.CONT_COVS_KEY, setup_args.get("continuous_covariate_keys")),
            *further,
            ConditionsField(
                SCGM_KEYS.CONDITIONS_KEY,
                [*labels, *lists["condition_keys"]],
                {key: unlabeled_category for key in labels if unlabeled_category is not None},
            ),
            values,
        ]

    @classmethod
    def _further_fields(
        cls, labels_key: str | None, unlabeled_category: str | None
    ) -> list[BaseAnnDataField]:
        """Fields that scvi-tools asks for besides."""
        return [LabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key, unlabeled_category)]


def as_list(keys: Sequence[str] | None, argument: str) -> list[str]:
    """Names of columns; a string is refused, whose letters would be taken for such."""
    if isinstance(keys, str):
        raise TypeError(f"{argument} is the string {keys!r}; pass a list: [{keys!r}].")
    return list(keys or [])


def named_columns(setup_args: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, str]:
    """Columns that some arguments of a set-up name, each with its argument."""
    given = {argument: setup_args.get(argument) for argument in arguments}
    return {
        key: argument
        for argument, keys in given.items()
        for key in ([keys] if argument.endswith("_key") else as_list(keys, argument))
        if key is not None
    }


def check_keywords(kwargs: Mapping[str, Any], setup: Callable[..., None]) -> None:
    """Check what a set-up is given besides its arguments, and the kinds of the model's conditions.

    Raises
    ------
    KeyError
        If a model whose registry is given has conditions of a kind that is not registered.
    TypeError
        If the set-up takes no such keyword.
    """
    require_kinds(kwargs.get("source_registry"))
    also = (*_TRANSFER, *further_arguments())
    require_keywords(kwargs, setup.__name__, setup, also=also)


def take_further(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take what is said of such kinds out of the keywords that are scvi-tools'."""
    return {a: kwargs.pop(a) for a in further_arguments() if a in kwargs}


def conditions_of(given: Any, argument: str) -> dict[str, Any]:
    """Conditions of a kind, with what the set-up is told of each."""
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(as_list(given, argument))


def require_kinds(registry: Mapping[str, Any] | None) -> None:
    """Raise ``KeyError`` if a model has conditions of a kind that is not registered."""
    if registry is not None:
        for condition in ConditionSpec.from_registry(registry).numeric.values():
            _ = condition.entry
