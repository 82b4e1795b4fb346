"""What holds for every layered encoder of sequences that may be padded; each test file gives its encoders and inputs."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, export

from polymodal.encoders import LayeredEncoder
from polymodal.types import Features, Padded

TOL = 1e-10
E = TypeVar("E", bound=nn.Module)


def assert_same(found: Tensor, expected: Tensor, tol: float = TOL) -> None:
    torch.testing.assert_close(found, expected, atol=tol, rtol=0)


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def settled(encoder: E) -> E:
    """In float64 and evaluation mode, no weight and no running statistic as it was at the start."""
    encoder = encoder.double().eval()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for name, b in encoder.named_buffers():
            if "var" in name:
                b.copy_(0.5 + torch.rand_like(b))
            elif "mean" in name:
                b.copy_(torch.randn_like(b))
    return encoder


def in_steps(
    encoder: LayeredEncoder, x: Any, foreign: Tensor | None = None, there: Tensor | None = None, at: int = 1
) -> Features:
    """Layer by layer, with `foreign` tokens put in front before layer `at`."""
    state = encoder.embed(x)
    for index in range(len(encoder.layers)):
        if index == at and foreign is not None:
            state = state.add(foreign, there)
        state = encoder.run_layer(index, state)
    return encoder.finish(state)


def width_between(encoder: LayeredEncoder, x: Any) -> int:
    with torch.no_grad():
        return encoder.embed(x).tokens.shape[-1]


def assert_more_padding_changes_nothing(encoder: LayeredEncoder, x: Padded, by: int) -> None:
    """With and without foreign tokens, with gradients (plain path) and without (fused), whatever the padding holds."""
    front = torch.randn(len(x.values), 2, width_between(encoder, x)).double()
    wild = torch.where(spread(x.mask, x.values), x.values, torch.full_like(x.values, 7.0))
    tail = torch.full((len(x.values), by, *x.values.shape[2:]), -9.0).double()
    longer = Padded(torch.cat([wild, tail], 1), nn.functional.pad(x.mask, (0, by)))
    for gradients in (True, False):
        for foreign in (None, front):
            with torch.set_grad_enabled(gradients):
                expected, found = (in_steps(encoder, one, foreign) for one in (x, longer))
            assert_same(found.pooled, expected.pooled)
            assert_same_tokens(found, expected)


def assert_same_tokens(found: Features, expected: Features) -> None:
    """Equal at the real tokens of `expected`, and nothing but padding behind them."""
    assert found.tokens is not None
    assert found.mask is not None
    assert expected.tokens is not None
    assert expected.mask is not None
    length = expected.tokens.shape[1]
    assert torch.equal(found.mask[:, :length], expected.mask)
    assert not found.mask[:, length:].any()
    assert_same(found.tokens[:, :length][expected.mask], expected.tokens[expected.mask])


def assert_padded_is_as_alone(encoder: LayeredEncoder, x: Padded) -> None:
    """Each sample of a batch yields what it yields alone, without a mask."""
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            found = encoder(x)
            for i, real in enumerate(x.mask.sum(1).tolist()):
                one = encoder(x.values[i : i + 1, :real])
                assert one.mask is None
                assert_same(found.pooled[i : i + 1], one.pooled)
                assert_same(found.tokens[i, found.mask[i]], one.tokens[0])


def assert_foreign_tokens_are_masked_and_dropped(encoder: LayeredEncoder, x: Any) -> None:
    """In front before any layer: hidden they change nothing, seen they change the own tokens, and `finish` drops them."""
    size = len(x.values) if isinstance(x, Padded) else len(x)
    front = torch.randn(size, 2, width_between(encoder, x)).double()
    with torch.no_grad():
        expected = encoder(x)
        for at in range(len(encoder.layers)):
            hidden = in_steps(encoder, x, front, torch.zeros(size, 2, dtype=torch.bool), at)
            seen = in_steps(encoder, x, front, at=at)
            assert_same(hidden.pooled, expected.pooled)
            assert seen.tokens is not None
            assert seen.tokens.shape == expected.tokens.shape
            assert (seen.tokens - expected.tokens).abs().max() > 1e-3


def assert_finite_without_any_token(encoder: LayeredEncoder, x: Padded) -> None:
    """The last sample has no real token: it and its gradients are finite, and the other samples are as before."""
    mask = x.mask.clone()
    mask[-1] = False
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            found, whole = encoder(Padded(x.values, mask)), encoder(x)
        assert found.pooled.isfinite().all()
        assert found.tokens.isfinite().all()
        assert_same(found.pooled[:-1], whole.pooled[:-1])
    encoder(Padded(x.values, mask)).pooled.square().sum().backward()
    for name, p in encoder.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name


def assert_gradients_reach_every_parameter(encoder: LayeredEncoder, x: Any) -> None:
    encoder(x).pooled.square().sum().backward()
    for name, p in encoder.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        if p.grad is not None:
            assert p.grad.isfinite().all(), name
            assert p.grad.any(), name


def assert_exports(encoder: LayeredEncoder, make: Callable[[int, int], Any], sizes: list[tuple[int, int]]) -> None:
    """`torch.export` with dynamic batch and length; `make(batch, length)` gives an input, `sizes` what is tried."""

    def dynamic(x: Any) -> Any:
        # Sizes that must be equal export finds out by itself.
        return Padded(*map(dynamic, x)) if isinstance(x, Padded) else {0: Dim.AUTO, 1: Dim.AUTO}

    encoder.eval()
    x = make(*sizes[0])
    with torch.no_grad():
        program = export(encoder, (x,), dynamic_shapes={"x": dynamic(x)}).module()
        for size in sizes:
            one = make(*size)
            found, expected = program(one), encoder(one)
            assert_same(found.pooled, expected.pooled, 1e-5)
            assert_same(found.tokens, expected.tokens, 1e-5)


def spread(mask: Tensor, values: Tensor) -> Tensor:
    """Mask (B, L) with dimensions of size 1 up to those of `values` (B, L, ...)."""
    return mask.reshape(*mask.shape, *[1] * (values.ndim - 2))
