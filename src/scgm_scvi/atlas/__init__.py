"""scGDB: a store of uniformly preprocessed cells, built from public sources, streamed from disk."""

from ._build import build
from ._catalog import catalog, planned
from ._datamodule import AtlasDataModule
from ._download import Downloader
from ._genes import GeneAxis, GeneMapping, guess_organism
from ._http import DownloadError
from ._labels import LABEL_COLUMNS, harmonise_labels
from ._lock import Lock, LockError, Pin
from ._open import composition, datamodule, open
from ._plan import DatasetPlan, Plan, TrainingPlan
from ._qc import QC, QCResult, normalized_view
from ._reading import Reading
from ._record import Record, RemoteFile
from ._scale import SCALES, Counts, Scale, detect_scale, to_counts
from ._statistics import Statistics
from ._store import Store
from ._studies import drop_duplicates, find_studies, normalise_study
from ._training_store import extend_training_store, make_training_store
from ._variable_genes import variable_genes
from .formats import UnsupportedFormat, read_file
from .sources import SOURCES, Source

__all__ = [
    "LABEL_COLUMNS",
    "QC",
    "SCALES",
    "SOURCES",
    "AtlasDataModule",
    "Counts",
    "DatasetPlan",
    "DownloadError",
    "Downloader",
    "GeneAxis",
    "GeneMapping",
    "Lock",
    "LockError",
    "Pin",
    "Plan",
    "QCResult",
    "Reading",
    "Record",
    "RemoteFile",
    "Scale",
    "Source",
    "Statistics",
    "Store",
    "TrainingPlan",
    "UnsupportedFormat",
    "build",
    "catalog",
    "composition",
    "datamodule",
    "detect_scale",
    "drop_duplicates",
    "extend_training_store",
    "find_studies",
    "guess_organism",
    "harmonise_labels",
    "make_training_store",
    "normalise_study",
    "normalized_view",
    "open",
    "planned",
    "read_file",
    "to_counts",
    "variable_genes",
]
