from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from polymodal.encoders import ViT
from polymodal.encoders.openclip import visual_to_timm
from polymodal.errors import InputError
from tests.encoders.layered_properties import (
    check_absent_sample,
    check_foreign_tokens,
    check_gradients,
    largest,
    with_foreign,
)

SMALL: dict[str, Any] = {"width": 16, "depth": 3, "heads": 2}
CLIP = "vit_base_patch16_clip_224"
FAMILIES: dict[str, dict[str, int]] = {
    CLIP: {},
    "vit_base_patch32_clip_224": {},
    "vit_large_patch14_clip_224": {"height": 28, "width_pixels": 42},
    "vit_base_patch16_clip_quickgelu_224": {},
    "vit_tiny_patch16_224": {},
    "vit_base_patch14_reg4_dinov2": {"height": 28, "width_pixels": 42},
    "vit_base_patch16_siglip_224": {},
}


def small(model: str = CLIP, **options: Any) -> ViT:
    torch.manual_seed(0)
    return ViT(model, **{"height": 32, "width_pixels": 64} | SMALL | options).double().eval()


@pytest.mark.parametrize("model", FAMILIES)
def test_layer_by_layer_is_timms_own_forward(model: str) -> None:
    encoder = small(model, **FAMILIES[model])
    x = torch.randn(2, *(encoder.net.patch_embed.proj.in_channels, *encoder.net.patch_embed.img_size)).double()
    found = encoder(x)
    assert largest(found.pooled, encoder.net(x)) <= 1e-10
    assert found.tokens is not None
    assert largest(found.tokens, encoder.net.forward_features(x)) <= 1e-10
    assert found.mask is None
    check_foreign_tokens(encoder, x, 2)
    check_absent_sample(encoder, x, 2)


def test_gradients_reach_every_parameter() -> None:
    check_gradients(small(), torch.randn(2, 3, 32, 64).double())


def test_frames_are_encoded_one_by_one_and_averaged() -> None:
    encoder = small()
    x = torch.randn(2, 3, 3, 32, 64).double()
    found = encoder(x)
    frames = [encoder(x[:, t]) for t in range(3)]
    assert largest(found.pooled, torch.stack([one.pooled for one in frames]).mean(0)) <= 1e-12
    assert found.tokens is not None
    assert largest(found.tokens, torch.cat([one.tokens for one in frames], 1)) <= 1e-12
    check_foreign_tokens(encoder, x, 2)
    check_absent_sample(encoder, x, 2)


def test_each_frame_sees_the_foreign_tokens_whose_results_are_averaged() -> None:
    encoder = small()
    x, foreign = torch.randn(2, 3, 3, 32, 64).double(), torch.randn(2, 4, 16).double()
    state = encoder.run_layer(0, encoder.embed(x).add(foreign))
    alone = [encoder.run_layer(0, encoder.embed(x[:, t]).add(foreign)) for t in range(3)]
    assert largest(state.extras(), torch.stack([one.extras() for one in alone]).mean(0)) <= 1e-12
    assert largest(state.drop().tokens, torch.cat([one.drop().tokens for one in alone], 1)) <= 1e-12
    one = with_foreign(encoder, x[:, :1], foreign, None)
    assert largest(one.pooled, with_foreign(encoder, x[:, 0], foreign, None).pooled) <= 1e-12


