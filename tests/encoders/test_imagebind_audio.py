"""ImageBind's audio encoder: the published layout and sizes, the attention written out, clips, bad checkpoints."""

import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polymodal.encoders import ImageBindAudio
from polymodal.encoders.by_kind import facts
from polymodal.encoders.imagebind_audio import drop_path
from polymodal.errors import InputError
from polymodal.names import build, resolve
from tests.encoders import sequence_properties as properties
from tests.encoders.sequence_properties import assert_same, in_steps, settled

SMALL = {"bins": 26, "length": 36, "width": 8, "depth": 3, "heads": 2, "dim": 6}
PATCHES = 2 * 3


def make(**options):
    return ImageBindAudio(**SMALL | options)


def clips(*sizes):
    return torch.randn(*sizes, 1, 26, 36).double()


def published(width=8, depth=3, dim=6, positions=1 + PATCHES):
    """A checkpoint with the names of imagebind_huge.pth, other trunks included (METHODS.md 5.9), as shapes."""
    before, head = "modality_preprocessors.audio.", "modality_heads.audio."
    shapes = {
        f"{before}cls_token": (1, 1, width),
        f"{before}rgbt_stem.proj.weight": (width, 1, 16, 16),
        f"{before}rgbt_stem.norm_layer.weight": (width,),
        f"{before}rgbt_stem.norm_layer.bias": (width,),
        f"{before}pos_embedding_helper.pos_embed": (1, positions, width),
        f"{head}0.weight": (width,),
        f"{head}0.bias": (width,),
        f"{head}2.weight": (dim, width),
        "modality_postprocessors.audio.1.log_logit_scale": (),
        "modality_postprocessors.text.1.log_logit_scale": (),
        "modality_preprocessors.vision.cls_token": (1, 1, 5),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (5,),
        "modality_trunks.vision.blocks.0.norm_1.weight": (5,),
        "modality_heads.vision.2.weight": (6, 5),
    }
    for index in range(depth):
        block = f"modality_trunks.audio.blocks.{index}."
        shapes |= {
            f"{block}attn.in_proj_weight": (3 * width, width),
            f"{block}attn.in_proj_bias": (3 * width,),
            f"{block}attn.bias_k": (1, 1, width),
            f"{block}attn.bias_v": (1, 1, width),
            f"{block}attn.out_proj.weight": (width, width),
            f"{block}attn.out_proj.bias": (width,),
            f"{block}norm_1.weight": (width,),
            f"{block}norm_1.bias": (width,),
            f"{block}norm_2.weight": (width,),
            f"{block}norm_2.bias": (width,),
            f"{block}mlp.fc1.weight": (4 * width, width),
            f"{block}mlp.fc1.bias": (4 * width,),
            f"{block}mlp.fc2.weight": (width, 4 * width),
            f"{block}mlp.fc2.bias": (width,),
        }
    return shapes


def checkpoint(**sizes):
    return {name: torch.randn(shape) * 0.3 for name, shape in published(**sizes).items()}


