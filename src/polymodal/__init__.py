"""Train one model on several modalities so that none of them is starved by the others.

Names are imported when first used, so that `import polymodal` and `polymodal --help` answer without loading torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymodal import adapters, analysis, balancers, data, encoders, errors, fusion, metrics, recipes, tasks, types
    from polymodal.errors import InputError
    from polymodal.evaluate import evaluate, predict
    from polymodal.fit import fit
    from polymodal.model import MultimodalModel, forward
    from polymodal.predictor import Predictor
    from polymodal.types import Batch, Features, Output, Padded, Pair, Step, Sum, Totals

__version__ = "0.1.0.dev0"

__all__ = [
    "Batch",
    "Features",
    "InputError",
    "MultimodalModel",
    "Output",
    "Padded",
    "Pair",
    "Predictor",
    "Step",
    "Sum",
    "Totals",
    "__version__",
    "adapters",
    "analysis",
    "balancers",
    "data",
    "encoders",
    "errors",
    "evaluate",
    "fit",
    "forward",
    "fusion",
    "metrics",
    "predict",
    "recipes",
    "tasks",
    "types",
]

# Where each name that is not itself a module comes from.
_MODULE_OF = {
    "Batch": "types",
    "Features": "types",
    "InputError": "errors",
    "MultimodalModel": "model",
    "Output": "types",
    "Padded": "types",
    "Pair": "types",
    "Predictor": "predictor",
    "Step": "types",
    "Sum": "types",
    "Totals": "types",
    "evaluate": "evaluate",
    "fit": "fit",
    "forward": "model",
    "predict": "evaluate",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value: Any = getattr(import_module(f"polymodal.{_MODULE_OF[name]}"), name)
    elif name in __all__:
        value = import_module(f"polymodal.{name}")
    else:
        raise AttributeError(f"module 'polymodal' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `polymodal.fit` and `polymodal.evaluate` functions: importing a submodule would put the module there."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _MODULE_OF.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
