"""Train both stages: from memory, from disk, from a trained model."""
