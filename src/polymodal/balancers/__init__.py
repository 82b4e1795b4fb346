"""Balancers: methods that change the gradient of one training step."""

from polymodal.balancers.agm import AGM
from polymodal.balancers.base import Balancer, Joint
from polymodal.balancers.mlb import MLB
from polymodal.balancers.mmpareto import MMPareto
from polymodal.balancers.mslr import MSLR
from polymodal.balancers.multi_loss import MultiLoss
from polymodal.balancers.ogm import OGM, OGM_GE
from polymodal.balancers.pmr import PMR
from polymodal.balancers.umt import UMT

__all__ = ["AGM", "MLB", "MSLR", "OGM", "OGM_GE", "PMR", "UMT", "Balancer", "Joint", "MMPareto", "MultiLoss"]
