"""The forward pass of softmax attention in plain JAX: an online softmax over tiles.

Markus N. Rabe, Charles Staats. Self-attention Does Not Need O(n^2) Memory.
arXiv:2112.05682. Tri Dao et al. FlashAttention. arXiv:2205.14135.
"""

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.softmax import gradients, tiling, unseen
from attnjax.core.softmax.fast_exponential import exponential, rounder, row_max
from attnjax.core.softmax.tiling import Problem

# Sums of e^score are taken as they are while all |score| are at most this.
BOUND = 40.0


def forward(q, k, v, sinks, program, schedule, *, scale, tiles):
  """Computes (out, top, total) as `attnjax.core.softmax.gradients` defines them."""
  B, T, N, _ = q.shape
  K = k.shape[2]
  problem = Problem.of(program, tiles, q, k)
  if hides(program, schedule):
    k, v = unseen.infected(k, v), unseen.clean(v)
  query = tiling.split(q, tiles.rows, tiles.key_heads, tiles.query_heads, K) * scale
  key, value = (
    tiling.split(x, tiles.columns, tiles.key_heads, 1, K)[:, :, :, 0] for x in (k, v)
  )
  key = key.swapaxes(3, 4)
  units, blocks = query.shape[:2]
  lists = schedule.index, schedule.full, schedule.count
  lists = [tiling.by_unit(x, B, N, units) for x in lists]
  arrays = query, key, value, lists, rounder()

  def run(bounded):
    def row(at):
      return _row(problem, arrays, at // blocks, at % blocks, bounded)

    def rows(first, number):
      at = jnp.arange(number * blocks, dtype=jnp.int32) + np.int32(first * blocks)
      return jax.lax.map(row, at)

    def all_rows():
      parts = [rows(*part) for part in tiling.loops(units)]
      return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    return all_rows

  if program.score is None:
    # Then |score| <= |q| |k|, and where that is small no maximum is needed.
    longest = [jnp.sqrt((x * x).sum(axis=a).max()) for x, a in ((query, -1), (key, -2))]
    small = _together(longest[0] * longest[1] <= BOUND)
    found = jax.lax.cond(small, run(True), run(False))
  else:
    found = run(False)()
  found = (x.reshape(units, blocks, *x.shape[1:]) for x in found)
  out, top, total = (tiling.join(x, B, T, N) for x in found)
  out, top, total = gradients.with_sinks(out, top[..., 0], total[..., 0], sinks)
  return out.astype(v.dtype), top, total


def hides(program, schedule) -> bool:
  """Returns whether some query may not see some key."""
  return (
    program.seen is not None
    or not isinstance(schedule.count, np.ndarray)
    or (int(schedule.count.min(initial=0)) < schedule.count_t.shape[-1])
  )


@jax.custom_batching.custom_vmap
def _together(small):
  """Returns `small`, under vmap for the whole batch, so that only one branch runs."""
  return small


@_together.def_vmap
def _(size, batched, small):
  del size, batched
  return _together(small.all(axis=0)), False


def _row(problem, arrays, u, i, bounded):
  """Computes (out, top, total) of a block of queries."""
  query, _, value, lists, _ = arrays
  index, full, count = (x[u * (x.shape[0] > 1), i] for x in lists)
  rows = tiling.pick(query, u, i)
  k, g, t, H = rows.shape
  rows = rows.reshape(k, g * t, H)
  zero = jnp.zeros((k, g * t), query.dtype)
  top = zero if bounded else zero - jnp.inf
  carry = top, zero, jnp.zeros((k, g * t, value.shape[-1]), query.dtype)
  tile = _bounded if bounded else _running

  def visit(partial):
    return lambda at, carry: tile(
      problem, arrays, rows, (u, i, index[at]), partial, carry
    )

  if problem.program.score is None and not bounded:
    # Rare: the mask is applied to full tiles too, which saves compiling a loop.
    carry = jax.lax.fori_loop(0, count, visit(True), carry)
  else:
    carry = jax.lax.fori_loop(0, full, visit(False), carry)
    carry = jax.lax.fori_loop(full, count, visit(True), carry)
  top, total, acc = carry
  some = total != 0
  out = acc / jnp.where(some, total, 1.0)[..., None]
  if bounded:
    # An integer near the scores, from which they are subtracted exactly.
    top = jnp.ceil(jnp.log(jnp.where(some, total, 1.0)))
    total = total * jnp.exp(-top)
  out, top, total = (x.reshape(k, g, t, -1) for x in (out, top, total))
  return out, top, total


def _bounded(problem, arrays, rows, at, partial, carry):
  """Adds a tile of small scores to the carry: sums of e^score."""
  top, total, acc = carry
  score, value = _scores_and_values(problem, arrays, rows, at, partial)
  weight = exponential(score, arrays[-1])
  total = total + weight.sum(axis=-1)
  weight = _kept(problem, weight, at)
  return top, total, acc + jnp.einsum("kts,ksv->ktv", weight, value)


def _running(problem, arrays, rows, at, partial, carry):
  """Adds a tile of any scores to the carry: sums of e^(score - top)."""
  top, total, acc = carry
  score, value = _scores_and_values(problem, arrays, rows, at, partial)
  new = jnp.maximum(top, row_max(score))
  safe = jnp.where(new == -jnp.inf, 0.0, new)
  weight = exponential(score - safe[..., None], arrays[-1])
  # Behind a barrier it is computed once a row, not once for each element of acc.
  old = jax.lax.optimization_barrier(exponential(top - safe, arrays[-1]))
  total = total * old + weight.sum(axis=-1)
  acc = acc * old[..., None]
  weight = _kept(problem, weight, at)
  return new, total, acc + jnp.einsum("kts,ksv->ktv", weight, value)


def _scores_and_values(problem, arrays, rows, at, partial):
  query, key, value, _, _ = arrays
  u, i, j = at
  owner = u // (query.shape[0] // key.shape[0])
  score = jnp.einsum("kth,khs->kts", rows, tiling.pick(key, owner, j))
  whole = problem.whole(score)
  seen = tiling.seen_in(problem, score, u, i, j) if partial else None
  if problem.program.score is not None:
    # The function reads 0 for unseen scores: it is finite there.
    score = score if seen is None else jnp.where(seen, score, 0.0)
    part = problem.program.score
    score = problem.tile(part, unit=u, i=i, j=j, raw=score.reshape(whole))
    score = jnp.broadcast_to(score, whole).reshape(rows.shape[0], -1, whole[3])
    score = jax.lax.optimization_barrier(score)  # rounded: see `scored`
  if seen is not None:
    score = jnp.where(seen, score, -jnp.inf)
  return score, tiling.pick(value, owner, j)


def _kept(problem, weight, at):
  """Returns the weights after the dropout."""
  if problem.program.keep is None:
    return weight
  u, i, j = at
  kept = problem.tile(problem.program.keep, unit=u, i=i, j=j)
  return (weight.reshape(problem.whole(weight)) * kept).reshape(weight.shape)
