"""The operation: its definition, its chunked form and its step of one token."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import backends
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.recurrence import linear
from attnjax.variants.linear.lightning2.decay import slopes as make_slopes

IMPLEMENTATIONS = backends.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K E"],
  slopes: Float[Array, "N"] | None = None,
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  scale: float = 1.0,
  return_state: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes causal linear attention, (B, T, N, E); also the state if `return_state`.

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    slopes: -log of the decay per token of each head, >= 0; None is no decay, infinity
      forgets all earlier tokens.
    initial_state: the state before the first token; it belongs to its segment.
    segment_ids: a document is a run of equal ids; each one starts from a zero state.
    valid: True at the real tokens. A token that is padding, or has a negative
      segment id, has no effect: no key, no value, no decay, no end of a document; its
      output is 0.
    scale: multiplies the output.
    return_state: also return the state after the last real token, (B, N, H, E), float32
      (float64 for float64).
    impl: one of IMPLEMENTATIONS, or "auto": the fastest that supports the problem on
      this platform.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
    NotImplementedError: if the named implementation does not support the problem.
  """
  linear.check(q, k, v, slopes=slopes, initial_state=initial_state)
  ids = masks.segments(segment_ids, valid, (q.shape[0], q.shape[1]))
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    given = initial_state, segment_ids, valid, scale, return_state
    return reference(q, k, v, slopes, *given)
  real = None
  if ids is not None:
    ids, real = linear.spans(ids)
    q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
  given = {"initial_state": initial_state, "segment_ids": ids, "scale": scale}
  run = backends.linear_attention(impl, q, k, v)
  out, state = run(q, k, v, _log_decay(slopes, real), **given)
  return (out, state) if return_state else out


def reference(
  q,
  k,
  v,
  slopes=None,
  initial_state=None,
  segment_ids=None,
  valid=None,
  scale=1.0,
  return_state=False,
):
  """Computes the definition: one (T, T) matrix of decayed scores for each head.

  A row more, after the last token, has the weights of keys in the state.
  """
  (B, T, N), kind = q.shape[:3], v.dtype
  document = definition.documents(segment_ids, valid, (B, T))
  real = document >= 0
  q, k, v = (jnp.where(real[..., None, None], definition.wide(x), 0) for x in (q, k, v))
  k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
  rate = jnp.zeros((1, N)) if slopes is None else definition.wide(slopes)[None]
  last = jnp.maximum(document.max(axis=1, keepdims=True, initial=0), 0)
  own = jnp.concatenate([document, last], axis=1)
  age = jnp.cumsum(real, axis=1)
  now = jnp.concatenate([age, real.sum(axis=1, keepdims=True)], axis=1)

  def decay(elapsed, seen):
    # A slope of infinity forgets all earlier tokens, not the token itself.
    elapsed = jnp.where(seen, elapsed, 0)[..., None]
    power = jnp.exp(-jnp.where(elapsed > 0, rate, 0) * elapsed)
    return jnp.where(seen[..., None], power, 0)

  past = jnp.arange(T) <= jnp.arange(T + 1)[:, None]
  seen = past & (own[:, :, None] == document[:, None]) & real[:, None]
  weight = decay(now[:, :, None] - age[:, None], seen)  # (B, T + 1, T, N)
  scores = jnp.einsum("btnh,bsnh->btsn", q, k) * weight[:, :T]
  out = jnp.einsum("btsn,bsne->btne", scores, v)
  state = jnp.einsum("bsn,bsnh,bsne->bnhe", weight[:, T], k, v)
  if initial_state is not None:
    start = definition.wide(initial_state)
    power = decay(now, own == 0)
    out = out + power[:, :T, :, None] * jnp.einsum("btnh,bnhe->btne", q, start)
    state = state + power[:, T, :, None, None] * start
  out = (scale * out).astype(kind)
  return (out, state) if return_state else out


def step(
  q: Float[Array, "B N H"],
  k: Float[Array, "B K H"],
  v: Float[Array, "B K E"],
  state: Float[Array, "B N H E"],
  slopes: Float[Array, "N"] | None = None,
  *,
  scale: float = 1.0,
) -> tuple[Float[Array, "B N E"], Float[Array, "B N H E"]]:
  """Returns (out, next state) of one token, equal to `attend` with T = 1."""
  log_decay = None if slopes is None else -slopes[None]
  return linear.step(q, k, v, state, log_decay, scale=scale)


def _log_decay(slopes, real):
  """Returns the log decays (B|1, T|1, N) of slopes (N,), 0 at padding."""
  if slopes is None or real is None:
    return None if slopes is None else -slopes[None, None]
  return jnp.where(real[..., None], -slopes[None, None], 0)


def _shapes(B, T, N, K, H, E, state=False):
  shapes = {"q": (B, T, N, H), "k": (B, T, K, H), "v": (B, T, K, E)}
  return shapes | ({"initial_state": (B, N, H, E)} if state else {})


def _decay(heads, kind="alibi"):
  def make(key: jax.Array) -> dict[str, jax.Array]:
    del key
    return {"slopes": make_slopes(heads, kind)}

  return make


def _packed(key):
  del key
  return jnp.repeat(jnp.array([[0, 1, -1], [3, 3, 5]]), 13, axis=1)


def _padded(key):
  del key
  return jnp.array([[0], [9]]) <= jnp.arange(65) % 60  # the second on both sides


# Un-normalised outputs grow with T: the scale keeps them near 1, where an absolute
# error means something.
_SMALL = {"scale": 0.05}
_STATE = _SMALL | {"return_state": True}
CASES = (
  Case("whole", _shapes(2, 64, 2, 2, 16, 16), _SMALL, _decay(2)),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4, True), make=_decay(1)),
  Case("seven", _shapes(1, 7, 3, 1, 8, 5), {"return_state": True}, _decay(3)),
  Case("no_decay", _shapes(1, 65, 2, 2, 8, 8, True), _STATE),
  Case(
    "segments",
    _shapes(2, 39, 4, 2, 8, 6, True),
    _STATE | {"segment_ids": _packed},
    _decay(4),
  ),
  Case(
    "valid",
    _shapes(2, 65, 2, 1, 8, 8, True),
    _STATE | {"valid": _padded},
    _decay(2),
  ),
  Case("chunks", _shapes(1, 200, 3, 3, 3, 7, True), _SMALL, _decay(3)),
)
