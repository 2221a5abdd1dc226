"""The operation: softmax attention over the selected keys."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.variants.sparse.dynamic_mask import gathered, selection

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  importance: Float[Array, "B S K"],
  *,
  keep_keys: int,
  causal: bool = False,
  segment_ids: Int[Array, "B T"] | None = None,
  mask: Bool[Array, "#B 1 #T #S"] | None = None,
  block_smooth: int = 0,
  scale: float | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes attention to the most important of the allowed keys, (B, T, N, V).

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    importance: of each key, added to its scores; the greatest are selected.
    keep_keys: keys that a query sees, at most; at least 1.
    causal: token t sees, and selects among, the tokens s <= t + S - T. Not causal:
      one selection for all queries of a document.
    segment_ids: a document is a run of equal ids, and selects for itself; negative
      ids see nothing and are not seen. Needs T = S.
    mask: True = may attend, in conjunction with the rest. Every implementation then
      costs as much as the definition, unless all queries have one row of it, (B, 1, 1,
      S).
    block_smooth: if not 0, the size of aligned groups of keys: a query keeps all keys
      of a group that it may see if it selected more than half of the group, else
      none.
    scale: H^-0.5 if None; of q . k, not of the importance.
    return_lse: also return the log of the softmax's denominator, (B, T, N) float32.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if shapes do not fit, keep < 1 or `impl` is unknown.
  """
  _check(q, k, importance, keep_keys, segment_ids, impl)
  if impl == "reference":
    given = keep_keys, causal, segment_ids, mask, block_smooth, scale, return_lse
    return reference(q, k, v, importance, *given)
  importance = importance.astype(accumulator_dtype(q))
  ids = selection.documents(segment_ids)
  if mask is not None and mask.shape[2] > 1:
    sizes = q.shape[0], q.shape[1], k.shape[1]
    seen = selection.allowed(sizes, causal, ids, mask)
    out, lse = _dense(q, k, v, importance, seen, keep_keys, block_smooth, scale, impl)
  else:
    run = gathered.causal if causal else gathered.shared
    chosen = gathered.Choice(keep_keys, block_smooth, ids, gathered.keys(mask, k))
    out, lse = run(q, k, v, importance, chosen, scale, impl)
  return (out, lse) if return_lse else out


def _check(q, k, importance, keep_keys, segment_ids, impl):
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if keep_keys < 1:
    raise ValueError(f"keep_keys = {keep_keys}; a query keeps at least 1 key")
  want = (q.shape[0], *k.shape[1:3])
  if importance.shape != want:
    raise ValueError(
      f"importance has the shape {importance.shape}; k has (B, S, K) {want}"
    )
  if segment_ids is not None and q.shape[1] != k.shape[1]:
    raise ValueError(
      f"segment_ids need T = S; here are {q.shape[1]} queries and {k.shape[1]} keys"
    )


def _dense(q, k, v, importance, seen, keep_keys, block_smooth, scale, impl):
  """Returns (out, lse), computed with a dense mask of all pairs."""
  group = q.shape[2] // k.shape[2]
  kept = selection.selected(importance, seen, keep_keys, block_smooth)
  bias = jnp.repeat(importance, group, axis=2).swapaxes(1, 2)[:, :, None]
  scores = Scores(masks.Dense(jnp.repeat(kept, group, axis=1)), bias=bias)
  return attention.attend(q, k, v, scores, scale=scale, impl=impl)


def reference(
  q,
  k,
  v,
  importance,
  keep_keys,
  causal=False,
  segment_ids=None,
  mask=None,
  block_smooth=0,
  scale=None,
  return_lse=False,
):
  """Computes the definition: the importances of all pairs, ranked row by row."""
  (B, T), (S, K), N = q.shape[:2], k.shape[1:3], q.shape[2]
  document = None
  if segment_ids is not None:
    document = definition.documents(segment_ids, None, (B, T))
  seen = definition.visible(T, S, causal, segment_ids=document, mask=mask)
  importance = definition.wide(importance).swapaxes(1, 2)[:, :, None]  # (B, K, 1, S)
  kept = definition.best(importance, seen, keep_keys)
  if block_smooth:
    block = jnp.arange(S) // block_smooth
    same = block[:, None] == block
    half = 2 * (kept[..., None, :] & same).sum(axis=-1) > same.sum(axis=-1)
    kept = half & seen
  bias, kept = (jnp.repeat(x, N // K, axis=1) for x in (importance, kept))
  out, lse = definition.attention(q, k, v, kept, bias=bias, scale=scale)
  return (out, lse) if return_lse else out


def _shapes(B, T, N, K, H, V):
  k = (B, T, K)
  shapes = {"q": (B, T, N, H), "k": (*k, H), "v": (*k, V)}
  return shapes | {"importance": k}


def _packed(key: jax.Array) -> jax.Array:
  del key
  ids = [[4] * 9 + [1] * 3 + [-1] * 5 + [1] * 7 + [4] * 15, [-1] * 4 + [2] * 35]
  return jnp.array(ids)


def _keys(key: jax.Array) -> jax.Array:
  del key
  return (jnp.arange(150) % 5 > 0)[None, None, None]


_CAUSAL = {"causal": True}
CASES = (
  Case("seven", _shapes(2, 7, 4, 2, 8, 6), _CAUSAL | {"keep_keys": 3}),
  Case("causal", _shapes(1, 65, 4, 2, 8, 6), _CAUSAL | {"keep_keys": 9}),
  Case(
    "one_token",
    _shapes(1, 1, 1, 1, 4, 4),
    _CAUSAL | {"keep_keys": 3, "return_lse": True},
  ),
  Case(
    "packed",
    _shapes(2, 39, 2, 2, 4, 4),
    _CAUSAL | {"keep_keys": 5, "segment_ids": _packed, "return_lse": True},
  ),
  Case(
    "shared",
    _shapes(2, 39, 2, 2, 4, 4),
    {"keep_keys": 5, "segment_ids": _packed, "return_lse": True},
  ),
  Case(
    "smoothed",
    {"q": (1, 21, 2, 4), "k": (1, 150, 1, 4), "v": (1, 150, 1, 4)}
    | {"importance": (1, 150, 1)},
    _CAUSAL | {"keep_keys": 40, "block_smooth": 4, "mask": _keys, "return_lse": True},
  ),
  Case(
    "smoothed_shared",
    _shapes(2, 39, 2, 2, 4, 4),
    {"keep_keys": 5, "segment_ids": _packed, "block_smooth": 4},
  ),
)
