"""Growing a module: what was known stays, to the last bit, wherever it stands afterwards."""

from __future__ import annotations

import pytest
import torch

from scgm_scvi.module import SCGMVAE, CategoryCounts, grow, new_entries, only_trained

X, B, C = "X", "batch", "extra_categorical_covs"


def module(nuisances, conditions, **kwargs):
    torch.manual_seed(sum(nuisances))
    out = SCGMVAE(
        6,
        n_batch=nuisances[0],
        n_cats_per_cov=nuisances[1:] or None,
        n_conditions=conditions,
        n_latent=3,
        n_hidden=8,
        denoiser_kwargs={"n_hidden": 8, "n_layers": 1},
        **kwargs,
    ).eval()
    for p in out.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return out


def outputs(m, batch, covariate, tokens):
    """Decoded mean and dispersion, latent, and denoised states of three cells."""
    x = torch.arange(18.0).reshape(3, 6) + 1
    ones = torch.ones(3, 1, dtype=torch.long)
    tensors = {X: x, B: batch * ones, "conditions": torch.tensor([tokens] * 3)}
    from scgm_scvi.module import SCGM_KEYS

    tensors[SCGM_KEYS.CONDITIONS_KEY] = tensors.pop("conditions")
    if covariate is not None:
        tensors[C] = covariate * ones
    state, variance = m.encode_state(tensors)
    px = m.decode_state(state, tensors)
    denoised = m.denoiser(state, torch.ones(3), *m.denoiser_conditions(tensors))
    return torch.cat([state, variance, px.mean, px.theta.expand_as(px.mean), denoised], dim=1)


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
@pytest.mark.parametrize("encode_covariates", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (((2, 3), (2,)), ((4, 3), (2,))),  # batches stand before covariates: columns move
        (((1, 2), (2,)), ((3, 4), (5,))),  # a single batch was not given to the layers at all
        (((2,), (2, 3)), ((2,), (2, 4))),
    ],
)
def test_known_categories_are_answered_as_before(before, after, encode_covariates, dispersion):
    kwargs = {"encode_covariates": encode_covariates, "dispersion": dispersion}
    old, new = module(*before, **kwargs), module(*after, **kwargs)
    grow(new, old.state_dict(), CategoryCounts(*before), CategoryCounts(*after))
    has_covariate = len(before[0]) > 1
    for batch in range(before[0][0]):
        for covariate in range(before[0][1]) if has_covariate else [None]:
            for tokens in ([0] * len(before[1]), list(before[1])):
                torch.testing.assert_close(
                    outputs(new, batch, covariate, tokens),
                    outputs(old, batch, covariate, tokens),
                )


def test_new_categories_start_at_the_mean_of_known_ones():
    before, after = CategoryCounts((2,), (3,)), CategoryCounts((3,), (5,))
    old, new = module((2,), (3,)), module((3,), (5,))
    grow(new, old.state_dict(), before, after)
    table, known = (
        new.condition_embedding.tables[0].weight,
        old.condition_embedding.tables[0].weight,
    )
    torch.testing.assert_close(table[4], known[1:].mean(0))
    torch.testing.assert_close(table[5], table[4])
    layer = new.decoder.px_decoder.fc_layers[0][0].weight
    was = old.decoder.px_decoder.fc_layers[0][0].weight
    torch.testing.assert_close(layer[:, -1], was[:, -2:].mean(1))
    assert (new.px_r_shifts[0].weight[4:] == 0).all()  # the gene's own dispersion


def test_masks_are_of_new_entries_only():
    before, after = CategoryCounts((2, 2), (3,)), CategoryCounts((3, 2), (3,))
    m = module((3, 2), (3,))
    masks = new_entries(m, before, after)
    layers = [f"decoder.px_decoder.fc_layers.Layer {i}.0.weight" for i in range(2)]
    assert set(masks) == {
        *layers,
        "decoder.batch_shifts.weight",
        "denoiser.network.conditions.tables.1.weight",
    }
    assert masks[layers[1]].sum(dim=1).unique().tolist() == [1]
    assert masks[layers[1]][0].nonzero().item() == 8 + 2  # hidden, then batches 0 and 1
    assert masks["denoiser.network.conditions.tables.1.weight"].any(dim=1).nonzero().item() == 3
    assert not new_entries(m, after, after)


def test_only_new_entries_and_adapters_train():
    before, after = CategoryCounts((2,), (3,)), CategoryCounts((2,), (4,))
    m = module((2,), (4,), adapter_rank=1)
    new = new_entries(m, before, after)
    state = {k: v.clone() for k, v in m.state_dict().items()}
    with only_trained(m, new, adapters=True):
        optimizer = torch.optim.AdamW(
            [p for p in m.parameters() if p.requires_grad], weight_decay=0
        )
        outputs_of_new = outputs_with_grad(m)
        outputs_of_new.backward()
        optimizer.step()
    changed = {k: v != state[k] for k, v in m.state_dict().items() if (v != state[k]).any()}
    assert all("adapter_" in k or k in new for k in changed)
    assert any("adapter_" in k for k in changed)
    key = "condition_embedding.tables.0.weight"
    assert changed[key].any(dim=1).nonzero().ravel().tolist() == [4]
    frozen = {k for k, p in m.named_parameters() if not p.requires_grad}  # as it was before
    assert frozen == {k for k, _ in m.named_parameters() if k.startswith(("denoiser", "decoder.b"))}


def outputs_with_grad(m):
    z, batch = torch.randn(3, 3), torch.zeros(3, 1, dtype=torch.long)
    tokens = torch.tensor([[1], [4], [4]])
    px = m.generative(z, torch.ones(3, 1), batch, tokens=tokens)["px"]
    return px.mean.square().sum() + px.theta.sum()
