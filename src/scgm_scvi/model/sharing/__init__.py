"""Save, load, pickle, export and publish models."""
