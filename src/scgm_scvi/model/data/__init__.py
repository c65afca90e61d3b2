"""Cells as models read and write them: set-up, checks, registration, containers, results."""
