"""Superlinear attention: a search over T^1/2 anchors, then attention in spans.

Yufeng Huang. Superlinear Multi-Step Attention. 2026. arXiv:2601.18401.
Official code: github.com/concavity-ai/superlinear (version 0.1.0). Two steps (N = 2).

With f(i) = floor(i^(1/p)) and, for the query at t, n its tokens so far:

  window    the last W = f(w + 1) - 1 keys, t among them
  anchors   a[i] = t - f(i) + 1,  i = w + 1, w + 2, ...; the first one is t - W
  search    s[i] = q1[t] . k[a[i]]                  raw; the best `top` are kept
  span j    the keys from a - ceil(b n^r) to a + ceil(c n^r), before the window
  o[j]      = softmax over span j and the window (H^-0.5 q2[t] . k) v
  out[t]    = sum_j softmax(s)[j] o[j]

Each span is combined with the window separately. Indices have no gradient; q1, and k
at the anchors, learn through the softmax of s. Of equal s the farther anchor wins.
Where there is no anchor yet, only the window is seen. With p = r = 1/2 and b >= 2 the
spans of all anchors cover every token.

Not known from the code: the weights that make q1 (here a projection that starts a tenth
as large as the others) and the positions (here rotary, q1 rotated as well).

Cost: O(T^(1 + p) H) products of the search and O(T (top (b + c) T^r + W) H) of the
attention: T^1.5 for p = r = 1/2; memory O(T top N (H + V)). O(T^2 N) in "reference".
Decoding keeps 2 K H elements a token and reads O(T^1/2) tokens.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, D model width.
"""

from attnjax.variants.sparse.superlinear.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.sparse.superlinear.layer import FORMS, Layer
from attnjax.variants.sparse.superlinear.search import (
  Geometry,
  Spans,
  rows,
  span_search,
  spans,
)
from attnjax.variants.sparse.superlinear.tables import (
  anchor_positions,
  reaches,
  stripes,
  window_length,
)

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "Geometry",
  "Layer",
  "Spans",
  "anchor_positions",
  "attend",
  "reaches",
  "reference",
  "rows",
  "span_search",
  "spans",
  "stripes",
  "window_length",
]
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2, "top": 2, "window_index": 1}
GROWTH = 1.5
