"""Rectified block-sparse attention: what pooling says of blocks that are left out.

Xuewen Liu, Zhikai Li, Jing Zhang, Mengjuan Chen, Qingyi Gu. Rectified SpaAttn:
Revisiting Attention Sparsity for Efficient Video Generation. 2025. arXiv:2511.19835.
Official code: github.com/BienLuky/Rectified-SpaAttn (commit 4b0aa10), from which the
equations are.

  Q_I, K_J, V_J = means of blocks of b tokens               R_IJ = Q_I . K_J
  p_I = softmax(c R_I + log b, c Q_I . text keys)           c = H^-0.5; text summed
  critical_I = the most probable until their sum passes `mass`, and neighbours
  gain_IJ > error_IJ = | dQ_I . K_J | + | Q_I . dK_J |      gain_IJ = |R_IJ|
  rest_I = the blocks J that are not critical, where gain_IJ > error_IJ
  out[t] = (1 - sum_rest p_IJ) attention(q[t]; critical blocks, text)
           + sum_rest p_IJ V_J                              t in block I

dQ, dK are mean absolute distances from the mean, for each channel. log b: a pooled key
stands for b keys, a text key for itself. Sparse softmax would give all mass to the
critical blocks; the factor takes away the mass of the rest, the addition gives it to
the means of these blocks. Text tokens see all tokens. Where the tokens of a block are
equal, this is softmax attention whichever blocks are critical. The choice of blocks has
no gradient, all else has. A block that is not full counts for its number of tokens, and
its mean is over them; with `zero_tail` both are as in the authors' code.

Cost: O(T^2 H N / b^2) for the pooled part, O(T E H N / b) for E tokens of text, and the
visited part of T^2 H N; memory O(T H N + T^2 N / b^2) in "xla" where b is a multiple of
128, O(T^2 N) in "reference". Other b cost one bit of memory for each pair.

Axes: B batch, T tokens, n blocks of visual tokens, N query heads, K key/value heads, H
head size, V value size, D model width, b = block.
"""

from attnjax.variants.sparse.rectified_sparse.attention import (
  CASES,
  CORRECTIONS,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.sparse.rectified_sparse.layer import FORMS, Layer
from attnjax.variants.sparse.rectified_sparse.pooled import Plan, Rule, plan, touching

__all__ = [
  "CASES",
  "CORRECTIONS",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "Layer",
  "Plan",
  "Rule",
  "attend",
  "plan",
  "reference",
  "touching",
]
LAYER = {"dim": 32, "heads": 4, "block": 4}
GROWTH = 2.0
