"""Adapters in files: what comes back, and what is refused."""

import pytest
import torch

from polymodal.adapters import PMF, Houlsby, UniAdapter, inject_lora, load_adapter, save_adapter, save_lora
from polymodal.errors import InputError
from tests.adapters.hosts import host, stir


def test_an_adapter_comes_back_without_its_encoder(tmp_path):
    one, other = host("bert"), host("bert")
    adapter = Houlsby(one.encoder, down=2)
    stir(adapter)
    save_adapter(adapter, tmp_path / "a.safetensors")
    load_adapter(Houlsby(other.encoder, down=2), tmp_path / "a.safetensors")
    assert torch.equal(other.encoder(one.x).pooled, one.encoder(one.x).pooled)
    pmf = PMF({"a": 4, "v": 6}, last=1)
    save_adapter(pmf, tmp_path / "p.safetensors")
    again = PMF({"a": 4, "v": 6}, last=1)
    load_adapter(again, tmp_path / "p.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in pmf.state_dict().items())


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    adapter = Houlsby(host("bert").encoder, down=2)
    save_adapter(adapter, path)
    with pytest.raises(InputError, match="in encoders with other weights of the same shapes"):
        load_adapter(Houlsby(host("bert", seed=1).encoder, down=2), path)
    load_adapter(Houlsby(host("bert", seed=1).encoder, down=2), path, same_weights=False)
    with pytest.raises(InputError, match="belongs to other encoders or settings"):
        load_adapter(Houlsby(host("bert", width=4).encoder, down=2), path)
    pair = {"a": host("bert").encoder, "b": host("transformer").encoder}
    with pytest.raises(InputError, match="holds Houlsby, and UniAdapter was to be loaded"):
        load_adapter(UniAdapter(pair, down=2), path)
    with pytest.raises(InputError, match="no such file"):
        load_adapter(adapter, tmp_path / "b.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="truncated"):
        load_adapter(adapter, path)
    lora = inject_lora(host("bert").encoder)
    save_lora(lora, path)
    with pytest.raises(InputError, match="no adapter that save_adapter wrote"):
        load_adapter(adapter, path)