def reference(tensors, x, heads=2):
    """One clip (1, F, T) through the checkpoint's own names, with attention written out: all tokens of the head."""
    t = {name: one.double() for name, one in tensors.items()}
    before = "modality_preprocessors.audio."
    width = t[f"{before}cls_token"].shape[-1]
    patches = F.conv2d(x[None], t[f"{before}rgbt_stem.proj.weight"], stride=10)[0].flatten(1).T
    patches = normed(patches, t, f"{before}rgbt_stem.norm_layer", 1e-5)
    h = torch.cat([t[f"{before}cls_token"][0], patches])
    h = h + t[f"{before}pos_embedding_helper.pos_embed"][0]
    depth = sum(name.endswith("attn.in_proj_weight") for name in t)
    for index in range(depth):

        def of(name, index=index):
            return t[f"modality_trunks.audio.blocks.{index}.{name}"]

        y = normed(h, t, f"modality_trunks.audio.blocks.{index}.norm_1", 1e-6)
        q, k, v = (y @ of("attn.in_proj_weight").T + of("attn.in_proj_bias")).chunk(3, -1)
        k, v = torch.cat([k, of("attn.bias_k")[0]]), torch.cat([v, of("attn.bias_v")[0]])
        mixed = []
        for head in range(heads):
            own = slice(head * width // heads, (head + 1) * width // heads)
            mixed.append((q[:, own] @ k[:, own].T / math.sqrt(width // heads)).softmax(-1) @ v[:, own])
        h = h + torch.cat(mixed, -1) @ of("attn.out_proj.weight").T + of("attn.out_proj.bias")
        y = normed(h, t, f"modality_trunks.audio.blocks.{index}.norm_2", 1e-6)
        y = F.gelu(y @ of("mlp.fc1.weight").T + of("mlp.fc1.bias")) @ of("mlp.fc2.weight").T
        h = h + y + of("mlp.fc2.bias")
    return normed(h, t, "modality_heads.audio.0", 1e-6)


def normed(x, tensors, name, eps):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=eps)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("dim", [6, None])
def test_a_checkpoint_of_the_published_layout_gives_what_its_formulas_give(tmp_path, dim, gradients):
    tensors = checkpoint()
    torch.save(tensors, tmp_path / "imagebind_huge.pth")
    encoder = make(weights=tmp_path / "imagebind_huge.pth", dim=dim).double().eval()
    x = clips(2)
    with torch.set_grad_enabled(gradients):
        found = encoder(x)
    assert encoder.dim == (dim or 8)
    for i in range(2):
        expected = reference(tensors, x[i])
        if dim:
            expected = expected @ tensors["modality_heads.audio.2.weight"].double().T
        assert_same(found.tokens[i], expected)
        assert_same(found.pooled[i], expected[0])


def test_the_published_sizes():
    with torch.device("meta"):
        encoder = ImageBindAudio()
    own = {name: tuple(one.shape) for name, one in encoder.state_dict().items()}
    shapes = published(width=768, depth=12, dim=1024, positions=229)
    others = ("text", "vision", "postprocessors")
    assert len(own) == sum(not any(other in name for other in others) for name in shapes) == 8 + 14 * 12
    assert own["positions"] == (1, 1 + 12 * 19, 768)
    assert own["stem.weight"] == (768, 1, 16, 16)
    assert own["projection.weight"] == (1024, 768)
    assert own["layers.11.attn.bias_k"] == (1, 1, 768)
    assert [layer.path_dropout for layer in encoder.layers] == pytest.approx([0.1 * i / 11 for i in range(12)])
    assert encoder.stem.stride == (10, 10)
    assert encoder.stem_norm.eps == 1e-5
    assert encoder.norm.eps == 1e-6
    norms = {name: part.eps for name, part in encoder.layers.named_modules() if isinstance(part, nn.LayerNorm)}
    assert len(norms) == 24
    assert set(norms.values()) == {1e-6}
    assert {getattr(layer.attn, "num_heads", None) for layer in encoder.layers} == {12}
    assert encoder.dim == 1024


def test_clips_of_a_recording_are_averaged():
    encoder, x = settled(make()), clips(2, 3)
    found = encoder(x)
    each = torch.stack([encoder(x[:, k]).pooled for k in range(3)])
    assert_same(found.pooled, each.mean(0))
    assert found.tokens.shape == (2, 3 * (1 + PATCHES), 6)
    assert_same(found.tokens[:, 1 + PATCHES : 2 * (1 + PATCHES)], encoder(x[:, 1]).tokens)


@pytest.mark.parametrize("count", [1, 3])
def test_foreign_tokens(count):
    encoder, x = settled(make()), clips(2, count)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x)
    front = torch.randn(2, 2, 8).double()
    hidden = torch.tensor([[True, False], [False, True]])
    found = in_steps(encoder, x, front, hidden)
    kept = torch.stack([front[0, :1], front[1, 1:]])
    assert_same(found.pooled, in_steps(encoder, x, kept).pooled)


def test_a_layer_sees_one_clip_and_averages_foreign_tokens():
    encoder, x, front = settled(make()), clips(2, 3), torch.randn(2, 2, 8).double()
    state = encoder.run_layer(0, encoder.embed(x).add(front))
    each = [encoder.run_layer(0, encoder.embed(x[:, k]).add(front)) for k in range(3)]
    assert_same(state.extras(), torch.stack([one.extras() for one in each]).mean(0))
    assert_same(state.drop().tokens, torch.cat([one.drop().tokens for one in each], 1))


def test_a_sample_without_any_token_is_finite():
    encoder = settled(make())
    state = encoder.embed(clips(2))
    mask = torch.tensor([[True], [False]]).expand(2, 1 + PATCHES)
    hidden = encoder.run_layer(0, state._replace(mask=mask))
    assert hidden.tokens.isfinite().all()
    assert_same(hidden.tokens[0], encoder.run_layer(0, state).tokens[0])


@pytest.mark.parametrize("dim", [6, None])
def test_gradients_reach_every_parameter(dim):
    properties.assert_gradients_reach_every_parameter(settled(make(dim=dim)), clips(2, 2))


def test_paths_are_dropped_in_training_alone():
    encoder, x = make(path_dropout=0.9), clips(8).float()
    assert not torch.equal(encoder(x).pooled, encoder(x).pooled)
    encoder.eval()
    assert torch.equal(encoder(x).pooled, encoder(x).pooled)


def test_dropped_paths_keep_the_mean():
    ones = torch.ones(4000, 3, 2)
    found = drop_path(ones, 0.25, True)
    assert ((found == 0) | (found == 1 / 0.75)).all()
    assert (found.flatten(1) == found[:, 0, :1]).all()
    assert found.mean().item() == pytest.approx(1, abs=0.05)
    assert drop_path(ones, 0.25, False) is ones


def test_exported_program_equals_the_encoder():
    def recording(batch, count):
        return torch.randn(batch, count, 1, 26, 36)

    properties.assert_exports(make(depth=1), recording, [(3, 2), (2, 4), (4, 3)])


def test_built_from_facts_and_preprocessing():
    make_it = resolve("encoders", "imagebind_audio")
    settings = {"width": 8, "depth": 1, "heads": 2, "dim": 6}
    encoder = build(make_it, settings, facts("audio", (3, 1, 26, 36)), "encoders.audio")
    assert encoder(clips(2, 3).float()).pooled.shape == (2, 6)
    options = make_it.preprocessing("audio", {}, {})
    assert options["sample_rate"] == 16000
    assert (options["n_mels"], options["clip_frames"]) == (128, 204)
    assert (options["mean"], options["std"]) == ([-4.268], [9.138])


@pytest.mark.parametrize("shape", [(2, 1, 26, 35), (2, 3, 2, 26, 36), (2, 1, 20, 36)])
def test_clips_of_another_size_are_refused(shape):
    with pytest.raises(InputError, match="kaldi_clips"):
        make()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, "3 attention heads do not divide the width 8"), ({"bins": 12}, "smaller than a patch")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


class Code:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


def bad_files():
    whole = checkpoint()
    name = "modality_trunks.audio.blocks.1.attn.bias_k"
    wide = "modality_heads.audio.2.weight"
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return {
        "missing tensor": ({n: one for n, one in whole.items() if n != name}, "missing layers.1.attn.bias_k"),
        "other depth": (checkpoint(depth=4), "unexpected layers.3"),
        "other shape": (whole | {wide: torch.zeros(9, 8)}, r"projection.weight is \(9, 8\), expected \(6, 8\)"),
        "other architecture": (nn.Linear(2, 2).state_dict(), "no ImageBind audio encoder"),
        "truncated": (buffer.getvalue()[:-2000], "truncated"),
        "empty": (b"", "truncated"),
        "code": (pickle.dumps(Code(), protocol=2), "pickled code"),
        "code in a torch file": (whole | {"more": Code()}, "pickled code"),
    }


@pytest.mark.parametrize("case", bad_files())
def test_a_bad_checkpoint_is_refused(case, tmp_path):
    content, message = bad_files()[case]
    file = tmp_path / "imagebind_huge.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=message) as error:
        make(weights=file)
    assert str(file) in str(error.value)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; put it there"):
        make(weights=tmp_path / "imagebind_huge.pth")
