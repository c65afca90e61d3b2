"""scGDB: a store of uniformly preprocessed cells, built from public sources, streamed from disk."""

from ._build import build
from ._catalog import catalog, plan_table
from ._open import datamodule, open
from ._plan import DatasetPlan, Plan, TrainingPlan
from .curate._genes import GeneAxis, GeneMapping, guess_organism
from .curate._labels import LABEL_COLUMNS, harmonise_labels
from .curate._qc import QC, QCResult, normalized_view
from .curate._scale import SCALES, Counts, Scale, detect_scale, to_counts
from .download._checksum_lock import Checksum, ChecksumError, ChecksumLock
from .download._downloader import Downloader
from .download._http import DownloadError
from .download._remote_file import RemoteFile
from .formats import UnsupportedFormat, read_file
from .formats._reading import Reading
from .sources import SOURCES, Source
from .sources._record import Record
from .sources._studies import drop_duplicates, find_studies, normalise_study
from .store._statistics import Statistics
from .store._store import Store
from .store._training_store import extend_training_store, make_training_store
from .store._variable_genes import variable_genes
from .stream._datamodule import AtlasDataModule

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
    "ChecksumLock",
    "ChecksumError",
    "Checksum",
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
    "plan_table",
    "read_file",
    "to_counts",
    "variable_genes",
]
