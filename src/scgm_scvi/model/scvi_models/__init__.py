"""scvi-tools' own models with a diffusion prior on their latent."""
