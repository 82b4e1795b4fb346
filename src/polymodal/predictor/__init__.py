"""The predictor: a table in, a trained model out, and everything about it in one folder."""

from polymodal.predictor.predictor import Predictor

__all__ = ["Predictor"]
