"""The small encoders and ResNet-18: shapes, gradients, padding, modes, errors."""

import pytest
import torch
from torch import nn

from polymodal.encoders import MLP, FrameCNN, ImageCNN, ResNet18, SpectrogramCNN, TextBag
from polymodal.encoders.by_kind import DEFAULTS, facts
from polymodal.errors import InputError
from polymodal.names import build, resolve
from polymodal.types import Features, Padded
from tests.properties import assert_close

B = 3


def mask_of(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def words(*lengths):
    mask = mask_of(*lengths)
    return Padded(torch.randint(1, 16, mask.shape) * mask, mask)


def sounds(*lengths, bins=10):
    mask = mask_of(*lengths)
    return Padded(torch.randn(len(lengths), 1, bins, mask.shape[1]) * mask[:, None, None], mask)


def vectors(*lengths):
    mask = mask_of(*lengths)
    return Padded(torch.randn(*mask.shape, 5) * mask[..., None], mask)


CASES = {
    "numbers": (lambda: MLP(5, dim=6), lambda: torch.randn(B, 5), None),
    "linear": (lambda: MLP(5, dim=6, hidden=()), lambda: torch.randn(B, 5), None),
    "sequence": (lambda: MLP(5, dim=6), lambda: torch.randn(B, 7, 5), (7, None)),
    "padded sequence": (lambda: MLP(5, dim=6), lambda: vectors(7, 1, 4), (7, (7, 1, 4))),
    "image": (lambda: ImageCNN(3, dim=6, width=4), lambda: torch.randn(B, 3, 33, 21), (16, None)),
    "small image": (lambda: ImageCNN(1, dim=6, width=4, grid=2), lambda: torch.randn(B, 1, 5, 4), (4, None)),
    "image without norm": (
        lambda: ImageCNN(1, dim=6, width=4, norm=False),
        lambda: torch.randn(B, 1, 8, 8),
        (16, None),
    ),
    "video": (lambda: FrameCNN(4, 2, dim=6, width=4), lambda: torch.randn(B, 4, 2, 24, 18), (16, None)),
    "sound": (lambda: SpectrogramCNN(10, dim=6, width=4), lambda: torch.randn(B, 1, 10, 21), (3, None)),
    "padded sound": (lambda: SpectrogramCNN(10, dim=6, width=4), lambda: sounds(21, 9, 2), (3, (3, 2, 1))),
    "short sound": (lambda: SpectrogramCNN(10, dim=6, width=4), lambda: sounds(1, 1, 1), (1, (1, 1, 1))),
    "sound without norm": (
        lambda: SpectrogramCNN(9, channels=1, dim=6, width=4, depth=2, norm=False),
        lambda: sounds(9, 8, 4, bins=9),
        (3, (3, 2, 1)),
    ),
    "text": (lambda: TextBag(16, dim=6, embed_dim=5), lambda: words(4, 1, 3), (4, (4, 1, 3))),
    "bare text": (lambda: TextBag(16, dim=6, embed_dim=5), lambda: words(4, 1, 3).values, (4, (4, 1, 3))),
}

PADDED = {
    "sequence": (lambda: MLP(5), vectors),
    "sound": (lambda: SpectrogramCNN(10, width=4), sounds),
    "deep sound": (lambda: SpectrogramCNN(10, width=2, depth=4, segments=3), sounds),
    "sound without norm": (lambda: SpectrogramCNN(10, width=4, norm=False), sounds),
    "sound in one stretch": (lambda: SpectrogramCNN(10, width=4, segments=1), sounds),
    "text": (lambda: TextBag(16), words),
}


def settled(encoder):
    """In float64 and eval mode, with weights and running statistics that are not those of the start."""
    encoder = encoder.double().eval()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for name, b in encoder.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn_like(b))
            if name.endswith("running_var"):
                b.copy_(0.5 + torch.rand_like(b))
    return encoder


def double(x):
    if isinstance(x, Padded):
        return Padded(double(x.values), x.mask)
    return x.double() if x.is_floating_point() else x


def longer(x, by):
    """The same batch with `by` more columns of padding."""
    last = x.values.ndim == 4  # time is last in spectrograms, second elsewhere
    width = (0, by) if last or x.values.ndim == 2 else (0, 0, 0, by)
    return Padded(nn.functional.pad(x.values, width), nn.functional.pad(x.mask, (0, by)))


def alone(x, i):
    """Sample `i` without its padding."""
    length = int(x.mask[i].sum())
    values = x.values[i : i + 1]
    return values[..., :length] if values.ndim == 4 else values[:, :length]


def zeros_of(kind, shape):
    if kind == "text":
        return torch.ones(2, 5, dtype=torch.int64)
    return torch.zeros(2, *shape)


