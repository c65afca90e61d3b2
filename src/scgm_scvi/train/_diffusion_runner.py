"""Run stage two on a model without disturbing what stage one left on it."""

from __future__ import annotations

from scvi.train import TrainRunner

__all__ = ["DiffusionTrainRunner"]

_STAGE_ONE = ("train_indices", "validation_indices", "test_indices", "is_trained_", "trainer")


class DiffusionTrainRunner(TrainRunner):
    """scvi's runner, whose history goes to ``model.fitted_["history"]``.

    The split, the history and the state of stage one are put back afterwards.

    Examples
    --------
    >>> from scgm_scvi.train import DiffusionTrainRunner
    >>> DiffusionTrainRunner.__mro__[1].__name__
    'TrainRunner'
    """

    def _update_history(self) -> None:
        # in a distributed run the first process has it
        history = getattr(self.trainer.logger, "history", {}) if self.trainer.is_global_zero else {}
        self.model.fitted_["history"] = {
            key: frame for key, frame in history.items() if key.startswith("diffusion_loss")
        }

    def __call__(self) -> None:
        """Train, whatever happens leave stage one's record as it was."""
        kept = {name: getattr(self.model, name, None) for name in _STAGE_ONE}
        try:
            super().__call__()
        finally:
            for name, value in kept.items():
                setattr(self.model, name, value)
