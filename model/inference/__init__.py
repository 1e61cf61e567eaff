"""Inference: queries in; RTT distributions, completed addresses and sampled addresses out."""

from model.inference.ping_model import PingModel

__all__ = ["PingModel"]
