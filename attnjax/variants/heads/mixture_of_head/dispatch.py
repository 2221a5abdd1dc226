"""The dispatch form: every routed head attends for the tokens that take it.

A head's queries are gathered in the order of time into a list of C places, attend to
all keys of the head at their true positions, and go back to their tokens.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention
from attnjax.core import masks, select
from attnjax.core.scores import Scores
from attnjax.variants.softmax import dot_product


def places(capacity: float, top_k: int, routed: int, tokens: int) -> int:
  """Returns ceil(capacity top_k tokens / routed), at most `tokens`: C of a list."""
  return min(tokens, math.ceil(capacity * top_k * tokens / routed - 1e-9))


def admitted(
  active: Bool[Array, "B T R"], capacity: float, top_k: int
) -> Bool[Array, "B T R"]:
  """Returns which tokens find a place in the lists of heads; earlier ones go first.

  The places are those for the tokens of the row that take a head at all, so that
  padding neither takes nor makes room.
  """
  T, R = active.shape[1:]
  table = np.array([places(capacity, top_k, R, n) for n in range(T + 1)], np.int32)
  room = jnp.asarray(table)[active.any(axis=2).sum(axis=1)]
  return active & (jnp.cumsum(active, axis=1) <= room[:, None, None])


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  weights: Float[Array, "B T N"],
  taken: Bool[Array, "B T R"],
  size: int,
  given: dict[str, Any],
) -> Float[Array, "B T N V"]:
  """Computes gated attention of shared heads, and of routed heads by their lists.

  Args:
    q: queries.
    k: keys; K divides N.
    v: values.
    weights: the gates; 0 where a routed head is not taken.
    taken: which tokens take a routed head, at most `size` for each head.
    size: places C of a list.
    given: the arguments of `dot_product.attend`.
  """
  N, R = q.shape[2], taken.shape[2]
  outs = []
  if R < N:
    parts = {n: _of_heads(given.get(n), 0, N - R) for n in ("mask", "bias")}
    own: dict[str, Any] = given | parts
    key, value = (keys_of(x, 0, N - R, N) for x in (k, v))
    out = dot_product.attend(q[:, :, : N - R], key, value, **own)
    gate = weights[..., : N - R, None]
    outs.append((out.astype(gate.dtype) * gate).astype(out.dtype))
  outs.append(_routed(q, k, v, weights[..., N - R :], taken, size, given))
  return jnp.concatenate(outs, axis=2)


def keys_of(
  x: Float[Array, "B S K H"], first: int, last: int, heads: int
) -> Float[Array, "B S k H"]:
  """Returns the keys or values that query heads first, ..., last - 1 read.

  They stay grouped where these heads are whole groups, else each head has its own.
  """
  group = heads // x.shape[2]
  if not first % group and not last % group:
    return x[:, :, first // group : last // group]
  return x[:, :, np.arange(first, last) // group]


def _of_heads(x: Any, first: int, last: int) -> Any:
  """Returns the heads of a mask or a bias (B, N|1, T, S), or None."""
  return x if x is None or x.shape[1] == 1 else x[:, first:last]


def _routed(q, k, v, weights, taken, size, given):
  """Computes the gated outputs of the routed heads, (B, T, R, V)."""
  (B, T, N, H), S, R = q.shape, k.shape[1], taken.shape[2]
  by_head = taken.swapaxes(1, 2)
  index = jnp.argsort(~by_head, axis=-1, stable=True)[..., :size].astype(jnp.int32)
  real = jnp.take_along_axis(by_head, index, axis=-1)  # (B, R, C)
  query = select.rows(q[:, :, N - R :].swapaxes(1, 2), index).reshape(B * R, size, 1, H)
  own = np.arange(N - R, N) // (N // k.shape[2])
  key, value = (
    x[:, :, own].swapaxes(1, 2).reshape(B * R, S, 1, x.shape[3]) for x in (k, v)
  )
  scores = _scores(index, real, T, S, given)
  out, _ = attention.attend(
    query, key, value, scores, scale=given.get("scale"), impl=given["impl"]
  )
  gate = jnp.take_along_axis(weights.swapaxes(1, 2), index, axis=-1)[..., None]
  out = jnp.where(real[..., None], out.reshape(B, R, size, -1) * gate, 0)
  return select.added(out, index, T).swapaxes(1, 2).astype(v.dtype)


def _scores(index, real, T, S, given) -> Scores:
  """Returns the mask and the bias of the lists, whose batch is (B R)."""
  B, R, size = index.shape
  rows = index.reshape(B * R, size)
  seen: masks.Mask = masks.And(())
  now = None
  if given.get("causal"):
    offset = given.get("offset")
    # A free place comes before all keys, and sees none.
    now = jnp.where(
      real.reshape(rows.shape), rows + (S - T if offset is None else offset), -1
    )
    seen = seen & masks.Causal()
  ids = given.get("segment_ids")
  if ids is not None:
    others = given.get("kv_segment_ids")
    others = ids if others is None else others
    ids, others = (
      jnp.broadcast_to(jnp.atleast_2d(x), (B, n)) for x, n in ((ids, T), (others, S))
    )
    seen = seen & masks.Segments(_listed(ids, index), jnp.repeat(others, R, axis=0))
  mask, bias = (_lists(given.get(n), index) for n in ("mask", "bias"))
  seen = seen if mask is None else seen & masks.Dense(mask)
  return Scores(seen, query_positions=now, bias=bias)


def _listed(x: Int[Array, "B T"], index: Int[Array, "B R C"]) -> Int[Array, "BR C"]:
  return jnp.take_along_axis(x[:, None], index, axis=2).reshape(-1, index.shape[2])


def _lists(x, index):
  """Returns the rows of a mask or a bias (B|1, N|1, T|1, S|1) that lists hold."""
  if x is None:
    return None
  B, R, size = index.shape
  x = _of_heads(x, x.shape[1] - R, x.shape[1])
  x = jnp.broadcast_to(x, (B, R, *x.shape[2:]))
  if x.shape[2] > 1:
    x = jnp.take_along_axis(x, index[..., None], axis=2)
  return x.reshape(B * R, 1, *x.shape[2:])
