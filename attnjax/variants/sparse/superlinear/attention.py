"""The operation: search, attention in spans, and the gate that combines them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import masks, softmax
from attnjax.core.scores import Scores
from attnjax.variants.sparse.superlinear import paired, search
from attnjax.variants.sparse.superlinear.definition import reference
from attnjax.variants.sparse.superlinear.search import Geometry

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
# Score of an absent span: its weight is 0 beside a span that exists.
_NEVER = -1e9


def attend(
  q1: Float[Array, "B T N H"],
  q2: Float[Array, "B T N H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K V"],
  *,
  top: int = 3,
  window_index: int = 3,
  backward: float = 2.0,
  forward: float = 0.0,
  search_power: float = 0.5,
  span_power: float = 0.5,
  segment_ids: Int[Array, "B S"] | None = None,
  offset: Int[Array, ""] | int | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes causal attention to a window and to the best spans, (B, T, N, V).

  Args:
    q1: queries of the search; they learn through the gate only.
    q2: queries of the attention.
    k: keys of both; K divides N, query head n reads key head n K // N.
    v: values.
    top: spans of a query.
    window_index: w; the window has (w + 1)^(1 / search_power) - 1 keys, none if 0.
    backward: b; a span reaches ceil(b n^span_power) keys back from its anchor, n the
      tokens of the document so far.
    forward: c; a span reaches ceil(c n^span_power) keys ahead of its anchor, but not
      into the window.
    search_power: p; there are about T^p anchors, in (0, 1).
    span_power: r, the exponent of the spans' lengths.
    segment_ids: of the keys; the queries are the T tokens from `offset` on. A
      document is a run of equal ids; negative ids see nothing and are not seen.
    offset: the place of the first query among the keys; S - T if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`; for the window
      and the spans. The search runs in XLA for all but "reference".

  Raises:
    ValueError: if shapes do not fit or a value or name is not allowed.
  """
  geometry = Geometry(top, window_index, backward, forward, search_power, span_power)
  _check(q1, q2, k, geometry, impl)
  (B, T), S = q1.shape[:2], k.shape[1]
  offset = S - T if offset is None else offset
  if impl == "reference":
    return reference(q1, q2, k, v, *geometry, segment_ids, offset)
  ids = jnp.zeros((B, S), jnp.int32) if segment_ids is None else segment_ids
  where = search.rows(ids, T, offset)
  if segment_ids is not None:
    q1, q2 = (_blank(x, where.queries) for x in (q1, q2))
    k, v = (_blank(x, ids) for x in (k, v))
  found, score = search.span_search(q1, k, where, geometry, offset)
  gate = jnp.where(found.anchor >= 0, score, _NEVER)
  gate = jax.nn.softmax(gate, axis=-1)
  seen = {"offset": offset, "segmented": segment_ids is not None}
  out = _spans(q2, k, v, found, where, geometry, impl, **seen)
  return (out * gate[..., None]).sum(axis=3).astype(v.dtype)


def _blank(x, ids):
  """Returns x with the rows of padding (negative ids) set to 0."""
  return jnp.where((ids >= 0)[..., None, None], x, 0)


def _check(q1, q2, k, geometry, impl):
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if q1.shape != q2.shape:
    raise ValueError(f"q1 {q1.shape} and q2 {q2.shape} differ")
  if q1.shape[2] % k.shape[2]:
    raise ValueError(
      f"{q1.shape[2]} query heads do not divide by {k.shape[2]} kv heads"
    )
  for name in ("search_power", "span_power"):
    value = getattr(geometry, name)
    if not 0 < value < 1:
      raise ValueError(f"{name} = {value}; it must be in (0, 1)")
  if geometry.top < 1 or geometry.window_index < 0:
    raise ValueError(
      f"top = {geometry.top}, window_index = {geometry.window_index}; they must be at"
      " least 1 and 0"
    )
  if geometry.backward < 0 or geometry.forward < 0:
    raise ValueError(
      f"backward = {geometry.backward}, forward = {geometry.forward}; they must be 0"
      " or more"
    )


def _spans(q, k, v, found, where, geometry, impl, *, offset, segmented):
  """Computes attention to each span joined with the window, (B, T, N, top, V)."""
  real = where.keys >= 0 if segmented else None
  out, lse = paired.attend(q, k, v, found, real=real, impl=impl)
  if geometry.window:
    near = masks.Window(geometry.window - 1, 0)
    if segmented:
      near = near & masks.Segments(where.queries, where.keys)
    # A static offset keeps the schedule of tiles static.
    if isinstance(offset, int):
      scores = Scores(near, start=(offset, 0))
    else:
      scores = Scores(near, query_positions=where.now[None])
    beside = attention.attend(q, k, v, scores, impl=impl)
    out, lse = softmax.combine(
      [out, jnp.broadcast_to(beside[0][:, :, :, None], out.shape)],
      [lse, jnp.broadcast_to(beside[1][:, :, :, None], lse.shape)],
    )
  return out


def _shapes(B, T, N, K, H, V):
  q, k = (B, T, N, H), (B, T, K)
  return {"q1": q, "q2": q, "k": (*k, H), "v": (*k, V)}


def _packed(key: jax.Array) -> jax.Array:
  del key
  ids = [[4] * 9 + [1] * 3 + [-1] * 5 + [1] * 7 + [4] * 15, [-1] * 4 + [2] * 35]
  return jnp.array(ids)


CASES = (
  Case("grouped", _shapes(1, 65, 4, 2, 8, 6), {"window_index": 1, "top": 2}),
  Case(
    "no_window",
    _shapes(1, 31, 2, 1, 4, 4),
    {"window_index": 0, "forward": 1.0, "search_power": 0.55, "span_power": 0.45},
  ),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4)),
  Case(
    "packed", _shapes(2, 39, 2, 2, 4, 4), {"window_index": 1, "segment_ids": _packed}
  ),
)
