"""RCMHA: relative convolutional multi-head attention, with MDHA and RMHA.

Herman Sugiharto, Aradea, Husni Mubarok. RCMHA: Relative Convolutional Multi-Head
Attention for Natural Language Modelling. 2023. arXiv:2308.03429.
Official code: github.com/hermansh-id/rcmha.
MDHA: David R. So et al. Primer. 2021. arXiv:2109.08668; code in
github.com/google-research/google-research, primer. RMHA: Zihang Dai et al.
Transformer-XL. 2019. arXiv:1901.02860; code in github.com/kimiyoung/transformer-xl.

Token t is at the place M + t of a row of M earlier tokens, the memory, and of T own
ones; S = M + T, d = M + t - s >= 0:

  q = C_q(x Wq),   k = C_k([m; x] Wk),   v = C_v([m; x] Wv + bv)
  C(y)[t]  = b + sum_i W[i] y[t - i],                i < conv_width, by channel
  score    = H^-0.5 ((q[t] + u) . k[s] + (q[t] + w) . E[d] + beta[d])
  y        = softmax(score) v Wo + bo

RCMHA learns E, beta and u, all 0 at the start, and has no w; its heads share filters.
MDHA has the convolutions alone, with filters for each head. RMHA has no convolution,
E[d] = r[d] Wr of sinusoids r, and learns u and w. Distances above `max_distance` count
as it, as with the clamp_len of Transformer-XL.

Two segments with a memory give the results of one row, if the memory holds the first
one and queries' convolutions reach into it (`conv_halo`). Those of the authors do not.
`TransformerXL` is the model around it.

Cost: O(T S D + conv_width S D) time. Memory O(T + S) beside a bias (B, N, t, S) of
blocks of t queries, at most 2^24 elements or 128 queries. Decoding keeps 2 D elements a
token, and the last conv_width - 1 inputs.

Axes: B batch, T query tokens, S key tokens, M memory, N heads, H head size, D model
width, R distances.

Not here: a kernel that shifts the product of queries and E inside a tile: the bias is
computed outside of it, block by block.
"""

from attnjax.variants.softmax.rcmha.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.softmax.rcmha.layer import (
  BIASES,
  FILTERS,
  FORMS,
  KINDS,
  Cache,
  Layer,
)
from attnjax.variants.softmax.rcmha.model import Block, TransformerXL

__all__ = [
  "BIASES",
  "Block",
  "CASES",
  "FILTERS",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "Cache",
  "Layer",
  "TransformerXL",
  "attend",
  "reference",
]
LAYER = {"dim": 16, "heads": 2, "max_distance": 64}
GROWTH = 2.0
