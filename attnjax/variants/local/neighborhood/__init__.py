"""Generalized neighborhood attention: windows, strides, dilation on 1-3 axes.

Ali Hassani, Fengzhe Zhou, Aditya Kane, et al. Generalized Neighborhood Attention:
Multi-dimensional Sparse Attention at the Speed of Light. 2025. arXiv:2504.16922.
Ali Hassani, Wen-Mei Hwu, Humphrey Shi. Faster Neighborhood Attention. 2024.
arXiv:2403.04690. Official code: github.com/SHI-Labs/NATTEN (commit 8c8729f).

On an axis of length L, tokens with i mod d = g are a group of L_g tokens, and query
number i of a group sees the keys [a, b) of that group, with window w and stride s:

  e = min((i div s) s + s div 2, L_g - 1)                not causal
  a = clip(e - w div 2, 0, L_g - w),  b = a + w
  e = min((i div s) s + s - 1, L_g - 1)                  causal
  a = max(e - w + 1, 0),              b = i + 1

Windows shift inwards at borders, they do not shrink. A query of a grid sees the
product of its windows; extra keys are seen by all:

  out = softmax(scale q k^T within the windows, and q extra_k^T) [v, extra_v]

s = 1 slides, s = w dividing L gives blocks (the windows of Swin), w = L without
causal axes is dense attention.

Cost: O(T w H N) time, w = prod of the windows (with tiles of about a window, at most
2^axes times the products), memory O(T H) times at most 2^axes in "xla", O(T^2 N) in
"reference". "pallas" and "triton" put the tokens in tiles (boxes of 512 and 128) and
visit the tiles that `simulate.visits` counts. Decoding keeps 2 K H w d elements,
for any length.

Axes: B batch, S the axes of the grid (T = prod S), N query heads, K key/value heads,
H head size, V value size, E extra keys, D model width.
"""

import jax.numpy as jnp

from attnjax.contract import Case
from attnjax.variants.local.neighborhood.attention import (
  IMPLEMENTATIONS,
  attend,
  dense_mask,
  reference,
)
from attnjax.variants.local.neighborhood.decode import Cache
from attnjax.variants.local.neighborhood.layer import Layer

FORMS = ("causal", "sequence", "image")  # and "video", which no host uses

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "Cache",
  "Layer",
  "attend",
  "dense_mask",
  "reference",
]


def _shapes(B, S, N, K, H, V):
  return {"q": (B, *S, N, H), "k": (B, *S, K, H), "v": (B, *S, K, V)}


def _packed(key):
  del key
  ids = jnp.array(
    [[0] * 9 + [1] * 3 + [-1] * 2 + [0] * 11, [4] * 1 + [-1] * 9 + [2] * 15]
  )
  return ids


CASES = (
  Case("one_token", _shapes(1, (1,), 1, 1, 4, 4), {"window": 1}),
  Case("seven", _shapes(2, (7,), 1, 1, 4, 4), {"window": 7, "return_lse": True}),
  Case(
    "strided_grouped",
    _shapes(1, (63,), 4, 2, 8, 5),
    {"window": 6, "stride": 4, "dilation": 2, "scale": 0.3, "return_lse": True},
  ),
  Case(
    "causal", _shapes(1, (65,), 2, 1, 4, 4), {"window": 7, "stride": 3, "causal": True}
  ),
  Case(
    "packed",
    _shapes(2, (25,), 2, 1, 4, 4),
    {"window": 5, "stride": 2, "dilation": 2, "segment_ids": _packed},
  ),
  Case(
    "packed_causal",
    _shapes(2, (25,), 2, 2, 4, 4),
    {"window": 4, "causal": True, "segment_ids": _packed, "return_lse": True},
  ),
  Case(
    "grid_extra",
    _shapes(1, (9, 14), 2, 1, 4, 3)
    | {"extra_k": (1, 3, 1, 4), "extra_v": (1, 3, 1, 3)},
    {"window": (5, 4), "stride": (1, 2), "dilation": (1, 3), "return_lse": True},
  ),
  Case(
    "video",
    _shapes(1, (3, 5, 4), 2, 1, 4, 4),
    {
      "window": (3, 4, 2),
      "stride": (2, 1, 2),
      "dilation": (1, 1, 2),
      "causal": (True, False, False),
    },
  ),
)
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2, "window": 3}
GROWTH = 1.0
