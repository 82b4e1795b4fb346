"""Analyses of trained models."""

from polymodal.analysis.reports import compare, report

__all__ = ["compare", "report"]
