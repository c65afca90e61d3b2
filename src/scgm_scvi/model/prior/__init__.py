"""Stage two as an engine: sample, encode, edit, infer, compare; nothing of AnnData."""
