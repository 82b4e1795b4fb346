"""The command line: parses, calls the predictor, prints."""

from polymodal.cli.commands import app, main

__all__ = ["app", "main"]
