"""UniAdapter against layers written out, and what its modalities share."""

from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polymodal.adapters import UniAdapter
from polymodal.encoders.base import State
from polymodal.errors import InputError
from tests.adapters.by_hand import WRITTEN_OUT, layer_by_hand
from tests.adapters.hosts import host, mask_of, stir
from tests.adapters.test_houlsby import same


def pair(family, other="bert"):
    return {"text": host(other, depth=3, seed=1).encoder, "image": host(family).encoder}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("family", WRITTEN_OUT)
def test_a_bottleneck_beside_the_feed_forward_step(family, gradients):
    encoders, plain = pair(family), host(family).encoder
    adapter = UniAdapter(encoders, down=3, scale=0.7)
    stir(adapter)
    norms, downs, ups = list(adapter.norms), list(adapter.downs), list(cast(nn.ModuleList, adapter.ups["image"]))
    tokens, mask = torch.randn(3, 5, 8).double(), mask_of(5, 3, 4)
    for index in (0, 1):
        norm, down, up = norms[index], downs[index], ups[index]

        def beside(branch, stream, norm=norm, down=down, up=up):
            return branch + 0.7 * up(F.relu(down(norm(stream))))

        wanted = layer_by_hand(family, plain.layers[index], tokens, mask, ffn=beside)
        with torch.set_grad_enabled(gradients):
            found = encoders["image"].run_layer(index, State(tokens, mask, aux={"frames": 1, "clips": 1})).tokens
        same(found[mask], wanted[mask])


def test_what_is_shared():
    encoders = pair("vit")
    adapter = UniAdapter(encoders, down=3)
    assert len(adapter.downs) == len(adapter.norms) == 3
    assert [len(cast(nn.ModuleList, adapter.ups[m])) for m in encoders] == [3, 2]
    assert adapter.counts().trainable == 3 * (16 + 8 * 3 + 3) + 5 * (3 * 8 + 8)
    assert sum(p.numel() for p in adapter.parameters_of("image")) == 2 * (3 * 8 + 8)
    stir(adapter)
    encoders["image"](host("vit").x).pooled.square().sum().backward()
    with_gradient = {name for name, p in adapter.named_parameters() if p.grad is not None}
    assert with_gradient == {
        name for name, _ in adapter.named_parameters() if not name.startswith("ups.text") and name.split(".")[1] != "2"
    }


def test_it_starts_as_the_frozen_models_or_as_the_authors_code():
    encoders, x = pair("vit"), {"text": host("bert").x, "image": host("vit").x}
    before = {m: encoder(x[m]).pooled for m, encoder in encoders.items()}
    adapter = UniAdapter(encoders, down=3)
    assert all(torch.equal(encoder(x[m]).pooled, before[m]) for m, encoder in encoders.items())
    assert not any(p.any() for name, p in adapter.downs.named_parameters() if name.endswith("bias"))
    adapter.remove()
    UniAdapter(encoders, down=3, zero=["text"])
    assert torch.equal(encoders["text"](x["text"]).pooled, before["text"])
    assert not torch.equal(encoders["image"](x["image"]).pooled, before["image"])


def test_bad_input():
    unequal = {"text": host("bert", width=8).encoder, "image": host("vit", width=12).encoder}
    with pytest.raises(
        InputError, match=r"UniAdapter: tokens of widths \{'text': 8, 'image': 12\}.*MaPLe, PMF or Wander"
    ):
        UniAdapter(unequal)
    with pytest.raises(InputError, match=r"joins modalities and was given \['text'\]"):
        UniAdapter({"text": host("bert").encoder})
    with pytest.raises(InputError, match=r"zero names \['sound'\]; the modalities are \['text', 'image'\]"):
        UniAdapter(pair("vit"), zero=["sound"])
    with pytest.raises(InputError, match="down=0"):
        UniAdapter(pair("vit"), down=0)
