"""Third-order attention in plain JAX: an online softmax over tiles of pairs of keys."""

import functools

import jax
import jax.numpy as jnp

from attnjax.core import derivatives, devices
from attnjax.core.third_order import gradients
from attnjax.core.third_order.rows import by_rows
from attnjax.core.third_order.sight import Sight, check, unfolded
from attnjax.core.third_order.tiles import Problem, Tiles, added, cut, defaults, entry


def tiled(q, k1, k2, v1, v2, data, *, sight: Sight, tiles: Tiles | None = None):
  """Returns (out, lse) by tiles; see the package's docstring.

  Args:
    q: (B, T, N, H).
    k1: (B, S, K, H), as k2.
    k2: see k1.
    v1: (B, S, K, V), as v2.
    v2: see v1.
    data: (ids, offset), see `attnjax.core.third_order.gradients`.
    sight: who sees whom.
    tiles: the sizes; defaults if None.
  """
  check(q, k1, k2, v1, v2)
  how = {"sight": sight, "tiles": tiles}
  x, data = devices.aligned(((q, k1, k2, v1, v2), data), gradients.FORWARD[0][4:])
  with jax.numpy_rank_promotion("allow"):
    passes = gradients.Passes(
      devices.per_device(functools.partial(forward, **how), *gradients.FORWARD),
      devices.per_device(functools.partial(backward, **how), *gradients.BACKWARD),
      derivatives.tangent_of(functools.partial(by_rows, sight=sight)),
    )
    return gradients.differentiable(passes)(x, data)


def _scores(problem: Problem, block, keys, ids, at):
  """Returns (rows times first keys, masked scores (heads, rows, first, second))."""
  i, rows, own = block
  first, second = problem.tiles.first, problem.tiles.second
  product = rows[:, :, None] * cut(keys[0], at[0], first)[:, None]
  score = jnp.einsum("uijh,ulh->uijl", product, cut(keys[1], at[1], second))
  one, two = (problem.seen(i, own, ids, at[n], n) for n in (0, 1))
  return product, jnp.where(one[..., None] & two[:, :, None], score, -jnp.inf)


def _tile(line, step):
  """Returns (tile of the first stream, tile of the second) of a step of a block."""
  count = jnp.maximum(line[3], 1)
  return line[0] + step // count, line[2] + step % count


def _walk(problem: Problem, line, step, start):
  """Returns the carry after the steps of a block, a loop if there may be several."""
  if problem.whole:
    return step((0, 0), start)
  return jax.lax.fori_loop(
    0, line[1] * line[3], lambda n, carry: step(_tile(line, n), carry), start
  )


def _each(function, carry, given):
  """Scans over the first axis, without a loop if it has one entry."""
  if jax.tree.leaves(given)[0].shape[0] > 1:
    return jax.lax.scan(function, carry, given)
  carry, found = function(carry, jax.tree.map(lambda x: x[0], given))
  return carry, jax.tree.map(lambda x: x[None], found)


def forward(q, k1, k2, v1, v2, data, *, sight: Sight, tiles: Tiles | None):
  """Computes (out, top, total), see `attnjax.core.third_order.gradients`."""
  tiles = tiles or defaults(q, k1, sight)
  problem = Problem.of(q, k1, k2, v1, v2, data, sight, tiles)
  rows = problem.rows(q, k1.shape[2]) * sight.scale

  def group(_, given):
    own_rows, keys, ids = given

    def block(_, at):
      i, line = at
      own = None if ids is None else entry(ids[0], i)
      given = problem, (i, entry(own_rows, i), own), keys, ids and ids[1], line
      return None, _forward(*given)

    return _each(block, None, (jnp.arange(rows.shape[2]), problem.lists))

  _, found = _each(group, None, (rows, problem.keys, problem.ids))
  out, top, total = (problem.joined(x, q) for x in found)
  return out.astype(v1.dtype), top, total


