"""The operation: its definition, its linear-time algorithms and one step."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import backends
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import linear, prefix
from attnjax.core.recurrence.prefix import State

IMPLEMENTATIONS = backends.IMPLEMENTATIONS


def attend(
  query: Float[Array, "N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K E"],
  initial: State | None = None,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  scale: float | None = None,
  return_lse: bool = False,
  return_state: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes the attention of one query a head over every prefix, (B, T, N, E).

  Args:
    query: one query a head, shared by all tokens.
    k: keys; K divides N, query n reads the keys of head n K // N.
    v: values.
    initial: the state before the first token; it belongs to its segment.
    segment_ids: a document is a run of equal ids; each one starts from no tokens.
    valid: True at the real tokens. A token that is padding, or has a negative
      segment id, has no effect; its output is 0.
    scale: of the scores; H^-0.5 if None.
    return_lse: also return the log of the softmax's denominator, (B, T, N).
    return_state: also return the State after the last real token; float32, or float64.
    impl: one of IMPLEMENTATIONS, or "auto": the fastest on this platform.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
    NotImplementedError: if the named implementation does not support the problem.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check(query, k, v)
  ids = masks.segments(segment_ids, valid, k.shape[:2])
  if impl == "reference":
    given = segment_ids, valid, scale, return_lse, return_state
    return reference(query, k, v, initial, *given)
  real = None
  if ids is not None:
    ids, real = linear.spans(ids)
    k, v = (jnp.where(real[..., None, None], x, 0) for x in (k, v))
  scores, values = _scores(query, k, v, scale)
  if real is not None:
    scores = jnp.where(real[..., None], scores, -jnp.inf)
  run = backends.prefix_softmax(impl, scores, values)
  out, lse, state = run(scores, values, initial=initial, segment_ids=ids)
  if real is not None:
    out = jnp.where(real[..., None, None], out, 0)
    lse = jnp.where(real[..., None], lse, -jnp.inf)
  found = out, *((lse,) if return_lse else ()), *((state,) if return_state else ())
  return found if len(found) > 1 else out


def reference(
  query,
  k,
  v,
  initial=None,
  segment_ids=None,
  valid=None,
  scale=None,
  return_lse=False,
  return_state=False,
):
  """Computes the definition: softmax over the prefix in each row of a (T, T) matrix.

  A row more, after the last token, is the state; a column more is the initial state.
  """
  (B, T, K, H), (N, E) = k.shape, (query.shape[0], v.shape[3])
  document = definition.documents(segment_ids, valid, (B, T))
  key, value = (
    jnp.repeat(jnp.where((document >= 0)[..., None, None], x, 0), N // K, axis=2)
    for x in (definition.wide(k), definition.wide(v))
  )
  scores = (definition.wide(query) * key).sum(axis=3)
  scores = scores / H**0.5 if scale is None else scores * scale
  if initial is None:
    initial = State(jnp.zeros((B, N)), jnp.zeros((B, N)), jnp.zeros((B, N, E)))
  scores = jnp.concatenate([initial.top[:, None], scores], axis=1)[:, None]
  often = jnp.pad(initial.total[:, None], ((0, 0), (0, T), (0, 0)), constant_values=1)
  value = jnp.concatenate([initial.out[:, None], value], axis=1)
  seen = _prefixes(document)[..., None] & (often > 0)[:, None]  # (B, T + 1, T + 1, N)
  top = jax.lax.stop_gradient(jnp.where(seen, scores, -jnp.inf).max(axis=2))
  power = jnp.exp(jnp.where(seen, scores - top[:, :, None], -jnp.inf))
  weight = power * often[:, None]
  total = weight.sum(axis=2)
  some = jnp.where(total > 0, total, 1)
  out = jnp.einsum("btsn,bsne->btne", weight, value) / some[..., None]
  lse = jnp.where(total > 0, top + jnp.log(some), -jnp.inf)
  found = [out[:, :T].astype(v.dtype)]
  found += [lse[:, :T]] if return_lse else []
  found += [State(top[:, T], total[:, T], out[:, T])] if return_state else []
  return tuple(found) if len(found) > 1 else found[0]


def _prefixes(document):
  """Returns which columns, the initial state first, a row sees; the last is the end."""
  T = document.shape[1]
  last = jnp.maximum(document.max(axis=1, keepdims=True, initial=0), 0)
  row = jnp.concatenate([document, last], axis=1)[:, :, None]
  column = jnp.pad(document, ((0, 0), (1, 0)))[:, None]  # the state's document is 0
  past = jnp.arange(T + 1) <= jnp.arange(T + 1)[:, None] + 1
  return (row == column) & (row >= 0) & past


def step(
  query: Float[Array, "N H"],
  k: Float[Array, "B K H"],
  v: Float[Array, "B K E"],
  state: State,
  *,
  scale: float | None = None,
) -> tuple[Float[Array, "B N E"], State]:
  """Returns (out, next state) of one token, equal to `attend` with T = 1."""
  _check(query, k[:, None], v[:, None])
  scores, values = _scores(query, k[:, None], v[:, None], scale)
  state = prefix.step(scores[:, 0], values[:, 0], state)
  return state.out.astype(v.dtype), state


def _check(query, k, v):
  if query.ndim != 2 or k.ndim != 4 or v.ndim != 4:
    raise ValueError(
      f"query {query.shape}, k {k.shape}, v {v.shape} must be (N, H), (B, T, K, H),"
      " (B, T, K, E)"
    )
  if v.shape[:3] != k.shape[:3]:
    raise ValueError(f"v {v.shape} differs from k {k.shape} in B, T or heads")
  if query.shape[1] != k.shape[3]:
    raise ValueError(f"query {query.shape} and k {k.shape} differ in H")
  if query.shape[0] % k.shape[2]:
    raise ValueError(
      f"{query.shape[0]} queries do not divide by {k.shape[2]} key/value heads"
    )


def _scores(query, k, v, scale):
  """Returns the upcast scores (B, T, N), and each query's values (B, T, N, E)."""
  (N, H), K = query.shape, k.shape[2]
  scale = H**-0.5 if scale is None else scale
  grouped = query.reshape(K, N // K, H)
  scores = jnp.einsum(
    "kgh,btkh->btkg", grouped, k, preferred_element_type=accumulator_dtype(k)
  )
  return scale * scores.reshape(*k.shape[:2], N), jnp.repeat(v, N // K, axis=2)


def _shapes(B, T, N, K, H, E):
  return {"query": (N, H), "k": (B, T, K, H), "v": (B, T, K, E)}


def _state(B, N, E):
  def make(key: jax.Array) -> dict[str, Any]:
    top, total, out = jax.random.split(key, 3)
    top, total = jax.random.normal(top, (B, N)), jax.random.uniform(total, (B, N))
    return {"initial": State(top, 1 + total, jax.random.normal(out, (B, N, E)))}

  return make


def _packed(key):
  del key
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _padded(key):
  del key
  return jnp.array([[0], [3]]) <= jnp.arange(17) % 15  # the second on both sides


_ALL = {"return_lse": True, "return_state": True}
CASES = (
  Case("whole", _shapes(2, 64, 2, 2, 16, 16)),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4), _ALL, _state(1, 1, 4)),
  Case("steep", _shapes(1, 63, 3, 1, 3, 7), _ALL | {"scale": 5.0}),
  Case(
    "segments",
    _shapes(2, 39, 4, 2, 8, 6),
    _ALL | {"segment_ids": _packed},
    _state(2, 4, 6),
  ),
  Case("valid", _shapes(2, 17, 2, 1, 8, 5), _ALL | {"valid": _padded}, _state(2, 2, 5)),
)
