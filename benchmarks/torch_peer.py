"""The training step's peer: the same transformer in plain PyTorch, as one would write it there.

RMSNorm, rotary positions, `scaled_dot_product_attention`, GELU MLP, untied embeddings, masked cross-entropy,
clipping and AdamW (fused), at the shape of a `ModelConfig` without tables and without dropout. On a GPU in
bfloat16 under autocast; compiled where `torch.compile` works.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import Config, ModelConfig
from model.network.transformer import ROPE_BASE


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, config.mlp, bias=False)
        self.mlp_out = nn.Linear(config.mlp, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C); cosines and sines (T, D/2) of the positions."""
        batch, length, width = x.shape
        qkv = self.query_key_value(self.attention_norm(x))
        query, key, value = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        fed: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))
        return x + fed


class Peer(nn.Module):
    """Tokens (B, T) to logits (B, T, vocabulary)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        size = config.head_size
        frequency = ROPE_BASE ** (-torch.arange(0, size, 2) / size)
        angle = torch.arange(config.context)[:, None] * frequency
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + D/2) of `x` (B, H, T, D)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class PeerSteps:
    """Training steps of the peer on one resident batch."""

    def __init__(self, config: Config, tokens: np.ndarray, lengths: np.ndarray) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_float32_matmul_precision("high")
        model: Any = Peer(config.model).to(self.device)
        self.weights = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=config.train.learning_rate, fused=True)
        self.clip = config.train.clip_norm
        self.model = torch.compile(model) if self.device == "cuda" else model
        self.tokens = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        live = np.arange(1, tokens.shape[1]) < lengths[:, None]
        targets = np.where(live, tokens[:, 1:].astype(np.int64), -100)  # ignored by cross_entropy
        self.targets = torch.from_numpy(targets).to(self.device)

    def turn(self, count: int) -> float:
        """Seconds per step, over `count` steps."""
        began = time.perf_counter()
        for _ in range(count):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                logits = self.model(self.tokens)[:, :-1]
            loss = F.cross_entropy(logits.float().flatten(0, 1), self.targets.flatten())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights, self.clip)
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        loss.detach().cpu()
        return (time.perf_counter() - began) / count
