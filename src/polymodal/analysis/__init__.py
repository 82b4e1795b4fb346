"""Analyses of trained models."""

__all__: list[str] = []
