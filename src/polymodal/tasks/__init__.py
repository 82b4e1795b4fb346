"""Tasks: the loss, the per-sample score, the prediction and the metrics that go with a kind of target."""

from polymodal.tasks.base import Task
from polymodal.tasks.classification import Classification
from polymodal.tasks.multilabel import MultiLabel
from polymodal.tasks.regression import Regression
from polymodal.tasks.retrieval import Retrieval, similarity

__all__ = ["Classification", "MultiLabel", "Regression", "Retrieval", "Task", "similarity"]
