"""A trained model that answers: prompts in, distributions, completions and addresses out."""

from model.inference.ping_model import PingModel

__all__ = ["PingModel"]
