"""What the server that test processes are forked from imports once, so that each of them starts at once."""

from multiprocessing.forkserver import set_forkserver_preload

PRELOAD = [
    "torch", "torch._dynamo", "pandas", "pytest", "accelerate", "accelerate.tracking", "rich.progress", "sklearn.metrics",
    "PIL.Image", "soundfile", "polymodal.predictor", "polymodal.cli",
]  # fmt: skip


def preload() -> None:
    """Tell the server, which must not have been started before."""
    set_forkserver_preload(PRELOAD)