def test_other_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"images of \(3, 48, 48\) for a ViT of \(3, 32, 64\)"):
        small()(torch.zeros(1, 3, 48, 48).double())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("vit_base_16", "timm has none of that name"),
        ("resnet18", "takes no embed_dim, depth, num_heads"),
        ("vit_small_patch16_rope_224", "is timm's Eva, not a plain vision transformer"),
    ],
)
def test_other_models_are_refused(model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ViT(model, **SMALL)


def test_mixed_precision() -> None:
    encoder = small().float()
    with torch.autocast("cpu", torch.bfloat16):
        state = encoder.embed(torch.randn(2, 3, 32, 64))
        state = encoder.run_layer(0, state._replace(mask=torch.tensor([[True] * 9, [False] * 9])))
    assert state.tokens.isfinite().all()


# Weights ---------------------------------------------------------------------------------------------------------------


def open_clip_model(side: int = 32, quick: bool = False) -> Any:
    """A CLIP with the layout of the published ones, small and randomly initialised."""
    from open_clip.model import CLIP as Model
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(1)
    vision = CLIPVisionCfg(layers=3, width=16, head_width=8, patch_size=16, image_size=side)
    text = CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    model = Model(8, vision, text, quick_gelu=quick).eval()
    for one in model.parameters():  # norms and biases too, so that none can be mixed up
        torch.nn.init.normal_(one, std=0.3)
    return model


@pytest.fixture
def clip() -> Any:
    return open_clip_model()


def before_projection(model: Any, x: Tensor) -> Tensor:
    """What open_clip pools, without its projection."""
    kept, model.visual.proj = model.visual.proj, None
    with torch.no_grad():
        pooled: Tensor = model.visual(x)
    model.visual.proj = kept
    return pooled


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("part", ["whole", "visual"])
@pytest.mark.parametrize("name", ["clip.bin", "clip.safetensors"])
def test_openclip_files_give_openclips_features(tmp_path: Path, part: str, name: str, quick: bool) -> None:
    model, file = open_clip_model(quick=quick), tmp_path / name
    tensors = {key: one.contiguous() for key, one in (model if part == "whole" else model.visual).state_dict().items()}
    torch.save(tensors, file) if name.endswith("bin") else save_file(tensors, file)
    names = {False: CLIP, True: "vit_base_patch16_clip_quickgelu_224"}
    x = torch.randn(2, 3, 32, 32)
    expected = before_projection(model, x)
    with torch.no_grad():
        found = small(names[quick], weights=file, width_pixels=32).float()(x).pooled
        other = small(names[not quick], weights=file, width_pixels=32).float()(x).pooled
    assert largest(found, expected) <= 1e-5
    assert largest(other, expected) > 1e-3  # the activation matters, and no file tells it
    with torch.no_grad():
        assert largest(found @ model.visual.proj, model.encode_image(x)) <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.ln_pre.weight": None}, "missing norm_pre.weight"),
        ({"visual.transformer.resblocks.1.mlp.c_fc.bias": None}, r"missing blocks\.1\.mlp\.fc1\.bias"),
        ({"visual.strange": 1}, "the visual tower has strange"),
        ({"strange": 1}, "strange belong to no part of an OpenCLIP model"),
        ({"visual.transformer.resblocks.7.ln_1.bias": 1}, r"unexpected blocks\.7\.norm1\.bias"),
        ({"visual.transformer.resblocks.0.attn.odd": 1}, r"the visual tower has transformer\.resblocks\.0\.attn\.odd"),
        ({"visual.conv1.weight": 1}, r"patch_embed\.proj\.weight is \(1, 1\)|expected \(16, 3, 16, 16\)"),
    ],
)
def test_other_names_are_errors(tmp_path: Path, clip: Any, change: dict[str, int | None], message: str) -> None:
    tensors = dict(clip.state_dict())
    for name, value in change.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = torch.ones(value, value)
    torch.save(tensors, tmp_path / "clip.pt")
    with pytest.raises(InputError, match=message):
        small(weights=tmp_path / "clip.pt", width_pixels=32)


def test_weights_of_another_size_are_an_error(tmp_path: Path, clip: Any) -> None:
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    with pytest.raises(InputError, match=r"nothing was loaded: missing blocks\.3\.norm1"):
        small(weights=tmp_path / "clip.pt", width_pixels=32, depth=4)
    with pytest.raises(InputError, match=r"cls_token is \(1, 1, 16\), expected \(1, 1, 24\)"):
        small(weights=tmp_path / "clip.pt", width_pixels=32, width=24)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(InputError, match="nothing was loaded: missing cls_token"):
        small(weights=tmp_path / "resnet.pt")


def test_weights_in_timms_layout_for_another_size_and_number_of_channels(tmp_path: Path, clip: Any) -> None:
    net: Any = timm.create_model(CLIP, img_size=64, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    same = small(weights=tmp_path / "net.pt", height=64).float().net.state_dict()
    assert all(torch.equal(one, net.state_dict()[name]) for name, one in same.items())
    wide: Any = small(weights=tmp_path / "net.pt", height=64, width_pixels=128, channels=2).float().net
    resampled = torch.nn.functional.interpolate(
        net.pos_embed[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2), size=(4, 8), mode="bicubic", antialias=True
    )
    assert largest(wide.pos_embed[:, 1:], resampled.flatten(2).transpose(1, 2)) <= 1e-6
    mean = net.patch_embed.proj.weight.mean(1, keepdim=True)
    assert largest(wide.patch_embed.proj.weight, (mean * 1.5).expand(-1, 2, -1, -1)) <= 1e-6


def test_the_projection_is_left_out(clip: Any) -> None:
    assert "proj" not in visual_to_timm(clip.state_dict(), "file")


def test_preprocessing_comes_with_the_weights() -> None:
    given: dict[str, Any] = {}
    assert ViT.preprocessing("image", {}, given) == {}
    found = ViT.preprocessing("video", {"model": CLIP, "weights": "x"}, given)
    assert (found["height"], found["width"], found["channels"]) == (224, 224, 3)
    # METHODS.md 5.9
    assert found["mean"] == pytest.approx([0.4815, 0.4578, 0.4082], abs=5e-5)
    assert found["std"] == pytest.approx([0.2686, 0.2613, 0.2758], abs=5e-5)
    grey = ViT.preprocessing("image", {"weights": "x"}, {"channels": 1, "image_size": 64})
    assert grey == {"channels": 1, "mean": [pytest.approx(0.4491, abs=1e-4)], "std": [pytest.approx(0.2686, abs=1e-4)]}
