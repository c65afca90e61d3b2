"""Cells on disk: a store that is whole at any moment, and shuffled copies of it to train from."""
