"""Prefix softmax in plain JAX: token by token, by an associative scan, in chunks."""

import jax
import jax.numpy as jnp

from attnjax.core.platform import target_platform
from attnjax.core.recurrence.chunking import split
from attnjax.core.recurrence.prefix.normalisers import normaliser, normaliser_in_two
from attnjax.core.recurrence.prefix.prefix import Form, Weights

CHUNK = 64
# Steps of a loop that are compiled as one.
_UNROLL = 4


def fastest() -> str:
  """Returns the name in FORMS of the fastest form on the target device.

  A step of a loop costs a CPU next to nothing, an accelerator a launch.
  """
  return "sequential" if target_platform() == "cpu" else "chunked"


def _power(exponent):
  """Returns exp(min(exponent, 0)); its derivative at 0 is that from below."""
  return jnp.exp(jnp.where(exponent > 0, 0, exponent))


def _over(x, total):
  """Returns x / total, or 0 where total is 0."""
  return jnp.where(total > 0, x, 0) / jnp.where(total > 0, total, 1)


def _powers(weights: Weights):
  """Returns the weights of the result before a token and of the token's own value."""
  top, total, (before, sums) = weights.top, weights.total, weights.before
  keep = _over(_power(before - top) * sums, total)
  if weights.first is not None:
    new = weights.first == jnp.arange(weights.first.shape[1])[None]
    keep = jnp.where(new[..., None], 0, keep)
  return keep, _over(_power(weights.scores - top), total)


def _sequential_forward(weights: Weights, values, start):
  def body(out, token):
    keep, own, value = token
    out = keep[..., None] * out + own[..., None] * value.astype(out.dtype)
    return out, out.astype(values.dtype)

  tokens = (x.swapaxes(0, 1) for x in (*_powers(weights), values))
  last, out = jax.lax.scan(body, start, tuple(tokens), unroll=_UNROLL)
  return out.swapaxes(0, 1), last


def _sequential_backward(weights: Weights, values, g, delta, a, b):
  def body(carry, token):
    (a, b), (keep, own, value, g, delta) = carry, token
    a, b = a + g, b + delta
    ds = own * ((a * value).sum(axis=-1) - b)
    dv = (own[..., None] * a).astype(value.dtype)
    return (keep[..., None] * a, keep * b), (ds, dv)

  tokens = (x.swapaxes(0, 1) for x in (*_powers(weights), values, g, delta))
  (a, b), (ds, dv) = jax.lax.scan(
    body, (a, b), tuple(tokens), reverse=True, unroll=_UNROLL
  )
  return ds.swapaxes(0, 1), dv.swapaxes(0, 1), a, b


def _by_pairs(keep, added, reverse=False):
  """Computes x[k] = keep[k] x[k-1] + added[k] from x = 0 by an associative scan."""

  def join(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]

  elements = keep[..., None], added
  return jax.lax.associative_scan(join, elements, reverse=reverse, axis=1)[1]


def _associative_forward(weights: Weights, values, start):
  keep, own = _powers(weights)
  added = own[..., None] * values.astype(own.dtype)
  added = added.at[:, 0].add(keep[:, 0, :, None] * start)
  out = _by_pairs(keep, added)
  return out.astype(values.dtype), out[:, -1]


def _associative_backward(weights: Weights, values, g, delta, a, b):
  keep, own = _powers(weights)
  added = jnp.concatenate([g.astype(own.dtype), delta[..., None]], axis=-1)
  added = added.at[:, -1].add(jnp.concatenate([a, b[..., None]], axis=-1))
  sums = _by_pairs(jnp.roll(keep, -1, axis=1), added, reverse=True)
  a, b = sums[..., :-1], sums[..., -1]
  ds = own * ((a * values).sum(axis=-1) - b)
  dv = (own[..., None] * a).astype(values.dtype)
  return ds, dv, keep[:, 0, :, None] * a[:, 0], keep[:, 0] * b[:, 0]


def _chunked_forward(weights: Weights, values, start):
  number, size = _chunks(weights.scores.shape[1])

  def body(out, part):
    inside, before, _, _, value = *_matrix(part[0]), part[1]
    rows = jnp.einsum("bnrc,bcne->brne", inside, value.astype(out.dtype))
    rows += before[..., None] * out[:, None]
    return rows[:, -1], rows.astype(value.dtype)

  parts = _parts(weights, number, size), split(values, number, size)
  last, out = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), start, parts)
  return _whole(out, values), last


def _chunked_backward(weights: Weights, values, g, delta, a, b):
  number, size = _chunks(weights.scores.shape[1])

  def body(carry, part):
    (a, b), (weights, value, g, delta) = carry, part
    inside, before, after, through = _matrix(weights)
    wide = jnp.einsum("bnrc,brne->bcne", inside, g.astype(a.dtype))
    wide += after[..., None] * a[:, None]
    ds = (wide * value).sum(axis=-1) - jnp.einsum("bnrc,brn->bcn", inside, delta)
    ds -= after * b[:, None]
    a = through[..., None] * a + (before[..., None] * g).sum(axis=1)
    b = through * b + (before * delta).sum(axis=1)
    return (a, b), (ds, wide.astype(value.dtype))

  parts = (split(x, number, size) for x in (values, g, delta))
  (a, b), (ds, dv) = jax.lax.scan(
    jax.checkpoint(body, prevent_cse=False),
    (a, b),
    (_parts(weights, number, size), *parts),
    reverse=True,
  )
  return _whole(ds, values), _whole(dv, values), a, b


def _matrix(part):
  """Returns the weights of a chunk of C tokens.

  Returns:
    (B, N, C, C), of its values in its results; (B, C, N), of the state before in its
    results; (B, C, N), of its values in the state after; (B, N), of the state before
    in the state after.
  """
  weights, begin = part
  s, (before, sums) = weights.scores, (x[:, :1] for x in weights.before)
  top, total, size = weights.top, weights.total, s.shape[1]
  seen = jnp.tril(jnp.ones((size, size), bool))[None]
  goes_on = True
  if weights.first is not None:
    place = begin + jnp.arange(size)
    seen &= weights.first[..., None] <= place
    goes_on = (weights.first < begin)[..., None]
  power = s.swapaxes(1, 2)[:, :, None] - top.swapaxes(1, 2)[..., None]
  inside = _power(jnp.where(seen[:, None], power, -jnp.inf))
  inside = _over(inside, total.swapaxes(1, 2)[..., None])
  carried = _over(_power(before - top) * sums, total)
  carried = jnp.where(goes_on, carried, 0)
  return inside, carried, inside[:, :, -1].swapaxes(1, 2), carried[:, -1]


def _chunks(T: int) -> tuple[int, int]:
  number = -(-T // CHUNK)
  return number, -(-T // number)


def _parts(weights: Weights, number, size):
  """Splits the weights into chunks, with their first tokens; padding weighs nothing."""
  first = weights.first
  parts = Weights(
    split(weights.scores, number, size, -jnp.inf),
    split(weights.top, number, size, mode="edge"),
    split(weights.total, number, size, mode="edge"),
    tuple(split(x, number, size, mode="edge") for x in weights.before),
    None if first is None else split(first, number, size, mode="edge"),
  )
  return parts, size * jnp.arange(number)


def _whole(x, like):
  """Inverts `split`, with T as in `like`."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : like.shape[1]]


FORMS = {
  "sequential": Form(normaliser_in_two, _sequential_forward, _sequential_backward),
  "associative": Form(normaliser, _associative_forward, _associative_backward),
  "chunked": Form(normaliser, _chunked_forward, _chunked_backward),
}
