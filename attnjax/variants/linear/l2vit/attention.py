"""Linear attention with a lower bound on its denominator."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import linear

IMPLEMENTATIONS = ("reference", "xla")


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K V"],
  temperature: Float[Array, "N"] | None = None,
  *,
  den_min: float = 100.0,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes linear attention of rectified queries and keys, without a causal mask.

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    temperature: multiplies each head's output; 1 if None.
    den_min: the denominator's lower bound, >= 0. It is absolute: small activations or
      few tokens make it active, and then the output is linear in q.
    segment_ids: a document is a run of equal ids; its tokens see only each other.
    valid: True at the real tokens. A token that is padding, or has a negative id,
      is not seen, and its output is 0.
    impl: one of IMPLEMENTATIONS, or "auto", which takes "xla".

  Raises:
    ValueError: if shapes do not fit, den_min < 0 or `impl` is unknown.
  """
  _check(q, k, v, temperature, den_min, impl)
  if impl == "reference":
    return reference(q, k, v, temperature, den_min, segment_ids, valid)
  kind, dtype = v.dtype, accumulator_dtype(q)
  q, k = (jnp.maximum(x.astype(dtype), 0) for x in (q, k))
  v = v.astype(dtype)
  ids, documents = masks.segments(segment_ids, valid, q.shape[:2]), None
  if ids is not None:
    ids, real = linear.spans(ids)
    q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
    documents = None if segment_ids is None else masks.documents(ids)
  above, below = _summed(q, k, v, documents)
  # A query of zeros has a denominator of 0: its output is 0, as is its numerator.
  below = jnp.where(below > 0, jnp.maximum(below, den_min), 1)
  if temperature is not None:
    above = above * temperature.astype(dtype).reshape(1, 1, -1, 1)
  return (above / below[..., None]).astype(kind)


def reference(q, k, v, temperature=None, den_min=100.0, segment_ids=None, valid=None):
  """Computes the definition: one (T, T) matrix of scores for each head."""
  (B, T, N), kind = q.shape[:3], v.dtype
  document = definition.documents(segment_ids, valid, (B, T))
  real = (document >= 0)[..., None, None]
  q, k, v = (jnp.where(real, definition.wide(x), 0) for x in (q, k, v))
  k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
  scores = jnp.einsum("btnh,bsnh->bnts", jax.nn.relu(q), jax.nn.relu(k))
  same = (document[:, :, None] == document[:, None, :])[:, None] & real[:, None, :, 0]
  scores = jnp.where(same, scores, 0)
  total = scores.sum(axis=3)
  bounded = jnp.where(total > den_min, total, den_min)
  # A query of zeros gives 0, also without a lower bound.
  weight = scores / jnp.where(total > 0, bounded, 1)[..., None]
  out = jnp.einsum("bnts,bsnv->btnv", weight, v)
  if temperature is not None:
    out = out * temperature[:, None]
  return out.astype(kind)


def _check(q, k, v, temperature, den_min, impl):
  linear.check(q, k, v)
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if den_min < 0:
    raise ValueError(f"den_min = {den_min}: a lower bound of sums >= 0 is not negative")
  if temperature is not None and temperature.shape != q.shape[2:3]:
    raise ValueError(
      f"temperature {temperature.shape}: one of each head, {q.shape[2:3]}"
    )


def _summed(q, k, v, documents):
  """Returns (numerator, denominator), keys times values first: O(T) time and memory."""
  v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
  if documents is None:
    state = jnp.einsum("bskh,bskv->bkhv", k, v)
    state = jnp.repeat(state, q.shape[2] // k.shape[2], axis=1)
    sums = jnp.einsum("btnh,bnhv->btnv", q, state)
  else:
    sums = _both_ways(q, k, v, documents)
  return sums[..., :-1], sums[..., -1]


def _both_ways(q, k, v, documents):
  """Computes each document's sums by a forward and a reversed causal pass."""
  parts = (q, k, v)
  before, _ = linear.chunked(*parts, segment_ids=documents)
  turned = (jnp.flip(x, axis=1) for x in parts)
  after, _ = linear.chunked(*turned, segment_ids=jnp.flip(documents, axis=1))
  k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
  itself = jnp.einsum("btnh,btnh->btn", q, k)[..., None] * v  # in both sums
  return before + jnp.flip(after, axis=1) - itself


def _shapes(B, T, N, K, H, V):
  return {
    "q": (B, T, N, H),
    "k": (B, T, K, H),
    "v": (B, T, K, V),
    "temperature": (N,),
  }


def _packed(key: jax.Array) -> Any:
  del key
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _padded(key: jax.Array) -> Any:
  del key
  return jnp.array([[0], [9]]) <= jnp.arange(65) % 60  # the second on both sides


CASES = (
  Case("whole", _shapes(2, 64, 2, 2, 16, 16)),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4), {"den_min": 0.0}),
  Case("seven", _shapes(1, 7, 3, 1, 8, 5), {"den_min": 5.0}),
  Case("odd", _shapes(1, 63, 4, 2, 3, 7), {"den_min": 30.0}),
  Case(
    "segments", _shapes(2, 39, 4, 2, 8, 6), {"segment_ids": _packed, "den_min": 9.0}
  ),
  Case("valid", _shapes(2, 65, 2, 1, 8, 8), {"valid": _padded}),
)
