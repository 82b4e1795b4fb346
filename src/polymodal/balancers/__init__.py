"""Balancers: methods that change the gradient of one training step."""

from polymodal.balancers.base import Balancer, Joint
from polymodal.balancers.mlb import MLB
from polymodal.balancers.multi_loss import MultiLoss
from polymodal.balancers.ogm import OGM, OGM_GE

__all__ = ["MLB", "OGM", "OGM_GE", "Balancer", "Joint", "MultiLoss"]
