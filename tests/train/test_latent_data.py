import lightning.pytorch as lightning
import numpy as np
import pytest
import torch

from scgm_scvi.train import EMAOfWeights, KeepBest, LatentDataModule

N, D = 40, 3


def make_data(train=range(30), validation=range(30, 40), **kwargs):
    """Every cell carries its row number as its token and its value."""
    rows = torch.arange(N)
    return LatentDataModule(
        mean=10.0 * rows[:, None] + torch.zeros(N, D),
        variance=torch.tensor([1.0, 4.0, 0.0]).expand(N, D),
        tokens=rows[:, None],
        values=rows[:, None].float(),
        train_indices=train,
        validation_indices=validation,
        **{"batch_size": 10, "steps_per_epoch": 6, **kwargs},
    )


def cells(batches):
    return torch.cat([tokens[:, 0] for _, tokens, _ in batches])


def states(batches):
    return torch.cat([state for state, _, _ in batches])


def test_batches_have_their_shapes_and_number():
    loader = make_data().train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    for state, tokens, values in batches:
        assert state.shape == (10, D)
        assert state.dtype == torch.float32
        assert tokens.shape == (10, 1)
        assert torch.equal(values, tokens.float())


@pytest.mark.parametrize(("batch_size", "steps"), [(10, 6), (15, 4), (7, 30), (60, 2)])
def test_an_epoch_covers_the_training_cells_evenly(batch_size, steps):
    data = make_data(batch_size=batch_size, steps_per_epoch=steps)
    drawn = cells(data.train_dataloader()).tolist()
    for start in range(0, len(drawn) - 29, 30):
        assert sorted(drawn[start : start + 30]) == list(range(30))
    assert len(set(drawn)) == 30
    assert drawn[:30] != list(range(30))


def test_only_the_indices_are_drawn():
    data = make_data(train=[3, 1, 38], validation=np.array([7, 5]))
    assert set(cells(data.train_dataloader()).tolist()) == {1, 3, 38}
    assert cells(data.val_dataloader()).tolist() == [7, 5]


def test_states_are_posterior_samples():
    data = make_data(steps_per_epoch=3000)
    batches = list(data.train_dataloader())
    noise = states(batches) - 10.0 * cells(batches)[:, None]
    n = len(noise)
    torch.testing.assert_close(noise.mean(0), torch.zeros(D), atol=8 / n**0.5, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.tensor([1.0, 2.0, 0.0]), atol=0.05, rtol=0)


def test_training_noise_and_order_are_fresh_each_epoch():
    loader = make_data().train_dataloader()
    first, second = list(loader), list(loader)
    assert not torch.equal(cells(first), cells(second))
    noise = [
        {(c, tuple(s)) for c, s in zip(cells(b).tolist(), states(b).tolist(), strict=True)}
        for b in (first, second)
    ]
    # a cell that comes again comes with another draw, within an epoch and across epochs
    assert len(noise[0]) == len(noise[1]) == 60
    assert not noise[0] & noise[1]


def test_validation_is_the_same_every_time():
    loader = make_data(batch_size=4).val_dataloader()
    first, second = list(loader), list(loader)
    assert [len(tokens) for _, tokens, _ in first] == [4, 4, 2]
    assert len(loader) == 3
    assert cells(first).tolist() == list(range(30, 40))
    assert torch.equal(states(first), states(second))
    assert (states(first) - 10.0 * cells(first)[:, None]).std(0)[1] > 0.5  # samples, not means


def test_no_validation_cells():
    assert list(make_data(validation=[]).val_dataloader()) == []


def test_seed_alone_decides():
    before = torch.get_rng_state()
    a, b, c = (list(make_data(seed=seed).train_dataloader()) for seed in (0, 0, 1))
    assert torch.equal(states(a), states(b))
    assert not torch.equal(cells(a), cells(c))
    assert torch.equal(torch.get_rng_state(), before)


