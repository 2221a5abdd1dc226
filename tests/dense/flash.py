"""The softmax kernels' passes over whole matrices: a Program over a Schedule."""

import jax
import jax.numpy as jnp


def forward(q, k, v, sinks, program, schedule, *, scale, tiles):
  """Returns (out, top, total), as `attnjax.core.softmax.gradients` has them."""
  del tiles
  visible, score, keep, _ = _scores(q, k, program, schedule, scale, transposed=False)
  score = jnp.where(visible, score, -jnp.inf)
  top = score.max(axis=-1, initial=-jnp.inf)
  if sinks is not None:
    top = jnp.maximum(top, sinks.astype(jnp.float32)[:, None])
  some = top > -jnp.inf
  weight = jnp.exp(score - jnp.where(some, top, 0)[..., None])
  total = weight.sum(axis=-1)
  if sinks is not None:
    total += jnp.exp(sinks.astype(jnp.float32)[:, None] - top)
  share = weight * keep / jnp.where(some, total, 1)[..., None]
  out = jnp.einsum("bnts,bsnv->btnv", share, _each_head(v, q))
  return out.astype(v.dtype), top.swapaxes(1, 2), total.swapaxes(1, 2)


def backward(q, k, v, g, top, total, delta, program, schedule, *, scale, tiles):
  """Returns (dq, dk, dv, doperands); dk and dv by the lists of key blocks."""
  del tiles
  floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in program.operands]
  lines = [x.swapaxes(1, 2)[..., None] for x in (top, total, delta)]
  g = g.astype(jnp.float32)
  found = []
  for transposed in (False, True):
    visible, score, keep, pull = _scores(q, k, program, schedule, scale, transposed)
    top, total, delta = lines
    some = visible & (total > 0)
    weight = jnp.exp(jnp.where(some, score - jnp.where(some, top, 0), -jnp.inf))
    weight /= jnp.where(total > 0, total, 1)
    by_weight = keep * jnp.einsum("btnv,bsnv->bnts", g, _each_head(v, q)) - delta
    dv = jnp.einsum("bnts,btnv->bsnv", weight * keep, g)
    found.append((*pull(weight * by_weight), dv))
  dq, _, doperands, _ = found[0]
  _, dk, _, dv = found[1]
  doperands = tuple(d if f else None for d, f in zip(doperands, floats))
  return dq.astype(q.dtype), dk.astype(k.dtype), _of_groups(dv, v), doperands


def _scores(q, k, program, schedule, scale, transposed):
  """Returns (who sees whom, scores, factors of weights, the scores' way back)."""
  T, S = q.shape[1], k.shape[1]
  t, s = jnp.arange(T)[:, None], jnp.arange(S)[None]
  listed, full = _blocks(schedule, T, S, transposed)

  def of(part, *first):
    return part(*first, t, s, *(program.operands[i] for i in part.operands))

  seen = True if program.seen is None else of(program.seen).astype(bool)
  visible = listed & (full | seen)

  def scores(q, k, operands):
    both = q.astype(jnp.float32), _each_head(k, q)
    raw = scale * jnp.einsum("btnh,bsnh->bnts", *both)
    if program.score is None:
      return raw
    given = [operands[i] for i in program.score.operands]
    raw = jnp.where(visible, raw, 0)
    return jnp.broadcast_to(program.score(raw, t, s, *given), raw.shape)

  score = scores(q, k, program.operands)
  keep = 1.0 if program.keep is None else of(program.keep)

  def pull(dscore):
    wide = [
      x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
      for x in program.operands
    ]
    _, vjp = jax.vjp(scores, q, k, wide)
    return vjp(jnp.where(visible, dscore, 0))

  return visible, score, keep, pull


def _blocks(schedule, T, S, transposed):
  """Returns who is in a block that is listed, and in one that needs no mask."""
  if transposed:
    lists, other = (schedule.index_t, schedule.full_t, schedule.count_t), schedule.index
  else:
    lists, other = (schedule.index, schedule.full, schedule.count), schedule.index_t
  index, *limits = map(jnp.asarray, lists)
  hit = jax.nn.one_hot(index, other.shape[2], dtype=jnp.bool)
  places = jnp.arange(index.shape[-1])
  kinds = []
  for limit in limits[::-1]:
    named = (hit & (places < limit[..., None])[..., None]).any(axis=3)
    named = named.swapaxes(2, 3) if transposed else named
    rows = jnp.repeat(named, schedule.block_q, axis=2)[:, :, :T]
    kinds.append(jnp.repeat(rows, schedule.block_k, axis=3)[..., :S])
  return kinds


def _each_head(x, q):
  """Returns keys or values (B, S, K, ...) of every query head, in float32."""
  return jnp.repeat(x.astype(jnp.float32), q.shape[2] // x.shape[2], axis=2)


def _of_groups(dx, x):
  """Returns the gradient (B, S, N, V) summed over the heads that share a value's."""
  B, S, K, V = x.shape
  return dx.reshape(B, S, K, -1, V).sum(axis=3).astype(x.dtype)
