"""Statistics of softmax attention without its (T, S) matrix, beside the lse.

  out, lse = attnjax.dot_product_attention(q, k, v, is_causal=True, return_lse=True)
  sums = attnjax.attention_column_sums(q, k, lse, is_causal=True)     # (B, N, S)
  rows = attnjax.attention_rows(q, k, lse, is_causal=True)     # .argmax, .entropy

The scores are described as in `dot_product_attention`, by equal arguments. A mask may
also see fewer pairs than the attention's: then only these are counted.

Cost: that of the product q . k over all tiles that are seen, O(T + S) memory.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from attnjax import arguments, attention, backends
from attnjax.core import masks, modes, places, softmax
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.masks import Mask
from attnjax.core.scores import Scores
from attnjax.core.softmax.statistics import Rows

Integers = attention.Integers


def attention_column_sums(
  query: Float[Array | np.ndarray, "..."],
  key: Float[Array | np.ndarray, "..."],
  lse: Float[Array | np.ndarray, "..."],
  bias: ArrayLike | None = None,
  mask: ArrayLike | Sequence | Mask | None = None,
  *,
  impl: str = "auto",
  **scores: Any,
) -> Float[Array, "..."]:
  """Computes the attention that each key gets from all queries, (*B, N, S).

    sums[b, n, s] = sum_t exp(score[b, n, t, s] - lse[b, t, n])

  Args:
    query: (T, N, H) or (*B, T, N, H).
    key: (*B, S, K, H); K divides N.
    lse: (*B, T, N), as `dot_product_attention` returns it.
    bias: as there.
    mask: as there; pairs that it does not see are not counted.
    impl: one of `attnjax.attention.IMPLEMENTATIONS`, or "auto".
    **scores: scale, is_causal, local_window_size, segment_ids, kv_segment_ids,
      query_positions, key_positions, score and softcap, as there.

  Raises:
    TypeError: for an argument that there is not.
    ValueError: if shapes do not fit, or a name or number is not allowed.
    NotImplementedError: if the named implementation lacks a feature.
  """
  return _computed("columns", impl, query, key, lse, bias, mask, scores)


def attention_rows(
  query: Float[Array | np.ndarray, "..."],
  key: Float[Array | np.ndarray, "..."],
  lse: Float[Array | np.ndarray, "..."],
  bias: ArrayLike | None = None,
  mask: ArrayLike | Sequence | Mask | None = None,
  *,
  impl: str = "auto",
  **scores: Any,
) -> Rows:
  """Computes each query's key of the greatest score, and the entropy of its weights.

  Args:
    query: as in `attention_column_sums`, and all others.
    key: (*B, S, K, H).
    lse: (*B, T, N).
    bias: of the scores.
    mask: of the scores.
    impl: the implementation.
    **scores: as there.

  Returns:
    argmax (*B, T, N) int32, the first of equal ones, -1 where nothing is seen; entropy
    (*B, T, N) in nats.
  """
  return Rows(*_computed("rows", impl, query, key, lse, bias, mask, scores))


def _computed(which: str, impl: str, query, key, lse, bias, mask, scores) -> Any:
  """Returns the results of `backends.statistics` with all batch axes."""
  given = {"bias": bias, "mask": mask}
  with jax.numpy_rank_promotion("allow"):
    lead, query, key, _ = arguments.four_axes(query, key, key)
    (B, T, N, _), S = query.shape, key.shape[1]
    lse = jnp.asarray(lse, accumulator_dtype(query))
    if lse.shape != (*lead, T, N):
      raise ValueError(f"lse has the shape {lse.shape}; it must be {(*lead, T, N)}")
    softmax.check(query, key, key)
    lse = lse.reshape(B, T, N)
    what, scale, lost = _scores((B, N, T, S), lead, query, **given, **scores)

    def run(query, key, lse):
      found = backends.statistics(which, query, key, lse, what, scale=scale, impl=impl)
      if lost is not False:  # positions that no int32 holds
        found = [jnp.where(lost, jnp.nan if _floats(x) else -1, x) for x in found]
      return [x.reshape(*lead, *x.shape[1:]) for x in found]

    found = modes.whole(run)(query, key, lse)
  return found[0] if which == "columns" else found


def _scores(
  shape,
  lead,
  query,
  *,
  bias,
  mask,
  scale: ArrayLike | None = None,
  is_causal: bool = False,
  local_window_size: Integers | tuple[Any, Any] | None = None,
  segment_ids: Integers | None = None,
  kv_segment_ids: Integers | None = None,
  query_positions: Integers | None = None,
  key_positions: Integers | None = None,
  score: Callable[..., ArrayLike] | None = None,
  softcap: ArrayLike = 0.0,
) -> tuple[Scores, float, Any]:
  """Returns (scores, scale, whether a position is no int32) of the arguments."""
  what, lost = places.positioned(
    shape,
    lead,
    query_positions,
    key_positions,
    shape[3] - shape[2] if is_causal else 0,
    bias=arguments.bias(bias, shape, lead),
    softcap=arguments.softcap(softcap, shape, lead),
  )
  seen = arguments.mask(mask, shape, lead, is_causal, local_window_size)
  seen &= masks.conjunction(
    shape,
    segment_ids=places.rows(segment_ids, lead, shape[2]),
    kv_segment_ids=places.rows(kv_segment_ids, lead, shape[3]),
  )
  what = dataclasses.replace(what, mask=seen)
  if score is not None:
    what = arguments.with_function(what, score, accumulator_dtype(query))
  if scale is None:
    return what, query.shape[3] ** -0.5, lost
  scale = arguments.number("scale", scale, shape, lead)
  if isinstance(scale, float):
    return what, scale, lost
  return what.times(scale), 1.0, lost


def _floats(x) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)
