"""What both stages say of each category that a cell might have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from scgm_scvi.diffusion import exponential_sigmas, path_evidence
from scgm_scvi.model._batch_sizes import default_batch_size
from scgm_scvi.model.requests._attributes import Attributes
from scgm_scvi.module import log_likelihood

from ._latent_prior import LatentPrior

__all__ = ["UNCALIBRATED", "Weighing", "class_evidence"]

UNCALIBRATED = (1.0, 0.05)  # about what calibration finds on small data
_SIGMA_MIN, _SIGMA_MAX = 0.15, 10.0  # beyond them no class differs from another
_N_CANDIDATES, _MOST_CANDIDATES = 32, 256  # categories of a cell that are looked at closely
_MARGIN = 8.0  # nats below the likeliest, within which a category may be it after all
_SCREENING_LEVELS = 4


class Weighing(NamedTuple):
    """How evidence becomes logits: weights of latents and features, and log shares before it."""

    latent: float = UNCALIBRATED[0]
    features: float = UNCALIBRATED[1]
    prior: np.ndarray | float = 0.0

    def logits(self, latent: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Logits ``(n, n_categories)``."""
        return self.latent * latent + self.features * features + self.prior


def class_evidence(
    prior: LatentPrior,
    loader: Iterable[Mapping[str, torch.Tensor]],
    key: str,
    seed: int,
    weighing: Weighing,
    *,
    n_samples: int,
    n_levels: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-likelihoods ``(n, n_categories)`` of latents and of features, a minibatch at a time.

    Of many categories, those that are likeliest of a cell by a short look are looked at
    closely; the latent's evidence of the others is that of the short look.
    """
    module, denoiser, device = prior.module, prior.module.denoiser, prior.device
    n_categories = len(prior.spec.categorical[key])
    sigmas = exponential_sigmas(n_levels + 1, _SIGMA_MIN, _SIGMA_MAX)[:-1].to(device)
    generator = prior.generator(seed)
    for tensors in loader:
        mean, variance = (t.to(device) for t in module.encode_state(tensors))
        own, x = Attributes.of(prior.spec, tensors), module.features(tensors).to(device)
        candidates, screened, features = np.arange(n_categories)[None], None, None
        if n_categories > _N_CANDIDATES:
            screened, features = _screening(prior, own, x, mean, key, seed)
            logits = weighing.logits(_centred(screened), _centred(features))
            candidates = np.argsort(-logits, axis=1, kind="stable")[:, : _n_candidates(logits)]
        as_each = [own.with_category(key, category) for category in candidates.T]
        denoisers = [prior.denoiser(as_c) for as_c in as_each]
        latent = torch.zeros(len(mean), len(as_each), dtype=torch.float64)
        with torch.no_grad():
            if features is None:
                features = _feature_evidence(prior, x, mean, as_each)
            for _ in range(n_samples):
                noise = torch.randn(mean.shape, generator=generator, device=device)
                x0 = denoiser.standardize(mean + variance.sqrt() * noise)
                latent += path_evidence(denoisers, x0, sigmas, generator=generator).cpu()
        latent /= n_samples
        if screened is not None:
            latent = _put_over(screened, torch.as_tensor(candidates), latent)
        yield _centred(latent), _centred(features)


def _feature_evidence(
    prior: LatentPrior, x: torch.Tensor, mean: torch.Tensor, as_each: Sequence[Attributes]
) -> torch.Tensor:
    decode = prior.module.decode_state
    told = [log_likelihood(decode(mean, as_c.tensors), x) for as_c in as_each]
    return torch.stack(told, dim=1).double().cpu()


@torch.no_grad()
def _screening(
    prior: LatentPrior,
    own: Attributes,
    x: torch.Tensor,
    mean: torch.Tensor,
    key: str,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A short look at every category: evidence of latents along one path, and of features."""
    module, n, n_categories = prior.module, len(mean), len(prior.spec.categorical[key])
    at_once = max(1, default_batch_size(sum(module.widths)) // n)
    generator = prior.generator(seed)
    sigmas = exponential_sigmas(_SCREENING_LEVELS + 1, _SIGMA_MIN, _SIGMA_MAX)[:-1]
    features, denoisers = [], []
    for part in np.array_split(np.arange(n_categories), -(-n_categories // at_once)):
        m = len(part)
        many = own.repeat(m).with_category(key, part.repeat(n))
        px = module.decode_state(mean.repeat(m, 1), many.tensors)
        features.append(log_likelihood(px, x.repeat(m, 1)).view(m, n))
        denoisers.append(_of_several(prior.denoiser(many), m))
    x0 = module.denoiser.standardize(mean)
    latent = path_evidence(denoisers, x0, sigmas.to(prior.device), generator=generator)
    return latent.cpu(), torch.cat(features).T.double().cpu()


def _n_candidates(logits: np.ndarray) -> int:
    """How many of the likeliest categories may matter to a cell, of which they matter to most."""
    near = (logits > logits.max(axis=1, keepdims=True) - _MARGIN).sum(axis=1)
    return int(np.clip(near.max(initial=0), _N_CANDIDATES, _MOST_CANDIDATES))


def _of_several(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], m: int
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Estimates ``(m, n, d)`` of a denoiser of ``m`` categories, one after the other."""
    return lambda x, sigma: denoise(x.repeat(m, 1), sigma).view(m, *x.shape)


def _put_over(screened: torch.Tensor, at: torch.Tensor, close: torch.Tensor) -> torch.Tensor:
    """What was found by a short look, with what was found closely in its place.

    Both are known up to what categories have in common, which is what they differ by on average
    where both are known.
    """
    apart = (close - screened.gather(1, at)).mean(dim=1, keepdim=True)
    return (screened + apart).scatter(1, at, close)


def _centred(evidence: torch.Tensor) -> np.ndarray:
    """What the categories have in common is no evidence, and is large."""
    return (evidence - evidence.mean(dim=1, keepdim=True)).numpy()
