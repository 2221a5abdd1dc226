"""The definitions: streams one by one, truncated powers, losses pair by pair."""

import math

import jax
import jax.numpy as jnp

from attnjax.core import definition


def refuse(key) -> None:
  """Raises NotImplementedError for a random key, which definitions do not read."""
  if key is not None:
    raise NotImplementedError("impl 'reference' has no dropout, key=; it is in 'xla'")


def reference(q, k, v, *, valid=None):
  """Computes attention to each block by itself."""
  found = []
  for m in range(k.shape[1]):
    own = q if q.ndim == 4 else q[:, m]
    seen = True if valid is None else valid[:, m][:, None, None]
    found.append(definition.attention(own, k[:, m], v[:, m], seen)[0])
  return jnp.stack(found, axis=1)


def reference_tri_coattention(
  x1, x2, x3, weights, *, kind="joint", heads=1, present=None, drop_rate=0.1
):
  """Computes the three outputs one after the other, and their concatenation."""
  del drop_rate  # nothing is dropped without a key
  streams = [definition.wide(x) for x in (x1, x2, x3)]
  real = jnp.ones((x1.shape[0], 3), bool) if present is None else present
  streams = [
    jnp.where(real[:, m, None, None], x, weights.absent[m])
    for m, x in enumerate(streams)
  ]
  query = jnp.concatenate(streams, axis=-1)
  if kind != "ring":
    query = query @ weights.joint + weights.joint_bias
  outs = []
  for m, x in enumerate(streams):
    asked = (m + 1) % 3 if kind == "ring" else m
    if kind == "joint":
      q = query
    else:
      q = (x if kind == "ring" else query) @ weights.query[m] + weights.query_bias[m]
    k = streams[asked] @ weights.key[asked] + weights.key_bias[asked]
    v = streams[asked] @ weights.value[asked] + weights.value_bias[asked]
    q, k, v = (y.reshape(*y.shape[:2], heads, -1) for y in (q, k, v))
    seen = real[:, asked][:, None, None, None]
    context = definition.attention(q, k, v, seen)[0].reshape(x.shape)
    if kind != "joint_mha":
      context = jnp.concatenate([x, context], axis=-1)
    outs.append((context @ weights.out[m] + weights.out_bias[m]).astype(x1.dtype))
  rows = list(outs)
  if kind == "joint":
    pairs = [y[:, t] for t in range(x1.shape[1]) for y in outs[:2]]
    rows = [jnp.stack(pairs, axis=1), outs[2]]
  return *outs, jnp.concatenate(rows, axis=1)


def reference_kan_linear(x, base, spline, scaler, *, order=3, low=-1.0, high=1.0):
  """Computes silu(x) base + splines (spline scaler), from truncated powers."""
  intervals = spline.shape[1] - order
  wide = definition.wide(x)
  place = (wide - low) * intervals / (high - low) + order
  place = place[..., None] - jnp.arange(spline.shape[1])  # of spline g: from 0 to p + 1
  inside = (place >= 0) & (place < order + 1)
  power = sum(
    (-1) ** j * math.comb(order + 1, j) * jnp.maximum(place - j, 0) ** order
    for j in range(order + 1)
  )
  basis = jnp.where(inside, power / math.factorial(order), 0)
  curve = jnp.einsum("...ig,igo,io->...o", basis, spline, scaler)
  return (wide * jax.nn.sigmoid(wide) @ base + curve).astype(x.dtype)


def reference_focal_loss(scores, labels, *, alpha=0.25, gamma=2.0):
  """Computes the mean of alpha (1 - p)^gamma (-log p) of the right class."""
  wide = definition.wide(scores)
  share = jnp.exp(wide) / jnp.exp(wide).sum(axis=-1, keepdims=True)
  right = jnp.take_along_axis(share, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
  loss = -alpha * (1 - right) ** gamma * jnp.log(right)
  return jnp.where(labels >= 0, loss, 0).sum() / jnp.maximum((labels >= 0).sum(), 1)


def reference_sdm_loss(a, b, labels, *, length=2.0):
  """Computes sum p log(p / t) of similarities p and equal labels t, both ways."""
  a, b = (definition.wide(x) for x in (a, b))
  a, b = (x / jnp.sqrt((x**2).sum(axis=1))[:, None] for x in (a, b))
  real = labels >= 0
  power = jnp.where(real, jnp.exp(length * (a[:, None] * b).sum(axis=-1)), 0)
  target = (labels[:, None] == labels) & real
  target = target / jnp.maximum(target.sum(axis=1, keepdims=True), 1) + 1e-8
  total = 0.0
  for shares in (power, jnp.where(real, jnp.exp(length * (b @ a.T)), 0)):
    shares = shares / jnp.maximum(shares.sum(axis=1, keepdims=True), 1e-30)
    rates = shares * jnp.log(jnp.where(real, shares, 1) / target)
    total += jnp.where(real, rates.sum(axis=1), 0).sum()
  return total / jnp.maximum(real.sum(), 1)


def reference_itcfn_loss(
  a, b, c, scores, labels, *, present=None, pair_weight=0.2, matching_weight=0.01
):
  """Computes the focal loss and the weighed three divergences."""
  real = jnp.ones((labels.shape[0], 3), bool) if present is None else present
  streams = (a, b, c)
  matched = []
  for one, other in ((0, 1), (1, 2), (0, 2)):
    both = jnp.where(real[:, one] & real[:, other], labels, -1)
    matched.append(reference_sdm_loss(streams[one], streams[other], both))
  first, second, third = matched
  mixed = (1 - pair_weight) * first + pair_weight * (second + third) / 2
  return reference_focal_loss(scores, labels) + matching_weight * mixed
