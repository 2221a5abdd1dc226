"""Causal linear attention with decay in plain JAX, in chunks and token by token."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core import devices, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence.chunking import split

# Long enough for matrix units to be busy, short enough for the products inside a
# chunk, which grow with its length, not to outweigh those with the state.
CHUNK = 64
# Log decays whose exponential is 0 with room for rounding: the least positive number
# of the type is exp(-103.3), for float64 exp(-744.5).
LOWEST = {"float32": -128.0, "float64": -1024.0}


def chunked(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K E"],
  log_decay: Float[Array, "#B #T #N"] | None = None,
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float = 1.0,
  chunk: int = CHUNK,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B N H E"]]:
  """Returns (out, last state) with O(T) memory and derivatives of any order.

  Args:
    q: queries.
    k: keys.
    v: values.
    log_decay: g above, <= 0, differentiable; an axis of size 1 broadcasts. None is no
      decay.
    initial_state: the state before the first token; it belongs to its segment.
    segment_ids: a document is a run of equal ids and sees itself only. A negative id
      has no meaning here: see `spans`.
    scale: multiplies the output.
    chunk: the most tokens that are worked on at once; no result depends on it.

  Raises:
    ValueError: if shapes do not fit.
  """
  check(q, k, v, initial_state=initial_state)
  (B, T, N, _), E = q.shape, v.shape[3]
  number = max(1, -(-T // chunk))
  size = -(-T // number)
  if not B * T:
    return jnp.zeros((B, T, N, E), v.dtype), _initial(q, v, initial_state)
  log_decay = each_token(log_decay, q)
  documents = None if segment_ids is None else masks.documents(segment_ids)
  state = _initial(q, v, initial_state)
  given = q, k, v, log_decay, documents, state
  q, k, v, log_decay, documents, state = devices.vary(given)
  start = state, None if documents is None else documents[:, 0]
  parts = (
    *(split(x, number, size).swapaxes(2, 3) for x in (q, k, v)),
    split(log_decay.astype(state.dtype), number, size).swapaxes(2, 3),
    None if documents is None else split(documents, number, size, mode="edge"),
  )
  # The products of a chunk are recomputed in the backward pass, not kept.
  body = jax.checkpoint(functools.partial(_chunk, scale), prevent_cse=False)
  (state, _), out = jax.lax.scan(body, start, parts)
  out = jnp.moveaxis(out, (0, 3), (1, 2))  # (i, B, N, C, E) -> (B, i, C, N, E)
  return out.reshape(B, number * size, N, E)[:, :T], state


def recurrent(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K E"],
  log_decay: Float[Array, "#B #T #N"] | None = None,
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float = 1.0,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B N H E"]]:
  """Computes `chunked` by its definition, one token after the other."""
  check(q, k, v, initial_state=initial_state)
  B, T = q.shape[:2]
  log_decay = each_token(log_decay, q)
  new = jnp.zeros((B, T), bool)
  if segment_ids is not None:
    new = new.at[:, 1:].set(segment_ids[:, 1:] != segment_ids[:, :-1])

  def body(state, token):
    q, k, v, g, new = token
    state = jnp.where(new[:, None, None, None], 0, state)
    out, state = step(q, k, v, state, g, scale=scale)
    return state, out

  tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, log_decay, new))
  start = devices.vary_like(_initial(q, v, initial_state), tokens)
  state, out = jax.lax.scan(body, start, tokens)
  return jnp.moveaxis(out, 0, 1), state


def step(
  q: Float[Array, "B N H"],
  k: Float[Array, "B K H"],
  v: Float[Array, "B K E"],
  state: Float[Array, "B N H E"],
  log_decay: Float[Array, "#B #N"] | None = None,
  *,
  scale: float = 1.0,
) -> tuple[Float[Array, "B N E"], Float[Array, "B N H E"]]:
  """Advances the recurrence by one token; returns (out, next state).

  The state is float32 (float64 for float64).
  """
  check(q[:, None], k[:, None], v[:, None], initial_state=state)
  state, dtype = _initial(q[:, None], v[:, None], state), v.dtype
  q, k, v = (x.astype(state.dtype) for x in (q, *_by_query_head(q.shape[1], k, v)))
  if log_decay is not None:
    state = jnp.exp(log_decay.astype(state.dtype))[..., None, None] * state
  state = state + k[..., :, None] * v[..., None, :]
  return (scale * jnp.einsum("bnh,bnhe->bne", q, state)).astype(dtype), state


def spans(
  segment_ids: Int[Array, "B T"],
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
  """Returns (ids, real) with padding, written as negative ids, made transparent.

  A pad gets the id of the last real token before it, or, at the start of a row, of
  the first one after it: with k = v = 0 and no decay there, a state passes through
  it unchanged. Rows that are all padding keep their negative id.
  """
  real = segment_ids >= 0
  index = jnp.arange(segment_ids.shape[1])
  last = jax.lax.cummax(jnp.where(real, index, -1), axis=1)
  source = jnp.where(last < 0, real.argmax(axis=1)[:, None], last)
  return jnp.take_along_axis(segment_ids, source, axis=1), real


def check(q, k, v, *, slopes=None, initial_state=None) -> None:
  """Raises ValueError, naming the argument, if shapes do not fit."""
  for name, x in (("q", q), ("k", k), ("v", v)):
    if x.ndim != 4:
      raise ValueError(f"{name} has the shape {x.shape}; it must be (B, T, heads, H)")
  (B, T, N, H), K, E = q.shape, k.shape[2], v.shape[3]
  if k.shape != (B, T, K, H):
    raise ValueError(f"k {k.shape} differs from q {q.shape} in B, T or H")
  if v.shape != (B, T, K, E):
    raise ValueError(f"v {v.shape} differs from k {k.shape} in B, T or heads")
  if N % K:
    raise ValueError(f"{N} query heads do not divide by {K} key/value heads")
  if slopes is not None and slopes.shape != (N,):
    raise ValueError(f"slopes {slopes.shape}: there must be one of each head, {(N,)}")
  if initial_state is not None and initial_state.shape != (B, N, H, E):
    raise ValueError(
      f"initial_state {initial_state.shape} must be (B, N, H, E) = {(B, N, H, E)}"
    )


def _chunk(scale, carry, part):
  """Runs a chunk: q (B, N, C, H), k, v (B, K, C, H|E), g (B|1, N|1, C), ids (B, C)."""
  (state, before), (q, k, v, g, ids) = carry, part
  dtype = v.dtype
  q, k, v = (x.astype(state.dtype) for x in (q, *_by_query_head(q.shape[1], k, v)))
  C = g.shape[-1]
  # Fused with the sum, XLA's exponentials run one element at a time on CPUs.
  total = jax.lax.optimization_barrier(jnp.cumsum(g, axis=-1))
  between = _between(g)
  inside = jnp.tril(jnp.ones((1, 1, C, C), bool))
  read = write = keep = True
  if ids is not None:
    inside &= (ids[:, :, None] == ids[:, None, :])[:, None]
    read = (ids == before[:, None])[:, None]
    write = (ids == ids[:, -1:])[:, None]
    keep = (ids[:, -1] == before)[:, None, None]
    before = ids[:, -1]

  scores = jnp.einsum("bnrh,bnch->bnrc", q, k)
  scores = scores * _power(between, inside)
  out = jnp.einsum("bnrc,bnce->bnre", scores, v)
  past = jnp.einsum("bnrh,bnhe->bnre", q, state)
  out = scale * (out + _power(total, read)[..., None] * past)
  kept = k * _power(between[..., -1, :], write)[..., None]
  added = jnp.einsum("bnch,bnce->bnhe", kept, v)
  state = _power(total[..., -1:], keep)[..., None] * state + added
  return (state, before), out.astype(dtype)


def _between(g):
  """Returns the sums (..., r, c) of g (..., C) over the tokens after c up to r.

  They are 0 for r <= c. A difference of two sums from the chunk's start would lose,
  behind a token that resets the state, the digits of the small decays. A product with
  ones adds only the tokens between, and its transpose does so for the gradient. Where a
  token resets, no more is lost than what exp rounds to 0: see `each_token`.
  """
  inside = jnp.tril(jnp.ones((g.shape[-1],) * 2, bool))
  rows = jnp.where(inside, g[..., None, :], 0)
  after = jnp.tril(jnp.ones_like(inside), -1).astype(g.dtype)
  return jnp.einsum("...rj,jc->...rc", rows, after, precision="highest")


def _power(exponent, where):
  """Returns exp(exponent) where allowed, else 0, with gradient 0 there, not NaN."""
  return jnp.exp(jnp.where(where, exponent, -jnp.inf))


def each_token(log_decay, q):
  """Broadcasts log decays to (B|1, T, N|1); None gives zeros.

  They are clipped, in the type of the sums, at LOWEST, where exp is still exactly 0:
  whatever a sum holds of them, also of -inf, is 0 as a weight, and their own gradient
  is 0.
  """
  dtype = accumulator_dtype(q)
  if log_decay is None:
    return jnp.zeros((1, q.shape[1], 1), dtype)
  B, _, N = log_decay.shape
  least = LOWEST[jnp.dtype(dtype).name]
  log_decay = jnp.maximum(log_decay.astype(dtype), least)
  return jnp.broadcast_to(log_decay, (B, q.shape[1], N))


def _initial(q, v, state):
  if state is None:
    B, _, N, H = q.shape
    return jnp.zeros((B, N, H, v.shape[3]), accumulator_dtype(q))
  return state.astype(accumulator_dtype(q))


def _by_query_head(heads, *arrays):
  """Repeats axis 1, of K heads, to N heads."""
  return (jnp.repeat(x, heads // x.shape[1], axis=1) for x in arrays)
