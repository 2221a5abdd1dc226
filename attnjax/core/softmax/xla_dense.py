"""Softmax attention of small problems by whole score matrices, in batches for caches.

Where T S of a head is small, products of whole matrices in one batch are several times
faster on CPUs than loops over tiles. The backward pass recomputes the weights, so that
no matrix is kept between the passes.
"""

import jax
import jax.numpy as jnp

from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.softmax import gradients, tiling, unseen
from attnjax.core.softmax.fast_exponential import exponential, rounder
from attnjax.core.softmax.score_gradient import score_and_pull

# Scores of one head, at most; beyond it tiles are as fast, and need less memory.
MATRIX = 2**17
# Scores of one step of the loop over the batch: 8 MB, which stay in caches.
STEP = 2**21

_barrier = jax.lax.optimization_barrier


def forward(q, k, v, sinks, program, schedule, *, scale):
  """Computes (out, top, total) as `attnjax.core.softmax.gradients` defines them."""
  del schedule

  def part(arrays, operands):
    query, key, value = arrays
    seen = _seen(program, operands, (query, key))
    score, _ = _scored(program, operands, _scores(query, key), seen)
    score = _barrier(score if seen is None else jnp.where(seen, score, -jnp.inf))
    top = score.max(axis=-1, keepdims=True)
    top = _barrier(jnp.where(top == -jnp.inf, 0.0, top))
    weight = exponential(score - top, rounder())
    total = weight.sum(axis=-1, keepdims=True)
    if program.keep is not None:
      weight = weight * program.keep(*_places(score), *_read(program.keep, operands))
    out = _sums(weight, value) / jnp.where(total != 0, total, 1.0)
    return (out, top, total), [None] * len(operands)

  if program.seen is not None:
    k, v = unseen.infected(k, v), unseen.clean(v)
  arrays = _by_head(q) * scale, _by_head(k), _by_head(v)
  start = [None] * len(program.operands)
  found, _ = _in_parts(part, arrays, (), program, start)
  out, top, total = map(_by_token, found)
  out, top, total = gradients.with_sinks(out, top[..., 0], total[..., 0], sinks)
  return out.astype(v.dtype), top, total


def backward(q, k, v, g, top, total, delta, program, schedule, *, scale):
  """Computes (dq, dk, dv, doperands); see `attnjax.core.softmax.gradients`."""
  del schedule
  hidden = program.seen is not None

  def part(arrays, operands):
    query, key, value, top, g, delta = arrays
    seen = _seen(program, operands, (query, key))
    score, pull = _scored(program, operands, _scores(query, key), seen)
    weight = exponential(jnp.minimum(score - top, 0.0), rounder())
    weight = _barrier(tiling.only(seen, weight))
    dweight, kept = _scores(g, value), weight
    if program.keep is not None:
      keep = program.keep(*_places(score), *_read(program.keep, operands))
      kept, dweight = weight * keep, dweight * keep
    draw = tiling.only(seen, weight * (dweight - delta))
    sums = [_zeros(x, accumulator_dtype(q)) for x in operands]
    if pull is not None:
      draw, read = pull(draw)
      sums = [read.get(p, x) for p, x in enumerate(sums)]
    if hidden:
      query, key = unseen.clean(query), unseen.clean(key)
    dkey, dvalue = _pulled(draw, query, key), _pulled(kept, g, value)
    return (_sums(draw, key) * scale, dkey, dvalue), sums

  # The division of a row's weights by its total is applied to g and delta.
  share = jnp.where(total == 0, 0.0, 1 / jnp.where(total == 0, 1.0, total))
  top = jnp.where(total == 0, jnp.inf, top)
  rows = (g * share[..., None], top[..., None], (delta * share)[..., None])
  g, top, delta = map(_by_head, rows)
  given = (unseen.infected(k, v), unseen.clean(v)) if hidden else (k, v)
  arrays = _by_head(q) * scale, *map(_by_head, given), top
  start = [_zeros(x, accumulator_dtype(q)) for x in program.operands]
  found, sums = _in_parts(part, arrays, (g, delta), program, start)
  found = (_by_token(x) for x in found)
  return *(d.astype(x.dtype) for d, x in zip(found, (q, k, v))), sums


