"""The backward pass of softmax attention in plain JAX: five products in each tile.

Tri Dao et al. FlashAttention. arXiv:2205.14135, section 3.1 (algorithm 4).
"""

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.softmax import tiling, unseen
from attnjax.core.softmax import xla_forward as forward_pass
from attnjax.core.softmax.fast_exponential import exponential, rounder
from attnjax.core.softmax.tiling import Problem


def backward(q, k, v, g, top, total, delta, program, schedule, *, scale, tiles):
  """Computes (dq, dk, dv, doperands) as `attnjax.core.softmax.gradients` defines them.

  Gradients of keys and values are stored as (H, s), so that no tile is transposed, and
  are updated in place in the loop's carry.
  """
  B, H = q.shape[0], q.shape[3]
  hidden = forward_pass.hides(program, schedule)
  problem = Problem.of(program, tiles, q, k, hidden)
  arrays = _arrays(problem, q, k, v, (g, top, total, delta), schedule, scale)
  query, key, key_t, value_t = arrays[0][0], *arrays[1]
  blocks = query.shape[1]
  share = query.shape[0] // key.shape[0]

  def part(first, number):
    """Computes the gradients of `number` key units and of the units that read them."""
    start = np.int32(first * share), np.int32(first)

    def row(at, carry):
      return _row(problem, arrays, start[0] + at // blocks, at % blocks, carry, start)

    found = [
      jnp.zeros((number * n, *x.shape[1:]), x.dtype)
      for x, n in ((query, share), (key_t, 1), (value_t, 1))
    ]
    sums = [_zeros(x, accumulator_dtype(q)) for x in problem.program.operands]
    return jax.lax.fori_loop(0, number * share * blocks, row, (*found, sums))

  parts = [part(*loop) for loop in tiling.loops(key.shape[0])]
  *found, sums = zip(*parts)
  dq, dk, dv = (jnp.concatenate(x) for x in found)
  sums = jax.tree.map(lambda *x: sum(x[1:], x[0]), *sums)
  dq = dq.reshape(*dq.shape[:3], tiles.query_heads, tiles.rows, H) * scale
  dk, dv = (x.swapaxes(3, 4)[:, :, :, None] for x in (dk, dv))
  dq, dk, dv = (_join(*x, B) for x in ((dq, q), (dk, k), (dv, v)))
  return dq, dk, dv, tuple(_cropped(*x) for x in zip(sums, program.operands))


def _arrays(problem, q, k, v, rows, schedule, scale):
  """Returns the tiles' inputs: (of queries, of keys, block lists, the rounder)."""
  (B, _, N, _), K, tiles = q.shape, k.shape[2], problem.tiles
  g, top, total, delta = rows
  queries = tiles.rows, tiles.key_heads, tiles.query_heads, K
  keys = tiles.columns, tiles.key_heads, 1, K
  query = _rows(tiling.split(q, *queries) * scale)
  given = (unseen.infected(k, v), unseen.clean(v)) if problem.hidden else (k, v)
  key, value = (tiling.split(x, *keys)[:, :, :, 0] for x in given)
  key_t, value_t = key.swapaxes(3, 4), value.swapaxes(3, 4)
  if problem.hidden:
    key = unseen.clean(key)
  # A row that sees nothing, or lies beyond T, has no weight. The division of a row's
  # weights by its total is applied to g and delta.
  top = jnp.where(total == 0, jnp.inf, top)
  share = jnp.where(total == 0, 0.0, 1 / jnp.where(total == 0, 1.0, total))
  top = _rows(tiling.split(top[..., None], *queries, fill=jnp.inf))[..., 0]
  delta = _rows(tiling.split((delta * share)[..., None], *queries))[..., 0]
  g = _rows(tiling.split(g * share[..., None], *queries))
  units = query.shape[0]
  lists = schedule.index, schedule.full, schedule.count
  lists = [tiling.by_unit(x, B, N, units) for x in lists]
  return (query, g, top, delta), (key, key_t, value_t), lists, rounder()


def _row(problem, arrays, u, i, carry, start):
  """Adds the gradients of one query block to `carry`.

  `carry` = (dq, dk, dv, operand gradients); its arrays begin at the (query, key) units
  `start`.
  """
  parts, keys, lists, lift = arrays
  query, g, top, delta = (tiling.pick(x, u, i) for x in parts)
  finite = unseen.clean(query) if problem.hidden else query
  query_t, g_t = (jax.lax.optimization_barrier(x.swapaxes(1, 2)) for x in (finite, g))
  index, full, count = (x[u * (x.shape[0] > 1), i] for x in lists)
  owner = u // (parts[0].shape[0] // keys[0].shape[0])
  rows = query, query_t, g, g_t, top, delta

  def visit(partial):
    def step(at, carry):
      j = index[at]
      dquery, dk, dv, sums = carry
      tile = [tiling.pick(x, owner, j) for x in keys]
      result = _tile(problem, rows, tile, (u, i, j), partial, lift, sums)
      change, dkey, dvalue, sums = result
      own = owner - start[1], j
      return dquery + change, _add(dk, *own, dkey), _add(dv, *own, dvalue), sums

    return step

  dq, *rest = carry
  inner = jnp.zeros_like(query), *rest
  inner = jax.lax.fori_loop(0, full, visit(False), inner)
  dquery, *rest = jax.lax.fori_loop(full, count, visit(True), inner)
  own = tiling.place(dq, u - start[0], i)
  dq = jax.lax.dynamic_update_slice(dq, dquery[None, None], own)
  return dq, *rest


def _tile(problem, rows, tile, at, partial, lift, sums):
  """Computes a tile's parts of dq, dk and dv; adds its operand gradients to `sums`."""
  query, query_t, g, g_t, top, delta = rows
  key, key_t, value_t = tile
  program, (u, i, j) = problem.program, at
  raw = jnp.einsum("kth,khs->kts", query, key_t)
  whole = problem.whole(raw)
  seen = tiling.seen_in(problem, raw, u, i, j, rows=True) if partial else None
  score, pull = raw, None
  if program.score is not None:
    # The function reads 0 for unseen scores: its derivatives there are finite.
    raw = tiling.only(seen, raw)
    score, pull = problem.score_and_pull(raw.reshape(whole), u, i, j)
    score = score.reshape(raw.shape)
  weight = exponential(jnp.minimum(score - top[..., None], 0.0), lift)
  weight = tiling.only(seen, weight)
  # Behind a barrier it is computed once, not for each of its two readers.
  weight = jax.lax.optimization_barrier(weight)
  dweight = jnp.einsum("ktv,kvs->kts", g, value_t)
  kept = weight
  if program.keep is not None:
    keep = problem.tile(program.keep, unit=u, i=i, j=j)
    keep = jnp.broadcast_to(keep, whole).reshape(raw.shape)
    kept, dweight = weight * keep, dweight * keep
  dscore = tiling.only(seen, weight * (dweight - delta[..., None]))
  if pull is not None:
    dscore, sums = pull(dscore.reshape(whole), sums)
    dscore = dscore.reshape(raw.shape)
  dquery = jnp.einsum("kts,ksh->kth", dscore, key)
  dkey = jnp.einsum("kht,kts->khs", query_t, dscore)
  return dquery, dkey, jnp.einsum("kvt,kts->kvs", g_t, kept), sums


def _add(x, u, j, part):
  """Adds `part` to x[u, j] in place."""
  start = tiling.place(x, u, j)
  return jax.lax.dynamic_update_slice(
    x, (tiling.pick(x, u, j) + part)[None, None], start
  )


def _rows(x):
  """Merges (unit, block, k, g, t, H) to (unit, block, k, g t, H)."""
  return x.reshape(*x.shape[:3], -1, x.shape[-1])


def _join(x, like, B):
  _, blocks, k, g, t, H = x.shape
  x = x.reshape(B, -1, blocks, k, g, t, H).transpose(0, 2, 5, 1, 3, 4, 6)
  return x.reshape(B, blocks * t, -1, H)[:, : like.shape[1]].astype(like.dtype)


def _zeros(x, dtype):
  """Returns the accumulator of an operand's gradient; None if it has no gradient."""
  return jnp.zeros(x.shape, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None


def _cropped(x, like):
  """Returns an operand's gradient without the padding."""
  return None if x is None else x[:, :, : like.shape[2], : like.shape[3]]
