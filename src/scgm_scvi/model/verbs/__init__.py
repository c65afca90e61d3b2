"""What a trained model does, a verb a file."""
