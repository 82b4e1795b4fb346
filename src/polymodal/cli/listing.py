"""`polymodal list`: the names that options take."""

from __future__ import annotations

from typing import Literal

__all__ = ["list_"]

ABOUT = {
    ("balancers", "joint"): "Joint training: the fused loss alone.",
    ("adapters", "lora"): "Low-rank updates W x + (alpha / r) B A x of the weights of one encoder.",
}
"""What `list` says of classes whose docstring is about something else."""


def list_(what: Literal["balancers", "fusions", "recipes", "adapters", "encoders", "datasets"] | None = None) -> None:
    """Names that the options take, with what each is; adapters go with --recipe adapter recipe.method=NAME.

    Parameters
    ----------
    what:
        One of the lists; all by default.
    """
    from polymodal.names import RETRIEVAL, entries

    packages = {
        "balancers": ("balancers", ("Balancer",)),
        "fusions": ("fusion", ("Fusion",)),
        "recipes": ("recipes", ()),
        "adapters": ("adapters", ()),
        "encoders": ("encoders", ("Encoder", "LayeredEncoder", "State", "linear_heads")),
    }
    for title in packages if what is None else [what] if what in packages else []:
        package, bases = packages[title]
        if not what:
            print(f"{title}:")
        found = entries(package, bases=bases) | (entries(RETRIEVAL) if package == "fusion" else {})
        for name, value in sorted(found.items()):
            text = ABOUT.get((title, name)) or (value.__doc__ or "").strip()
            print(f"{'' if what else '  '}{name:16} {text.splitlines()[0] if text else ''}")
    if what in (None, "datasets"):
        from polymodal.datasets import NAMES, find

        if not what:
            print("datasets:")
        for name in NAMES:
            print(f"{'' if what else '  '}{name:16} {find(name).help.splitlines()[0]}")
