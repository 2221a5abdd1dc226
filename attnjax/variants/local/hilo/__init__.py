"""HiLo attention: some heads in small windows, the others on pooled windows.

Zizheng Pan, Jianfei Cai, Bohan Zhuang. Fast Vision Transformers with HiLo Attention.
2022. arXiv:2205.13213. Official code: github.com/ziplab/LITv2 (commit 7501c86).

Of N heads the last L = int(alpha N) are low, the first K = N - L high:

  high[t] = softmax_s(scale q[t] . k[s]) v[s]      s in the s x s window of t
  low[t]  = softmax_p(scale q[t] . k[p]) v[p]      p the means of x in all windows
  y       = concatenate(high W, low W')

Each head reads all of x, and nothing but the host's MLP mixes the two halves. There is
no bias of position: in the model a depthwise convolution in each MLP tells places.
With windows of one token all heads are low, which is softmax attention. A grid that
windows do not tile is padded; padding is not seen and does not count in the means.

Cost: O(T s^2 H K + (T / s)^2 H L) time for windows of s x s, O(T N H) memory; T^2 N
numbers in "reference".

Axes: B batch, S the two axes of the grid, T their tokens, P those of the pooled grid,
N heads, K high heads, L low heads, H head size, V value size, D model width.

Not here: the networks that detect and segment.
"""

from attnjax.variants.local.hilo.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.local.hilo.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.local.hilo.layer import Layer

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
LAYER = {"dim": 32, "heads": 4, "window": 4}
GROWTH = 2.0
