"""Dynamic mask attention: each head keeps the keys whose values matter most.

Jingze Shi et al. Trainable Dynamic Mask Sparse Attention. 2025. arXiv:2508.02124.
Official code: github.com/SmallDoges/flash-dmattn (commit f024c28); the Doge model of
transformers.

  dt[s]    = v_flat[s] W_dt                      v_flat: the values of all key heads
  delta[s] = exp(A softplus(dt[s]))              one number a token and key head
  kept[t]  = the w allowed s (s <= t) of the greatest delta; of equals the earlier
  score    = H^-0.5 q[t] . k[s] + delta[s]       for s in kept[t], else -inf
  out[t]   = softmax(score[t]) v

The selection has no gradient, but delta is a bias, and so A, W_dt and v learn which
keys to keep. The queries of a group share the set of their key head. The newer official
code selects w keys of the whole sequence before the causal mask: that leaks the future
into the selection. Here only the form "sequence", where every query sees all tokens,
makes one selection a document. `Doge` is the language model around the layer, with an
MLP or with `CrossDomainExperts`.

Cost: O(T (w + 64) H N) time, O(T H) memory in "xla": for a chunk of queries the w best
tokens before the chunk and the chunk's tokens are gathered; with `block_smooth` twice
as many. O(T^2 N) both in "reference", and wherever `mask` has a row for each query.
Decoding keeps w tokens a key head, exactly, since the least delta that is kept never
falls.

Axes: B batch, T query tokens, S key tokens, N query heads, K key/value heads, H head
size, V value size, w = keep, D model width.

Not here: the loss that balances the experts (the released code sums probabilities by
rank, where its formula has them by expert).
"""

from attnjax.variants.sparse.dynamic_mask.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
)
from attnjax.variants.sparse.dynamic_mask.decode import Cache
from attnjax.variants.sparse.dynamic_mask.doge import PARAMETERS, SIZES, Doge
from attnjax.variants.sparse.dynamic_mask.experts import CrossDomainExperts
from attnjax.variants.sparse.dynamic_mask.layer import FORMS, Layer
from attnjax.variants.sparse.dynamic_mask.selection import (
  BIAS_FORMS,
  allowed,
  selected,
  smoothed,
  value_importance,
)

__all__ = [
  "BIAS_FORMS",
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "Cache",
  "CrossDomainExperts",
  "Doge",
  "Layer",
  "allowed",
  "attend",
  "reference",
  "scaled",
  "selected",
  "smoothed",
  "value_importance",
]
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2, "keep_keys": 6}
GROWTH = 1.0


def scaled(shape: tuple[int, ...]) -> dict[str, int]:
  """Returns options under which GROWTH holds: fewer keys than most sequences have."""
  del shape
  return {"keep_keys": 64}
