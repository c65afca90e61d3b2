"""Numbers in place of 0."""

EPS = 1e-8  # as in scvi.distributions
NOTHING = 1e-8  # counts, in place of a mean of 0
