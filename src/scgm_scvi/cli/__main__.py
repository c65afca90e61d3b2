"""``python -m scgm_scvi.cli``."""

from . import main

main()
