"""Halo attention: blocks of queries that share their block and its surroundings.

Ashish Vaswani, Prajit Ramachandran, Aravind Srinivas, Niki Parmar, Blake Hechtman,
Jonathon Shlens. Scaling Local Self-Attention for Parameter Efficient Visual Backbones.
2021. arXiv:2103.12731. No official code; the reading of timm's layers/halo_attn.py
(huggingface/pytorch-image-models, 1.0.31) is followed.

A map is cut in blocks of b x b tokens; the queries of a block see the window of its
tokens and of h more on each side, w = b + 2 h on an axis:

  score[t, s] = scale q[t] . k[s] + q[t] . R[s_row - t_row] + q[t] . C[s_col - t_col]
  out = softmax(score over the w x w keys of the block's window) v

The tables R and C are shared by the heads. Keys beyond the map are zeros that are seen
(unless `mask_padding`). With stride 2 only every second query on an axis is computed.

Cost: O(w^2 (H + 2 w + V)) a query and head; the gathered keys and values take
(w / b)^2 times their memory in "xla".

Axes: B batch, T = rows x columns, N query heads, K key/value heads, H head size,
V value size, D model width.

Not here: the paper's hybrids, whose early stages convolve; timm's widths of heads where
they are rounded to multiples of 8.
"""

from attnjax.variants.local.halo.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.local.halo.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.local.halo.layer import Layer

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "Layer",
  "Model",
  "attend",
  "reference",
]
FORMS = ("image", "backbone")
LAYER = {"dim": 32, "heads": 4, "head_dim": 4, "block": 4, "halo": 1}
GROWTH = 1.0