def _scored(program, operands, raw, seen):
  """Returns (score, pull), the modified scores and their VJP, or (raw, None)."""
  score, pull = raw, None
  if program.score is not None:
    # The function reads 0 for unseen scores: its derivatives there are finite.
    raw = tiling.only(seen, raw)
    given = _read(program.score, operands)
    score, pull = score_and_pull(program.score, raw, _places(raw), given)
  return score, pull


def _scores(query, key):
  """Computes the scores (b, N, T, S) of (b, N, T, H) and (b, K, S, H)."""
  one = _grouped(query, key)
  return jnp.einsum("bkth,bksh->bkts", one, key).reshape(*query.shape[:3], -1)


def _sums(weight, value):
  """Computes the sums over keys, (b, N, T, V), of (b, N, T, S) and (b, K, S, V)."""
  one = _grouped(weight, value)
  return jnp.einsum("bkts,bksv->bktv", one, value).reshape(*weight.shape[:3], -1)


def _pulled(weight, rows, like):
  """Computes the sums over queries and a group's heads, (b, K, S, H) as `like` is."""
  one, two = (_grouped(x, like) for x in (weight, rows))
  return jnp.einsum("bkts,bkth->bksh", one, two)


def _grouped(x, like):
  """Reshapes (b, N, T, ...) to (b, K, G T, ...)."""
  return x.reshape(x.shape[0], like.shape[1], -1, x.shape[3])


def _in_parts(function, arrays, zeros, program, start):
  """Applies function((*arrays, *zeros), operands) to slices of the batch.

  Returns (results, sums). Results have the batch as their first axis. Sums, the
  gradients of operands, are summed over slices, onto `start`, if the operand is shared
  by the batch (leading axis 1), otherwise concatenated. The last slice is padded with
  its last example, in which `zeros` are 0.
  """
  (B, N, T), S = arrays[0].shape[:3], arrays[1].shape[2]
  size = -(-B // min(B, -(-B * N * T * S // STEP)))
  number = -(-B // size)
  if number == 1:
    results, sums = function((*arrays, *zeros), program.operands)
    return results, tuple(sums)
  shared = [x.shape[0] == 1 for x in program.operands]

  def cut(x, mode="edge"):
    x = jnp.pad(x, ((0, number * size - B), *((0, 0),) * (x.ndim - 1)), mode)
    return x.reshape(number, size, *x.shape[1:])

  def chosen(which, parts):
    return [x if one is which else None for one, x in zip(shared, parts)]

  def merged(common, own):
    return tuple(x if one else y for one, x, y in zip(shared, common, own))

  def step(total, part):
    given, own = part
    results, sums = function(given, merged(program.operands, own))
    total = jax.tree.map(jnp.add, total, chosen(True, sums))
    return total, (results, chosen(False, sums))

  own = [None if x is None else cut(x) for x in chosen(False, program.operands)]
  given = (*map(cut, arrays), *(cut(x, "constant") for x in zeros))
  total, found = jax.lax.scan(step, chosen(True, start), (given, own))
  found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:B], found)
  return found[0], merged(total, found[1])


def _by_head(x):
  """Transposes (b, T, N, H) to (b, N, T, H), in the type of the sums."""
  return x.astype(accumulator_dtype(x)).swapaxes(1, 2)


def _by_token(x):
  """Transposes (b, N, T, H) to (b, T, N, H)."""
  return x.swapaxes(1, 2)


def _zeros(x, dtype):
  """Returns the accumulator of an operand's gradient; None if it has no gradient."""
  return jnp.zeros(x.shape, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None


def _places(raw):
  """Returns the indices of the queries, (1, 1, T, 1), and of the keys, (1, 1, 1, S)."""
  return _numbers(*raw.shape[2:])


def _numbers(T, S):
  rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in (T, S))
  return rows[None, None, :, None], columns[None, None, None]


def _read(part, operands):
  return [operands[p] for p in part.operands]


def _seen(program, operands, arrays):
  """Computes the mask, once for all heads that it serves; None where all is seen."""
  if program.seen is None:
    return None
  part, (T, S) = program.seen, (x.shape[2] for x in arrays)
  seen = part(*_numbers(T, S), *_read(part, operands))
  return _barrier(seen.reshape((1,) * (4 - seen.ndim) + seen.shape))
