import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polymodal.blocks import ConformerBlock
from polymodal.errors import InputError
from polymodal.fusion import Conformer, Fusion
from polymodal.fusion.conformer import real_tokens_first
from tests.fusion.fusion_properties import EVERY_COUNT, POOLED, Property, same, take
from tests.fusion.token_properties import TOKENS, exports_with_free_sizes, with_tokens


def make(dims: dict[str, int], outputs: int) -> Fusion:
    return Conformer(dims, outputs, width=4, heads=2, kernel=5, dropout=0.0)


@pytest.mark.parametrize("count", EVERY_COUNT)
@pytest.mark.parametrize("holds", [*POOLED, *TOKENS])
def test_property(holds: Property, count: int) -> None:
    holds(make, count)


def test_export() -> None:
    exports_with_free_sizes(lambda dims, outputs: Conformer(dims, outputs, width=4, heads=2, depth=1, kernel=5), 2)


def test_real_tokens_move_to_the_front_in_order() -> None:
    tokens = torch.arange(1.0, 13.0).view(2, 6, 1)
    mask = torch.tensor([[False, True, False, True, True, False], [True] * 6])
    moved, front = real_tokens_first(tokens, mask)
    assert moved[0, :, 0].tolist() == [2, 4, 5, 1, 3, 6]
    assert front.tolist() == [[True] * 3 + [False] * 3, [True] * 6]
    same(moved[1], tokens[1])


def test_convolution_crosses_the_border_between_modalities() -> None:
    fusion, features = with_tokens(make, 2)
    assert isinstance(fusion, Conformer)
    fusion.eval()
    joined, mask = fusion.join({m: f._replace(mask=None) for m, f in features.items()})
    assert mask is None
    assert joined.shape == (5, 1 + 4 + 1, 4)
    block = fusion.blocks[0]
    assert isinstance(block, ConformerBlock)
    leaf = joined.detach().requires_grad_()
    block.convolution(leaf, None)[:, 4].sum().backward()  # the last token of the first modality
    assert leaf.grad is not None
    assert (leaf.grad[:, 5] != 0).any()


def test_every_modality_is_projected() -> None:
    fusion = Conformer({"x": 64, "y": 3}, 2)
    assert all(isinstance(layer, nn.Linear) for layer in fusion.projections.values())
    block = fusion.blocks[0]
    assert isinstance(block, ConformerBlock)
    assert block.convolution.depthwise.kernel_size == (31,)
    assert fusion.dropout.p == 0.1
    assert fusion.parameters_of("x") == []


def test_one_training_step_of_one_sample_without_anything() -> None:
    fusion, features = with_tokens(make, 2)
    lacking = {m: f._replace(present=torch.zeros(5, dtype=torch.bool)) for m, f in features.items()}
    one = take(lacking, torch.tensor([0]))
    F.cross_entropy(fusion(one, {}), torch.tensor([0])).backward()
    assert all(b.isfinite().all() for b in fusion.buffers())
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@pytest.mark.parametrize("kernel", [0, 4])
def test_refuses_kernel(kernel: int) -> None:
    with pytest.raises(InputError, match=f"kernel={kernel}"):
        Conformer({"x": 2}, 2, kernel=kernel)