class Scripted(lightning.LightningModule):
    """One weight that counts epochs, and a validation metric that follows a script."""

    def __init__(self, metrics):
        super().__init__()
        self.metrics = metrics
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.module.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.module.weight.sum()  # plain SGD of rate 1 adds 1 a step

    def on_train_epoch_end(self):
        self.module.seen += 1

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking and self.current_epoch < len(self.metrics):
            self.log("loss", torch.tensor(self.metrics[self.current_epoch]))
        elif self.trainer.sanity_checking:
            self.log("loss", torch.tensor(-100.0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.module.parameters(), lr=1.0)


def fit(metrics, monitor="loss", max_epochs=5, more=(), first_step=0, **kwargs):
    plan, keep = Scripted(metrics), KeepBest(monitor, first_step)
    trainer = lightning.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        callbacks=[keep, *more],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
    data = make_data(steps_per_epoch=1)
    trainer.fit(plan, data)
    return plan.module, keep


def test_keep_best_restores_the_weights_of_the_best_epoch():
    module, keep = fit([3.0, 1.0, 2.0, 1.0, 5.0])
    assert (keep.best, keep.best_epoch) == (1.0, 1)  # the earlier of equals
    assert module.weight.item() == 2.0  # after the second epoch's only step


def test_keep_best_keeps_the_last_epoch_where_it_is_best():
    module, keep = fit([5.0, 4.0, 3.0, 2.0, 1.0])
    assert keep.best_epoch == 4
    assert module.weight.item() == 5.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_keep_best_passes_over_epochs_that_are_no_number(bad):
    module, keep = fit([bad, 2.0, bad, 3.0, bad])
    assert keep.best_epoch == 1
    assert module.weight.item() == 2.0


def test_keep_best_without_its_metric_leaves_the_last_weights():
    module, keep = fit([1.0] * 5, monitor="another")
    assert keep.best_epoch is None
    assert keep.best == float("inf")
    assert module.weight.item() == 5.0


def test_keep_best_beside_weight_averaging_keeps_the_average():
    """The metric was measured with averaged weights, so these are the ones to keep."""
    ema = lightning.callbacks.EMAWeightAveraging(decay=0.5, use_buffers=False)
    metrics = [3.0, 2.0, 1.0, 2.0, 5.0]
    module, keep = fit(metrics, more=[ema])
    assert keep.best_epoch == 2
    # weights 1, 2, 3 after the steps; the average starts at 1
    assert module.weight.item() == pytest.approx((0.5 * (0.5 * 1 + 0.5 * 2)) + 0.5 * 3)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(ValueError, match="train_indices is empty"):
        make_data(train=[])


def test_average_starts_after_a_quarter_and_until_then_there_is_none():
    # weights are 1, 2, … after the steps; validated before the average starts: the weights
    module, _ = fit([5.0, 4.0, 3.0, 2.0, 1.0], more=[EMAOfWeights(1000, 0.5)])
    assert module.weight.item() == 5.0  # never started: the last weights, not the initial ones
    ema = EMAOfWeights(20, 0.5)
    assert ema.update_starting_at_step == 5
    module, keep = fit([9.0] * 7 + [1.0], more=[ema], max_epochs=8)
    # starts with the sixth step's weight, 6; then 0.5 * 6 + 0.5 * 7, and half of each after
    assert keep.best_epoch == 7
    assert module.weight.item() == pytest.approx(0.5 * (0.5 * 6 + 0.5 * 7) + 0.5 * 8)


def test_short_runs_forget_faster():
    assert EMAOfWeights(10_000, 0.999).update_starting_at_step == 2500
    average = EMAOfWeights(20, 0.999)._kwargs["avg_fn"]
    assert average(torch.tensor(1.0), torch.tensor(0.0), 1).item() == pytest.approx(0.75)


def test_keep_best_passes_over_the_first_steps():
    plan_metrics = [1.0, 5.0, 4.0, 5.0, 5.0]
    module, keep = fit(plan_metrics, first_step=1)
    assert keep.best_epoch == 2
    assert module.weight.item() == 3.0
