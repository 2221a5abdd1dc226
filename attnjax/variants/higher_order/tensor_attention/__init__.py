"""Tensor attention: a softmax over pairs of keys, by which queries see triples.

Josh Alman, Zhao Song. How to Capture Higher-order Correlations? Generalizing Matrix
Softmax Attention to Kronecker Computation. ICLR 2024. arXiv:2310.04064. A paper of
theory: there is no official code. 2-simplicial attention is the windowed case: James
Clift et al. Logic and the 2-Simplicial Transformer. 2019. arXiv:1909.00668; Aurko Roy
et al. Fast and Simplex: 2-Simplicial Attention in Triton. 2025. arXiv:2507.02754.

  score[t, j, l] = scale sum_h q[t, h] k1[j, h] k2[l, h]
  out[t]         = sum_jl softmax_jl(score[t])[j, l] v1[j] v2[l]       by elements

over pairs of keys that token t sees: with windows w1 and w2 the last w1 and w2 of the
two streams. The softmax is joint, not a product of two. The paper's scale is 1 or 1/H;
ours is H^-0.5, as in 2-simplicial attention. Kind "determinant" has the sum of the
determinants of all pieces of 3 of (q, k1, k2) for a score, which rotations of space do
not change, so that positions may rotate them. Order P + 1 has P streams.

Polynomial method: with p(x) near e^x on |x| <= R, of degree G, features of all
monomials of degree up to G make scores factors, in O(T r H) for r = C(H + G, G):

  out[t] = sum_a u[t, a] (sum_j k1[j]^a v1[j]) (sum_l k2[l]^a v2[l]) / (with v = 1)

Not the paper's, and invented here: the symmetric window of tokens that see later ones,
and the layer's q/k norms and start. The shares of `weights` are the first stream's.

Cost: O(T S^2 H N) time, O(T w1 w2 H N) with windows; memory O(T + S) but for
"reference", O(T S^2 N). Decoding keeps 4 K H elements a token.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, P streams, G degree, D model width.

Not here: Clift's norm of the signed volume and his projected tensor product of values;
caches that forget what is behind all windows; a polynomial with windows or segments.
"""

from attnjax.variants.higher_order.tensor_attention.approximation import (
  coefficients,
  error_bound,
  relative_error,
)
from attnjax.variants.higher_order.tensor_attention.attention import (
  IMPLEMENTATIONS,
  KINDS,
  attend,
)
from attnjax.variants.higher_order.tensor_attention.cases import CASES, CURVES
from attnjax.variants.higher_order.tensor_attention.definition import reference
from attnjax.variants.higher_order.tensor_attention.determinant import (
  features,
  rotated,
)
from attnjax.variants.higher_order.tensor_attention.layer import FORMS, Layer
from attnjax.variants.higher_order.tensor_attention.orders import (
  attend_order,
  reference_attend_order,
)
from attnjax.variants.higher_order.tensor_attention.polynomial import (
  attend_polynomial,
  reference_attend_polynomial,
)

__all__ = [
  "CASES",
  "CURVES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "Layer",
  "REFUSED",
  "attend",
  "attend_order",
  "attend_polynomial",
  "coefficients",
  "error_bound",
  "features",
  "reference",
  "reference_attend_order",
  "reference_attend_polynomial",
  "relative_error",
  "rotated",
  "scaled",
]
LAYER = {"dim": 16, "heads": 2, "kv_heads": 1, "window": (9, 0)}
GROWTH = 1.0
_NO_KERNEL = tuple(c.name for c in CASES if c.function == "attend_polynomial")
REFUSED = {"pallas": _NO_KERNEL, "triton": _NO_KERNEL}


def scaled(shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
  """Returns windows: the cost of all pairs would grow as T^3."""
  del shape
  return {"window": (32, 8)}
