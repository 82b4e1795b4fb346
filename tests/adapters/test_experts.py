"""Adapters between the layers that experts share: nothing put in changes nothing, and what each expert sees."""

import copy

import pytest
import torch

from polymodal.adapters import MBT, PMF, Adapter, MaPLe
from polymodal.adapters.experts import BetweenExperts, ExpertLayers
from polymodal.errors import InputError
from polymodal.fusion.retrieval import MMT
from polymodal.types import Features

NAMES = ("face", "rgb", "sound")
LENGTHS = {"face": 2, "rgb": 4, "sound": 3}


def made(depth=3):
    torch.manual_seed(0)
    fusion = MMT({"caption": 5, **dict.fromkeys(NAMES, 8)}, query="caption", depth=depth, heads=2, hidden=16)
    return fusion.double().eval(), {m: ExpertLayers(fusion.layers, 8) for m in NAMES}


def features():
    torch.manual_seed(1)
    found = {m: Features(torch.randn(4, 8).double(), torch.randn(4, n, 8).double()) for m, n in LENGTHS.items()}
    mask = torch.arange(4) < torch.tensor([[4], [2], [1], [3]])
    there = torch.tensor([True, False, True, True])
    found["rgb"] = found["rgb"]._replace(mask=mask)
    found["sound"] = found["sound"]._replace(present=there)
    return {"caption": Features(torch.randn(4, 5).double()), **found}


METHODS = {
    "maple": lambda hosts: MaPLe(hosts, depth=2),
    "pmf": lambda hosts: PMF(dict.fromkeys(hosts, 8), last=2, query=2),
    "mbt": lambda hosts: MBT(dict.fromkeys(hosts, 8), last=2, tokens=2),
}


@pytest.mark.parametrize("last", [0, 1, 3])
def test_rows_of_all_experts_are_the_joint_layers(last):
    fusion, hosts = made()
    wanted = fusion(features(), {}).gallery
    fusion.insert(BetweenExperts(Adapter(last), hosts))
    torch.testing.assert_close(fusion(features(), {}).gallery, wanted)


@pytest.mark.parametrize("name", METHODS)
def test_an_expert_that_a_sample_lacks_tells_nothing_and_all_of_the_adapter_learns(name):
    fusion, hosts = made()
    plain = fusion(features(), {}).gallery
    fusion.requires_grad_(False)
    adapter = METHODS[name](hosts).double()
    fusion.insert(BetweenExperts(adapter, hosts))
    one = features()
    found = fusion(one, {}).gallery
    assert (found[0] - plain[0]).abs().max() > 1e-6
    other = dict(one)
    tokens = one["sound"].tokens
    assert tokens is not None
    noise = torch.where(one["sound"].present[:, None, None], tokens, 9.0)
    other["sound"] = one["sound"]._replace(tokens=noise)
    torch.testing.assert_close(fusion(other, {}).gallery, found)
    copied = copy.deepcopy(fusion)
    torch.testing.assert_close(copied(one, {}).gallery, found)
    (found * torch.randn_like(found)).sum().backward()
    trained = [p for p in fusion.parameters() if p.requires_grad]
    assert len(trained) == len(list(adapter.parameters()))
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained)


def test_a_prompt_in_front_of_one_expert_is_seen_by_that_one_alone():
    fusion, hosts = made(depth=1)
    maple = MaPLe(hosts, depth=1).double()
    fusion.insert(BetweenExperts(maple, hosts))
    before = fusion(features(), {}).gallery
    with torch.no_grad():
        maple.couplings[0]["sound"].weight.mul_(50)  # type: ignore[index]
    moved = (fusion(features(), {}).gallery - before).abs().amax((0, 2))
    assert moved[2] > 1e-6
    assert (moved[:2] == 0).all()


def test_what_is_refused():
    _, hosts = made()
    with pytest.raises(InputError, match="last=4 layers over experts with 3"):
        BetweenExperts(Adapter(4), hosts)
    with pytest.raises(InputError, match="norms behind"):
        ExpertLayers(torch.nn.ModuleList([torch.nn.Linear(2, 2)]), 2)
