"""Aaren: softmax attention of a learned query over every prefix, as a recurrence.

Leo Feng, Frederick Tung, Hossein Hajimirsadeghi, Mohamed Osama Ahmed, Yoshua Bengio,
Greg Mori. Attention as an RNN. 2024. arXiv:2405.13956.
Code: none is known to be public. This is written from the paper and compared with
causal jax.nn.dot_product_attention with one query in every row.

  s[t, n] = scale query[n] . k[t, n K / N]
  out[t]  = sum_{i <= t} exp(s[i]) v[i] / sum_{i <= t} exp(s[i])

A new token changes (greatest score, denominator, out), N (E + 2) elements, and nothing
else is kept (`attnjax.core.recurrence.prefix`; the paper's (m, u, w) with w / u for
w). `combine` joins the states of any two spans of tokens. In the layer

  query = W_q token,  k = W_k x,  v = W_v x,  y = W_out merge_heads(out)

the token (D,) is learned, one for each layer: D parameters more than softmax attention.
The mechanism does not know a token's position: positions belong into x.

Beyond the paper: fewer key/value heads than queries (several learned queries read the
same keys), and the form "sequence", which adds the results of both directions.

Cost: O(T N E) time after the projections and O(T) memory, in O(log T) steps if need be;
O(T^2 N E) and O(T^2) in "reference". Decoding keeps N (E + 2) elements in float32,
for any number of tokens.

Axes: B batch, T tokens, N query heads, K key/value heads, H head size, E value size,
D model width.
"""

from attnjax.core.recurrence.prefix import State, combine
from attnjax.variants.recurrent.aaren.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
  step,
)
from attnjax.variants.recurrent.aaren.layer import FORMS, Layer

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "Layer",
  "State",
  "attend",
  "combine",
  "reference",
  "step",
]
LAYER = {"dim": 32, "heads": 4}
GROWTH = 1.0
