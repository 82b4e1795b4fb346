"""P-tuning against transformers and peft, and prefixes against real tokens in front of a layer."""

from typing import Any

import pytest
import torch
from torch import nn

from polymodal.adapters import PTuning, PTuningV2
from polymodal.adapters.front import put, take
from polymodal.adapters.ptuning import _attention
from polymodal.encoders import Deberta, SequenceTransformer
from polymodal.errors import InputError
from polymodal.types import Padded
from tests.adapters.hosts import FAMILIES, host, stir, text
from tests.adapters.test_houlsby import same


def test_virtual_tokens_are_those_of_peft():
    from peft import PromptEncoder, PromptEncoderConfig

    adapter = PTuning(host("bert").encoder, tokens=3)
    stir(adapter)
    config = PromptEncoderConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=3, token_dim=8, encoder_hidden_size=4, num_transformer_submodules=1,
        encoder_reparameterization_type="LSTM", encoder_num_layers=2, encoder_dropout=0.0,
    )  # fmt: skip
    reference = PromptEncoder(config).double()
    reference.embedding.weight.data.copy_(adapter.embedding.data)
    reference.lstm_head.load_state_dict(adapter.lstm.state_dict())
    reference.mlp_head.load_state_dict(adapter.mlp.state_dict())
    same(adapter.prompts(), reference(torch.arange(3)[None])[0])


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta", "deberta_positions"])
def test_texts_begin_behind_the_virtual_tokens(family):
    """As in the model of transformers given vectors: positions, masks and all."""
    x = host("bert").x
    encoder: Any
    if family == "deberta_positions":
        encoder = text(Deberta, model_type="deberta")(8, 2).double().eval()
    elif family == "roberta":
        encoder = text(type(host("bert").encoder), model_type="roberta", pad_token_id=1)(8, 2).double().eval()
    else:
        encoder = host(family).encoder
    adapter = PTuning(encoder, tokens=3)
    stir(adapter)
    net, ids = encoder.net, x.values.masked_fill(~x.mask, encoder.net.config.pad_token_id)
    found = encoder(x)
    prompts = adapter.prompts()
    adapter.remove()
    words = net.get_input_embeddings()(ids)
    mask = torch.cat([torch.ones(3, 3, dtype=torch.bool), x.mask], 1)
    given = {"inputs_embeds": torch.cat([prompts.expand(3, -1, -1), words], 1), "attention_mask": mask.long()}
    wanted = net(**given).last_hidden_state[:, 3:]
    same(found.tokens[x.mask], wanted[x.mask])
    assert torch.equal(found.mask, x.mask)
    same(found.pooled, wanted[:, 0])


def test_in_a_vit_virtual_tokens_have_no_place():
    encoder, x, _ = host("vit")
    net = encoder.net
    adapter = PTuning(encoder, tokens=3)
    tokens = net.norm_pre(net._pos_embed(net.patch_embed(x)))
    tokens = torch.cat([tokens, adapter.prompts().expand(3, -1, -1)], 1)  # behind: the order does not matter
    same(encoder(x).tokens, net.norm(net.blocks(tokens))[:, :-3])


def captured(layer, count, run):
    """What makes the keys and values of the first `count` tokens in a layer while `run` runs: (2, B, count, D)."""
    found, hooks = {}, []
    host_ = _attention(layer, 8)
    if isinstance(host_, nn.MultiheadAttention):
        hooks.append(host_.register_forward_pre_hook(lambda _, args: found.update({0: args[1], 1: args[2]})))
    else:
        for one in host_:

            def keep(module, args, out, one=one):
                for part, rows in zip(one.parts, one.rows.chunk(len(one.parts))):
                    found.setdefault(part, out[:, :, rows])

            hooks.append(one.module.register_forward_hook(keep))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([found[part][:, :count] for part in (0, 1)])


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_acts_like_tokens_with_its_keys_and_values(family, gradients):
    """Real tokens in front reach the others of a layer through their keys and values alone."""
    encoder, x, _ = host(family)
    state, extras = encoder.embed(x), torch.randn(2, 8).double()
    wanted = {}
    prefixes = []
    for index, layer in enumerate(encoder.layers):
        where = put(state, extras)
        prefix = captured(layer, 2, lambda w=where, i=index: wanted.update({i: encoder.run_layer(i, w)}))
        assert torch.equal(prefix[:, 0], prefix[:, 1])
        prefixes.append(prefix[:, 0])
    adapter = PTuningV2(encoder, tokens=2)
    flat = torch.stack(prefixes).permute(2, 0, 1, 3).reshape(2, -1)
    adapter.load_adapter_state({"embedding": flat})
    for index in range(len(encoder.layers)):
        same(adapter.prefix(index), prefixes[index])
        with torch.set_grad_enabled(gradients):
            found = encoder.run_layer(index, state)
        assert found.extra == 0
        rest = take(wanted[index], 2)[1]
        real = slice(None) if state.mask is None else state.mask
        same(found.tokens[real], rest.tokens[real])
    assert (encoder(x).pooled - host(family).encoder(x).pooled).abs().max() > 1e-4


def test_prefixes_of_the_middle_layer():
    encoder, x, _ = host("bert")
    adapter = PTuningV2(encoder, tokens=3, hidden=5)
    assert adapter.mlp is not None
    first, _, last = adapter.mlp
    all_of_them = last(torch.tanh(first(adapter.embedding))).view(3, 2, 2, 8)
    for index in (0, 1):
        same(adapter.prefix(index), all_of_them[:, index].transpose(0, 1))
    assert adapter.counts().trainable == 3 * 8 + 8 * 5 + 5 + 5 * 32 + 32
    encoder(x).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_texts_and_prompts_share_the_positions():
    encoder = host("bert").encoder  # 16 positions
    with pytest.raises(InputError, match="16 prompts and texts of 1 tokens for a model of 16 positions"):
        PTuning(encoder, tokens=16)
    PTuning(encoder, tokens=11)
    encoder(torch.full((2, 5), 4))
    with pytest.raises(InputError, match="11 prompts and texts of 6 tokens for a model of 16 positions; take fewer"):
        encoder(torch.full((2, 6), 4))
    relative = host("deberta").encoder
    PTuning(relative, tokens=11)
    relative(torch.full((2, 9), 4))  # distances have no end


def test_bad_input():
    for kind in (PTuning, PTuningV2):
        with pytest.raises(InputError, match="tokens=0; at least one"):
            kind(host("bert").encoder, tokens=0)
    with pytest.raises(InputError, match="tokens of width 9; its LSTM has half of an even width"):
        PTuning(SequenceTransformer(6, 9, 2, 3))
    strange = SequenceTransformer(6, 8, 2, 2)
    strange.layers[1] = nn.Linear(8, 8)
    with pytest.raises(InputError, match="layer of type Linear: no known attention"):
        PTuningV2(strange)


def test_prompts_are_no_tokens_of_the_features():
    for kind in (PTuning, PTuningV2):
        encoder, x, _ = host("transformer")
        assert isinstance(x, Padded)
        kind(encoder, tokens=4)
        found = encoder(x)
        assert found.tokens.shape == (3, 5, 8)
        assert torch.equal(found.mask, x.mask)
