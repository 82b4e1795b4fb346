from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv
from torch import nn

from polymodal.encoders.weights import inflate_channels, load_strictly, locate, read_weights
from polymodal.errors import InputError

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class Harmful:
    """What would make a file if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.pt"])
def test_tensors_are_read_from_either_format(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    save_file(TENSORS, file) if name.endswith("safetensors") else torch.save(TENSORS, file)
    found = read_weights(file)
    assert list(found) == sorted(TENSORS) or list(found) == list(TENSORS)
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_a_training_checkpoint_of_a_wrapped_model(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": one for name, one in TENSORS.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").keys() == TENSORS.keys()


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": TENSORS["weight"], "harm": Harmful(tmp_path / "mark")}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: the file holds pickled code, which is never run"):
        read_weights(tmp_path / "a.pt")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
@pytest.mark.parametrize("kept", [0, 7, 200])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: int) -> None:
    file = tmp_path / name
    large = {"weight": torch.randn(20, 20)}
    save_file(large, file) if name.endswith("safetensors") else torch.save(large, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{name}: truncated"):
        read_weights(file)


@pytest.mark.parametrize("content", [{"a": 1}, {}, [torch.ones(2)], torch.ones(2)])
def test_other_things_than_tensors_by_name_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected tensors by name"):
        read_weights(tmp_path / "a.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "missing bias"),
        ({"more": torch.ones(1)}, "unexpected more"),
        ({"bias": torch.ones(3)}, r"bias is \(3,\), expected \(2,\)"),
    ],
)
def test_weights_load_as_a_whole_or_not_at_all(change: dict[str, Any], message: str) -> None:
    module = nn.Linear(3, 2)
    before = {name: one.clone() for name, one in module.state_dict().items()}
    tensors = {name: one for name, one in (TENSORS | change).items() if one is not None}
    with pytest.raises(InputError, match=f"file do not fit Linear, nothing was loaded: {message}"):
        load_strictly(module, tensors, "file")
    assert all(torch.equal(before[name], one) for name, one in module.state_dict().items())
    load_strictly(module, TENSORS, "file")
    assert torch.equal(module.weight, TENSORS["weight"])


def test_a_long_list_is_cut() -> None:
    with pytest.raises(InputError, match="and 12 more"):
        load_strictly(nn.Linear(3, 2), TENSORS | {f"m{i}": torch.ones(1) for i in range(20)}, "file")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 10, 20])
def test_inflated_channels(channels: int) -> None:
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    repeated = inflate_channels(weight, channels, "repeat")
    torch.testing.assert_close(repeated, adapt_input_conv(channels, weight).double(), atol=1e-6, rtol=0)
    averaged = inflate_channels(weight, channels)
    assert averaged.shape == (5, channels, 3, 3)
    if channels == 3:
        assert torch.equal(averaged, weight)
        return
    # By the definition, written out: every channel the mean of R, G and B, scaled so that grey pictures give what they gave.
    for c in range(channels):
        torch.testing.assert_close(averaged[:, c], (weight[:, 0] + weight[:, 1] + weight[:, 2]) / 3 * 3 / channels)
    torch.testing.assert_close(averaged.sum(1), weight.sum(1))


def test_an_unknown_way_to_inflate() -> None:
    with pytest.raises(InputError, match="'average' or 'repeat'"):
        inflate_channels(torch.ones(1, 3, 1, 1), 2, "guess")


def test_only_a_hub_name_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def file(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        return str(tmp_path / name)

    def folder(repository: str, revision: str | None, allow_patterns: list[str] | None) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", file)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", folder)
    assert locate("someone/model") == Path("someone/model")
    assert asked == []
    assert locate("hub:someone/model@v2/a.bin") == tmp_path / "a.bin"
    assert locate("hub:someone/model", ["*.json"]) == tmp_path
    assert asked == [("someone/model", "a.bin", "v2"), ("someone/model", None, ["*.json"])]
    with pytest.raises(InputError, match="hub:OWNER/REPOSITORY"):
        locate("hub:model")


def test_a_failed_download_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fails(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(InputError, match=r"cannot be downloaded \(offline\); give a local path"):
        locate("hub:someone/model/a.bin")
