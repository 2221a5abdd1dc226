"""NPRF: normalised random-feature attention with relative positions, by Toeplitz FFT.

Shengjie Luo, Shanda Li, Tianle Cai, Di He, Dinglan Peng, Shuxin Zheng, Guolin Ke, Liwei
Wang, Tie-Yan Liu. Stable, Fast and Accurate: Kernelized Attention with Relative
Positional Encoding. 2021. arXiv:2106.12566. No official code is public; the definition
here is `reference`, whose limit for many features is softmax attention as in jax.nn.

  z_i = sum_j c_{j-i} phi(q_i) . phi(k_j) v_j / sum_j c_{j-i} phi(q_i) . phi(k_j)
  c_d = exp(b_d), and 0 for d > 0 if causal;  b a learned table of lags for each head
  q <- q / |q|, k <- k / |k|
  phi(x) = exp(w x - |x|^2 / 2) / sqrt(M),  w (M, H) ~ N(0, 1)

so that E[phi(q) . phi(k)] = exp(q . k): without the normalisation the error grows as
exp(|q + k|^2 / 2), with it the error is bounded, and the bias makes up for the lost
lengths. Without both this is the attention of Performers; with phi = elu + 1 it is the
attention of linear transformers.

c is a Toeplitz matrix: for each feature a and column e of [v, 1] the sums over j are
its product with phi(k_j)_a v_je, one Fourier transform. On images lags have two axes.

Every row is summed relative to the greatest exponent that it sees, and divided by its
sum, however small. No later key changes a causal row.

Cost for each head: O(T log T M E) time, causal O(T log^2 T M E), and O(T E) memory in
slices of features in "xla"; O(T^2 (M + E)) time and O(T) memory in tiles in "chunked",
which is faster for short sequences, and which packed ones need; O(T^2) memory in
"reference". Decoding keeps M (E + 1) sums and the last D tokens, for D distinct lags:
O(D + M E) a token.

Axes: B batch, T tokens (or H, W on images), N heads, H head size, E value size, M
features, D distance, Dm model width.
"""

from attnjax.variants.linear.nprf.attention import (
  CASES,
  FEATURES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.linear.nprf.decode import State, step
from attnjax.variants.linear.nprf.layer import FORMS, RPE, Layer

__all__ = [
  "CASES",
  "FEATURES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "RPE",
  "Layer",
  "State",
  "attend",
  "reference",
  "scaled",
  "step",
]
LAYER = {"dim": 32, "heads": 4, "num_features": 12, "max_distance": 8}
GROWTH = 1.0


def scaled(shape: tuple[int, ...]) -> dict[str, str]:
  """Returns options under which GROWTH holds: "xla", which "auto" takes for large T."""
  del shape
  return {"impl": "xla"}
