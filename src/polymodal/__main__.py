"""`python -m polymodal` is `polymodal`: what `accelerate launch -m polymodal` and `torchrun -m polymodal` start."""

from polymodal.cli import main

main()