@pytest.mark.parametrize("name", CASES)
def test_shapes(name):
    make, data, expected = CASES[name]
    encoder = make()
    pooled, tokens, mask, present = encoder(data())
    assert encoder.dim == 6
    assert pooled.shape == (B, 6)
    assert present is None
    if expected is None:
        assert tokens is None
        return
    length, lengths = expected
    assert tokens.shape == (B, length, 6)
    if lengths is None:
        assert mask is None
    else:
        assert torch.equal(mask, mask_of(*lengths))


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter(name):
    make, data, _ = CASES[name]
    encoder, x = make(), data()
    encoder(x).pooled.square().sum().backward()
    for label, p in encoder.named_parameters():
        assert p.grad is not None, label
        assert torch.isfinite(p.grad).all(), label
        assert p.grad.any(), label


@pytest.mark.parametrize("name", CASES)
def test_tokens_have_gradients(name):
    make, data, expected = CASES[name]
    if expected is not None:
        encoder, x = make(), data()
        encoder(x).tokens.square().sum().backward()
        assert sum(float(p.grad.abs().sum()) for p in encoder.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("by", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("name", PADDED)
def test_more_padding_changes_nothing(name, by):
    make, data = PADDED[name]
    encoder = settled(make())
    x = double(data(21, 16, 9, 8, 5, 3, 2, 1))
    with torch.no_grad():
        found, expected = encoder(longer(x, by)), encoder(x)
    assert_close(found.pooled, expected.pooled, 1e-10)
    length = expected.mask.shape[1]
    assert torch.equal(found.mask[:, :length], expected.mask)
    assert not found.mask[:, length:].any()
    assert_close(found.tokens[:, :length][expected.mask], expected.tokens[expected.mask], 1e-10)


@pytest.mark.parametrize("name", PADDED)
def test_a_padded_sample_is_as_alone(name):
    make, data = PADDED[name]
    encoder = settled(make())
    x = double(data(21, 16, 13, 9, 8, 7, 5, 4, 3, 2, 1))
    with torch.no_grad():
        found = encoder(x)
        for i in range(len(x.values)):
            one = encoder(alone(x, i))
            assert_close(found.pooled[i : i + 1], one.pooled, 1e-10)
            assert_close(found.tokens[i, found.mask[i]], one.tokens[0], 1e-10)


@pytest.mark.parametrize("name", ["sequence", "sound", "sound without norm", "text"])
def test_what_stands_in_the_padding_is_not_read(name):
    make, data = PADDED[name]
    encoder = settled(make())
    x = double(data(9, 4, 3))
    there = x.mask[:, None, None] if x.values.ndim == 4 else x.mask[..., None] if x.values.ndim == 3 else x.mask
    wild = torch.full_like(x.values, 7)
    with torch.no_grad():
        found = encoder(Padded(torch.where(there, x.values, wild), x.mask))
        assert_close(found.pooled, encoder(x).pooled, 1e-10)


@pytest.mark.parametrize("name", ["sequence", "sound", "text"])
def test_a_sample_without_any_token_is_finite(name):
    make, data = PADDED[name]
    x = data(5, 3)
    mask = x.mask.clone()
    mask[1] = False
    keep = mask[:, None, None] if x.values.ndim == 4 else mask[..., None] if x.values.ndim == 3 else mask
    encoder = make()
    pooled = encoder(Padded(x.values * keep, mask)).pooled
    assert torch.isfinite(pooled).all()
    pooled.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_one_in_eval_mode(name):
    make, data, _ = CASES[name]
    encoder = settled(make())
    x = double(data())
    with torch.no_grad():
        whole = encoder(x).pooled
        for i in range(B):
            one = Padded(x.values[i : i + 1], x.mask[i : i + 1]) if isinstance(x, Padded) else x[i : i + 1]
            assert_close(encoder(one).pooled, whole[i : i + 1], 1e-10)


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda p: MLP(5, dropout=p), lambda: torch.randn(B, 5)),
        (lambda p: ImageCNN(1, width=4, norm=False, dropout=p), lambda: torch.randn(B, 1, 16, 16)),
        (lambda p: FrameCNN(2, 1, width=4, norm=False, dropout=p), lambda: torch.randn(B, 2, 1, 16, 16)),
        (lambda p: SpectrogramCNN(10, width=4, norm=False, dropout=p), lambda: sounds(20, 9, 3)),
        (lambda p: TextBag(16, dropout=p), lambda: words(4, 1, 3)),
    ],
    ids=["mlp", "image", "video", "sound", "text"],
)
def test_dropout_acts_in_training_alone(make, data):
    encoder, x = make(0.5), data()
    assert not torch.equal(encoder(x).pooled, encoder(x).pooled)
    encoder.eval()
    assert torch.equal(encoder(x).pooled, encoder(x).pooled)
    plain = make(0.0)
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(x).pooled, plain(x).pooled)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("image", (3, 20, 24)),
        ("video", (4, 1, 24, 36)),
        ("audio", (1, 12, 15)),
        ("text", (16,)),
        ("numeric", (5,)),
        ("categorical", (4,)),
        ("vector", (5,)),
        ("vector", (6, 5)),
    ],
)
def test_the_default_of_each_kind_is_built_from_facts(kind, shape):
    make = resolve("encoders", DEFAULTS[kind])
    encoder = build(make, {}, facts(kind, shape), "encoder")
    assert kind in encoder.kinds
    assert encoder(zeros_of(kind, shape)).pooled.shape == (2, encoder.dim)