def _forward(problem: Problem, block, keys, ids, line):
  """Computes (out, top, total) of a block of rows of some heads."""
  rows, first, second = block[1], problem.tiles.first, problem.tiles.second
  zero = jnp.zeros(rows.shape[:2], rows.dtype)

  def step(at, carry):
    top, total, acc = carry
    _, score = _scores(problem, block, keys, ids, at)
    new = jnp.maximum(top, score.max(axis=(2, 3)))
    safe = jnp.where(new == -jnp.inf, 0, new)
    weight = jnp.exp(score - safe[..., None, None])
    old = jnp.exp(top - safe)
    part = jnp.einsum("uijl,ulv->uijv", weight, cut(keys[3], at[1], second))
    part = (part * cut(keys[2], at[0], first)[:, None]).sum(axis=2)
    total = total * old + weight.sum(axis=(2, 3))
    return new, total, acc * old[..., None] + part

  acc = jnp.zeros((*rows.shape[:2], keys[2].shape[-1]), rows.dtype)
  top, total, acc = _walk(problem, line, step, (zero - jnp.inf, zero, acc))
  some = total != 0
  return acc / jnp.where(some, total, 1)[..., None], jnp.where(some, top, 0), total


def backward(
  q, k1, k2, v1, v2, g, top, share, delta, data, *, sight: Sight, tiles: Tiles | None
):
  """Computes the gradients, see `attnjax.core.third_order.gradients`."""
  tiles = tiles or defaults(q, k1, sight)
  problem = Problem.of(q, k1, k2, v1, v2, data, sight, tiles)
  lines = [problem.rows(x, k1.shape[2]) for x in (q, g, top, share, delta)]
  lines[0] = lines[0] * sight.scale

  def group(_, given):
    own_lines, keys, ids = given

    def block(sums, at):
      i, line = at
      own = None if ids is None else entry(ids[0], i)
      rows, *rest = (entry(x, i) for x in own_lines)
      given = problem, (i, rows, own), rest, keys, ids and ids[1], line
      return _backward(*given, sums)

    zeros = tuple(jnp.zeros_like(x) for x in keys)
    blocks = jnp.arange(lines[0].shape[2])
    return None, _each(block, zeros, (blocks, problem.lists))

  _, (sums, dq) = _each(group, None, (tuple(lines), problem.keys, problem.ids))
  sums = [
    unfolded(x.reshape(-1, *x.shape[2:]), like).astype(like.dtype)
    for x, like in zip(sums, (k1, k2, v1, v2))
  ]
  return (problem.joined(dq, q) * sight.scale).astype(q.dtype), *sums


def _backward(problem: Problem, block, rest, keys, ids, line, sums):
  """Returns (the sums of the gradients of keys, those of the rows)."""
  rows, (g, top, share, delta) = block[1], rest
  first, second = problem.tiles.first, problem.tiles.second

  def step(at, carry):
    (one, two), (dq, (dk1, dk2, dv1, dv2)) = at, carry
    product, score = _scores(problem, block, keys, ids, (one, two))
    weight = jnp.exp(score - top[..., None, None]) * share[..., None, None]
    k1, v1 = (cut(keys[n], one, first)[:, None] for n in (0, 2))
    k2, v2 = (cut(keys[n], two, second) for n in (1, 3))
    slope = g[:, :, None] * v1
    change = jnp.einsum("uijv,ulv->uijl", slope, v2) - delta[..., None, None]
    change = weight * change
    by_first = jnp.einsum("uijl,ulh->uijh", change, k2)
    values = jnp.einsum("uijl,ulv->uijv", weight, v2)
    by_second = jnp.einsum("uijl,uijh->ulh", change, product)
    dv_second = jnp.einsum("uijl,uijv->ulv", weight, slope)
    sums = (
      added(dk1, (by_first * rows[:, :, None]).sum(axis=1), one, first),
      added(dk2, by_second, two, second),
      added(dv1, (values * g[:, :, None]).sum(axis=1), one, first),
      added(dv2, dv_second, two, second),
    )
    return dq + (by_first * k1).sum(axis=2), sums

  start = jnp.zeros_like(rows), sums
  dq, sums = _walk(problem, line, step, start)
  return sums, dq
