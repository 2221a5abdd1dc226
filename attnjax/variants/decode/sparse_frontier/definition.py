"""The definitions: whole matrices of weights, and every choice by ranks in pairs."""

import jax
import jax.numpy as jnp

from attnjax.core import definition


def reference(q, k, v, *, method="vertical_slash", lengths=None, **options):
  """Computes the definition of a pattern, one (T, T) matrix for each head."""
  B, T, N, _ = q.shape
  lengths = jnp.full((B,), T) if lengths is None else lengths
  place = jnp.arange(T)
  real = place < lengths[:, None]
  q, k, v = (jnp.where(real[..., None, None], x, 0) for x in (q, k, v))
  own, key = (definition.wide(jax.lax.stop_gradient(x)) for x in (q, k))
  key = jnp.repeat(key, N // k.shape[2], axis=2)
  choose = {"block_sparse": _block_sparse, "vertical_slash": _vertical_slash}
  seen = choose.get(method, _flexprefill)(own, key, lengths, **options)
  seen = seen & (place <= place[:, None]) & (real[:, :, None] & real[:, None])[:, None]
  return definition.attention(q, k, v, seen)[0]


def _block_sparse(q, k, lengths, *, block=16, blocks=64):
  """Returns whether the key's block is among the best of the query's."""
  T = q.shape[1]
  number = jnp.arange(T) // block
  member = (number == jnp.arange(-(-T // block))[:, None]) / block
  means = (jnp.einsum("pt,btnh->bpnh", member, x) for x in (q, k))
  score = jnp.einsum("binh,bjnh->bnij", *means)
  i, j = jnp.indices(score.shape[2:])
  score = jnp.where((j == i) | (i - j == 1) | (j == 0), jnp.inf, score)
  best = definition.best(score, jnp.broadcast_to(j <= i, score.shape), blocks)
  return best[:, :, number][..., number]


def _vertical_slash(
  q, k, lengths, *, window=256, verticals=512, slashes=512, first=4, near=64, rounded=1
):
  """Returns whether the key, or its distance, is among the best."""
  vertical, slash, real, _ = _masses(q, k, lengths, window)
  return _crossed(vertical, slash, real, verticals, slashes, first, near, rounded)


def _flexprefill(
  q, k, lengths, *, window=512, alpha=0.65, least=512, first=4, near=64, rounded=1
):
  """Returns whether the key, or its distance, is among the best that are enough."""
  vertical, slash, real, queries = _masses(q, k, lengths, window)
  numbers = []
  for mass in (vertical, slash):
    before = mass[..., None, :] > mass[..., :, None]
    place = jnp.arange(mass.shape[-1])
    before |= (mass[..., None, :] == mass[..., :, None]) & (place < place[:, None])
    ahead = (before * mass[..., None, :]).sum(axis=-1) / queries
    enough = (ahead <= alpha).sum(axis=-1, keepdims=True)
    numbers.append(jnp.maximum(enough, least))
  verticals, slashes = numbers
  return _crossed(vertical, slash, real, verticals, slashes, first, near, rounded)


def _masses(q, k, lengths, window):
  """Returns what the last queries give to keys and to distances, and their number."""
  T = q.shape[1]
  t, s = jnp.indices((T, T))
  score = jnp.einsum("btnh,bsnh->bnts", q, k) * q.shape[3] ** -0.5
  weight, _ = definition.weights(score, s <= t)
  place, end = jnp.arange(T), lengths[:, None]
  last = (place < end) & (place >= end - window)
  weight = weight * last[:, None, :, None]
  distance = (t - s)[..., None] == place
  slash = jnp.einsum("bnts,tso->bno", weight, distance.astype(weight.dtype))
  queries = last.sum(axis=1)[:, None, None]
  return weight.sum(axis=2), slash, (place < end)[:, None], jnp.maximum(queries, 1)


def _crossed(vertical, slash, real, verticals, slashes, first, near, rounded):
  """Returns the pairs of chosen keys and distances."""
  T = vertical.shape[-1]
  t, s = jnp.indices((T, T))
  real = jnp.broadcast_to(real, vertical.shape)
  vertical = jnp.where(jnp.arange(T) < first, jnp.inf, vertical)
  slash = jnp.where(jnp.arange(T) < near, jnp.inf, slash)
  keys = definition.best(vertical, real, verticals)
  distances = definition.best(slash, real, slashes)
  end = t - t % rounded + rounded - 1
  reach = (end - s)[..., None] - jnp.arange(T)  # from the key to the last query's
  hit = (reach >= 0) & (reach < rounded)
  return (distances[:, :, None, None] & hit).any(axis=-1) | keys[:, :, None]


def reference_attend_pages(q, k, v, *, lengths, budget=1024, page=16, share_pages=True):
  """Computes the definition of Quest, one page after the other."""
  (B, S, K, _), N = k.shape, q.shape[1]
  own, key = (definition.wide(jax.lax.stop_gradient(x)) for x in (q, k))
  key = jnp.repeat(key, N // K, axis=2)
  scores = []
  for at in range(0, S, page):
    low, high = (f(key[:, at : at + page], axis=1) for f in (jnp.min, jnp.max))
    scores.append(jnp.where(own > 0, own * high, own * low).sum(axis=-1))
  score = jnp.stack(scores, axis=-1)
  if share_pages:
    shared = score.reshape(B, K, N // K, -1).sum(axis=2)
    score = jnp.repeat(shared, N // K, axis=1)
  number = jnp.arange(score.shape[-1])
  current = ((lengths - 1) // page)[:, None, None]
  earlier = jnp.broadcast_to(number < current, score.shape)
  some = definition.best(score, earlier, budget // page) | (number == current)
  place = jnp.arange(S)
  seen = some[..., place // page] & (place < lengths[:, None, None])
  return definition.attention(q[:, None], k, v, seen[:, :, None])[0][:, 0]


def reference_attend_kept(
  q,
  window,
  k,
  v,
  *,
  lengths,
  capacity=1024,
  pool=21,
  local=128,
  first=4,
  adaptive=False,
  floor=0.2,
):
  """Computes the definition of SnapKV and Ada-SnapKV for the token after a prompt."""
  given = pool, local, first, adaptive
  score, real = _importance(window, k, lengths, *given)
  B, K, S = score.shape
  if not adaptive:
    kept = definition.best(score, real, capacity)
  else:
    own = max(int(floor * capacity), local + first)
    kept = definition.best(score, real, own)
    flat = score.reshape(B, -1), (real & ~kept).reshape(B, -1)
    kept |= definition.best(*flat, K * (capacity - own)).reshape(B, K, S)
  place = jnp.arange(S)
  seen = kept | (place == lengths[:, None])[:, None]
  seen = jnp.repeat(seen, q.shape[1] // K, axis=1)[:, :, None]
  return definition.attention(q[:, None], k, v, seen)[0][:, 0]


def _importance(window, k, lengths, pool, local, first, adaptive):
  """Returns the importance of each key, inf if it is kept anyway, and what is real."""
  (B, W, N, H), (S, K) = window.shape, k.shape[1:3]
  place, end = jnp.arange(S), lengths[:, None, None]
  own, key = (definition.wide(jax.lax.stop_gradient(x)) for x in (window, k))
  score = jnp.einsum("bwnh,bsnh->bnws", own, jnp.repeat(key, N // K, axis=2))
  query = (end - W + jnp.arange(W)[:, None])[:, None]
  weight, _ = definition.weights(score / H**0.5, (place <= query) & (query >= 0))
  by_key = weight.reshape(B, K, N // K, W, S)
  if adaptive:
    mass = by_key.max(axis=2).max(axis=2)
  else:
    mass = by_key.sum(axis=(2, 3)) / (N // K)
  near = abs(place[:, None] - place) <= pool // 2
  mean = jnp.einsum("bks,st->bkt", mass, near.astype(mass.dtype)) / pool
  always = (place < first) | (place >= end - local)
  real = jnp.broadcast_to(place < end, mean.shape)
  return jnp.where(always, jnp.inf, mean), real
