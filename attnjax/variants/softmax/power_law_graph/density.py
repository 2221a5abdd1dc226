"""Densities of queries: one of each row, or one of each token, a chunk at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.core import devices
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import linear
from attnjax.core.recurrence.chunking import split

# Tokens whose operators are in memory at once, and are made again in the backward pass.
CHUNK = 16


def whole(
  q: Float[Array, "B T N H"], real: Bool[Array, "B T"] | None = None
) -> Float[Array, "B N H H"]:
  """Returns the sum of q^T q over the real tokens of each row, in float32."""
  q = _clean(q, real)
  return jnp.einsum("btnh,btng->bnhg", q, q)


def of_each_token(
  q: Float[Array, "B T N H"],
  curvature: Callable[[Array], Array],
  *,
  ids: Int[Array, "B T"] | None = None,
  state: Float[Array, "B N H H"] | None = None,
  later: bool = False,
  chunk: int = CHUNK,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N H H"]]:
  """Returns (q G, the density after the last token), G by each token's own density.

  Args:
    q: rotated queries.
    curvature: maps densities (T, B, N, H, H) to operators of the same shape.
    ids: a document is a run of equal ids, and its tokens alone are in its densities;
      padding, with negative ids, is in none. None is one document.
    state: the density before the first token, of its document; 0 if None.
    later: whether later tokens of a document are in the density as well.
    chunk: the most tokens that are worked on at once; no result depends on it.
  """
  B, T, N, H = q.shape
  kind = q.dtype
  runs, real = _runs(ids, (B, T))
  q = _clean(q, real)
  state = jnp.zeros((B, N, H, H), q.dtype) if state is None else state.astype(q.dtype)
  number = -(-T // chunk)
  size = -(-T // number)
  parts = split(q, number, size), split(runs, number, size, mode="edge")
  start, parts = devices.vary(((state, runs[:, 0]), parts))
  behind = None
  if later:
    end = devices.vary_like((jnp.zeros_like(state), runs[:, -1]), parts)

    def back(carry, part):
      return _sums(carry, part, reverse=True)[0], carry

    _, behind = jax.lax.scan(back, end, parts, reverse=True)

  def step(carry, part):
    own, behind = part
    carry, (_, density) = _sums(carry, own)
    if behind is not None:
      density += _sums(behind, own, reverse=True)[1][0]
    bent = jnp.einsum("cbnh,cbnhg->cbng", own[0].swapaxes(0, 1), curvature(density))
    return carry, bent

  step = jax.checkpoint(step, prevent_cse=False)
  (state, _), bent = jax.lax.scan(step, start, (parts, behind))
  bent = jnp.moveaxis(bent.reshape(-1, B, N, H)[:T], 0, 1)
  return bent.astype(kind), state


def _sums(carry, own, reverse: bool = False):
  """Returns the carry after a chunk, and densities without and with each token.

  One token is added after the other: any cut of a row then gives the same bits, whose
  rounding the power law would make large.

  Args:
    carry: the density of the tokens before, and the run (B,) that it is of.
    own: queries (B, C, N, H), and the runs (B, C) that they are of.
    reverse: whether the last token is the first.
  """

  def add(carry, token):
    (state, last), (q, run) = carry, token
    before = jnp.where((run == last)[:, None, None, None], state, 0)
    after = before + q[..., :, None] * q[..., None, :]
    return (after, run), (before, after)

  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), own)
  return jax.lax.scan(add, carry, tokens, reverse=reverse)


def _runs(ids, shape):
  """Returns the number of each token's document, (B, T), and which tokens are real."""
  if ids is None:
    return jnp.zeros(shape, jnp.int32), None
  ids, real = linear.spans(ids)
  new = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)))
  return jnp.cumsum(new, axis=1), real


def _clean(q, real):
  """Returns q in the type of sums, 0 at padding."""
  q = q.astype(accumulator_dtype(q))
  return q if real is None else jnp.where(real[..., None, None], q, 0)