def test_the_order_of_sounds_matters():
    encoder = settled(SpectrogramCNN(10, width=4))
    x = torch.randn(1, 1, 10, 32).double()
    moved = torch.cat([x[..., 16:], x[..., :16]], -1)
    assert not torch.allclose(encoder(x).pooled, encoder(moved).pooled, atol=1e-3)


def test_the_order_of_words_does_not():
    encoder = settled(TextBag(16))
    ids = torch.tensor([[3, 9, 4, 4]])
    assert_close(encoder(ids).pooled, encoder(ids.flip(1)).pooled)


def test_frames_are_channels_of_one_image():
    encoder, image = settled(FrameCNN(4, 2, width=4)), settled(ImageCNN(8, width=4))
    image.load_state_dict(encoder.state_dict())
    x = torch.randn(B, 4, 2, 16, 16).double()
    assert_close(encoder(x).pooled, image(x.reshape(B, 8, 16, 16)).pooled)


def test_a_clip_of_other_length_is_refused():
    with pytest.raises(InputError, match="5 frames for an encoder of 4"):
        FrameCNN(4, 1)(torch.zeros(2, 5, 1, 16, 16))


@pytest.mark.parametrize("make", [lambda: MLP(5), lambda: ImageCNN(2), lambda: SpectrogramCNN(12), lambda: TextBag(8)])
def test_input_of_other_width_is_refused(make):
    wrong = {MLP: torch.zeros(2, 4), ImageCNN: torch.zeros(2, 3, 16, 16), SpectrogramCNN: torch.zeros(2, 1, 40, 16)}
    encoder = make()
    with pytest.raises((RuntimeError, IndexError)):
        encoder(wrong.get(type(encoder), torch.full((2, 3), 8)))


@pytest.mark.parametrize("channels", [1, 2, 3, 10])
def test_resnet_reads_any_number_of_channels(channels):
    encoder = ResNet18(channels=channels).eval()
    with torch.no_grad():
        found = encoder(torch.randn(2, channels, 40, 33))
    assert isinstance(found, Features)
    assert found.pooled.shape == (2, encoder.dim)
    assert found.tokens is not None
    assert found.tokens.shape == (2, 4, 512)
    assert_close(found.pooled, found.tokens.mean(1), 1e-5)


def test_resnet_averages_over_frames():
    encoder = ResNet18(channels=1).double().eval()
    x = torch.randn(2, 3, 1, 33, 33).double()
    with torch.no_grad():
        found = encoder(x)
        frames = torch.stack([encoder(x[:, t]).pooled for t in range(3)])
        assert_close(encoder(x[:1]).pooled, found.pooled[:1], 1e-10)
    assert found.tokens.shape == (2, 3 * 4, 512)
    assert_close(found.pooled, frames.mean(0), 1e-10)


def test_gradients_reach_every_parameter_of_resnet():
    encoder = settled(ResNet18(channels=2)).train()  # timm starts the last BatchNorm of each block at 0
    encoder(torch.randn(2, 2, 33, 33).double()).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_resnet_reads_local_weights_of_three_channels(tmp_path):
    file = tmp_path / "weights.pt"
    full = ResNet18(channels=3).net.state_dict()
    torch.save(full, file)
    same = ResNet18(channels=3, weights=file).net.state_dict()
    assert torch.equal(same["layer4.1.conv2.weight"], full["layer4.1.conv2.weight"])
    grey = ResNet18(channels=1, weights=str(file)).net.state_dict()
    assert_close(grey["conv1.weight"], full["conv1.weight"].sum(1, keepdim=True), 1e-6)


def test_resnet_without_its_weights_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ResNet18(weights=tmp_path / "none.pt")


def test_clips_of_a_sound_are_averaged() -> None:
    model = SpectrogramCNN(bins=8, dim=4, width=2).eval()
    clips = torch.randn(3, 2, 1, 8, 12)
    found = model(clips)
    alone = [model(clips[:, k]) for k in range(2)]
    assert torch.allclose(found.pooled, (alone[0].pooled + alone[1].pooled) / 2, atol=1e-6)
    assert found.tokens is not None
    assert torch.allclose(
        found.tokens, torch.cat([one.tokens for one in alone if one.tokens is not None], 1), atol=1e-6
    )
