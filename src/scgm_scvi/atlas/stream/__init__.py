"""Training cells from disk to the model: which, in what order, a minibatch at a time."""
