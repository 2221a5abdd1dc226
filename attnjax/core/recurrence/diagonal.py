"""Diagonal linear recurrences: token by token, as a scan, and in chunks.

  h_t = exp(g_t) * h_{t-1} + b_t * v_t       (H, E), h_{-1} the initial state or 0
  o_t = sum over H of c_t * h_t              (E,)

Every element of the state has its own decay exp(g_t). The pairs (a, b), which stand for
h -> a h + b, compose associatively:

  (a, b) then (a', b') = (a' a, a' b + b')

so all states of T tokens come from a scan of depth log T. States, decays and sums are
float32 (float64 for float64) whatever the input is. Where the decay is a scalar for
each token and head, `attnjax.core.recurrence.linear` has the recurrence as products
of matrices.

Guy E. Blelloch. Prefix Sums and Their Applications. 1990, section 1.4.

Cost: O(T H E) time for each head; `chunked` keeps T / C states of chunks of C tokens
for the backward pass, and recomputes the states inside a chunk.

Axes: B batch, T tokens, N heads, H state elements for each value, E value size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import devices
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence.chunking import split

# Short: all states of a chunk are in memory at once.
CHUNK = 32


def scan(
  decay: Float[Array, "*#S"], added: Float[Array, "*#S"], *, axis: int = 1
) -> tuple[Array, Array]:
  """Scans h_t = decay_t h_{t-1} + added_t from h_{-1} = 0 along `axis`.

  Args:
    decay: the factors of the state; they broadcast to `added`, except along `axis`.
    added: the terms that are added to the state.
    axis: of the tokens.

  Returns:
    (products, states): decay_0 ... decay_t, in the shape of `decay`, and h_t, in the
    shape of both. From another initial state h the states are products * h + states.
  """

  def compose(first, second):
    (a, b), (c, d) = first, second
    return c * a, c * b + d

  axis = axis % added.ndim
  shape = list(jnp.broadcast_shapes(decay.shape, added.shape))
  return jax.lax.associative_scan(
    compose, (decay, jnp.broadcast_to(added, shape)), axis=axis
  )


def chunked(
  v: Float[Array, "B T N E"],
  log_decay: Float[Array, "#B T #N #H #E"],
  write: Float[Array, "#B T #N #H #E"],
  read: Float[Array, "#B T #N #H #E"],
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  chunk: int = CHUNK,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B N H E"]]:
  """Returns (out, state after the last token), with derivatives of any order.

  Args:
    v: the values.
    log_decay: g above. It may be positive, or -inf for a decay of 0.
    write: b above.
    read: c above.
    initial_state: the state before the first token; it belongs to its segment.
    segment_ids: a document is a run of equal ids and starts from a zero state.
    chunk: the most tokens that are worked on at once; no result depends on it.
  """
  T = v.shape[1]
  number = -(-T // chunk)
  size = -(-T // number)
  state = initial(v, log_decay, write, read, initial_state)
  log_decay = _restarting(log_decay, segment_ids)
  arrays = (v[..., None, :], log_decay, write, read)
  parts = tuple(split(x.astype(state.dtype), number, size) for x in arrays)
  state, parts = devices.vary((state, parts))
  # The states of a chunk are recomputed in the backward pass, not kept.
  state, out = jax.lax.scan(jax.checkpoint(_chunk, prevent_cse=False), state, parts)
  out = jnp.moveaxis(out, 0, 1)  # (i, B, C, N, E) -> (B, i, C, N, E)
  return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :T].astype(v.dtype), state


def recurrent(
  v: Float[Array, "B T N E"],
  log_decay: Float[Array, "#B T #N #H #E"],
  write: Float[Array, "#B T #N #H #E"],
  read: Float[Array, "#B T #N #H #E"],
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T N E"], Float[Array, "B N H E"]]:
  """Computes `chunked` by its definition, one token after the other."""
  state = initial(v, log_decay, write, read, initial_state)
  log_decay = _restarting(log_decay, segment_ids)

  def body(state, token):
    out, state = step(state, *token)
    return state, out

  tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (v, log_decay, write, read))
  state, out = jax.lax.scan(body, devices.vary_like(state, tokens), tokens)
  return jnp.moveaxis(out, 0, 1), state


def step(
  state: Float[Array, "B N H E"],
  v: Float[Array, "B N E"],
  log_decay: Float[Array, "#B #N #H #E"],
  write: Float[Array, "#B #N #H #E"],
  read: Float[Array, "#B #N #H #E"],
) -> tuple[Float[Array, "B N E"], Float[Array, "B N H E"]]:
  """Advances the recurrence by one token; returns (out, next state)."""
  dtype = accumulator_dtype(v)
  new = write.astype(dtype) * v.astype(dtype)[..., None, :]
  state = jnp.exp(log_decay.astype(dtype)) * state.astype(dtype) + new
  return (read.astype(dtype) * state).sum(axis=-2).astype(v.dtype), state


def initial(v, log_decay, write, read, state=None) -> Float[Array, "B N H E"]:
  """Returns the initial state, 0 if none is given, in the type of the sums.

  Raises:
    ValueError: if its shape does not fit the other arrays.
  """
  (B, _, N, E) = v.shape
  parts = (x.shape[3] for x in (log_decay, write, read))
  shape = (B, N, max(parts), E)
  if state is None:
    return jnp.zeros(shape, accumulator_dtype(v))
  if state.shape != shape:
    raise ValueError(f"initial_state {state.shape} must be (B, N, H, E) = {shape}")
  return state.astype(accumulator_dtype(v))


def _chunk(state, part):
  """Runs a chunk: v (B, C, N, 1, E), the other arrays (B|1, C, N|1, H|1, E|1)."""
  v, log_decay, write, read = part
  products, states = scan(jnp.exp(log_decay), write * v)
  states = states + products * state[:, None]
  return states[:, -1], (read * states).sum(axis=-2)


def _restarting(log_decay, segment_ids):
  """Returns the log decays, -inf at the first token of every document but the first."""
  if segment_ids is None:
    return log_decay
  change = segment_ids[:, 1:] != segment_ids[:, :-1]
  change = jnp.pad(change, ((0, 0), (1, 0)))[..., None, None, None]
  return jnp.where(change, -jnp.inf, log_decay)
