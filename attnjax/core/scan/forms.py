"""Implementations in plain JAX: token by token, by an associative scan, in chunks."""

import math

import jax
import jax.numpy as jnp

from attnjax.core.platform import target_platform
from attnjax.core.scan.prefix import Form, Weights
from attnjax.core.scan.state import LOWEST

CHUNK = 64
# Steps of a loop that are compiled as one.
_UNROLL = 4


def fastest() -> str:
  """The name in FORMS of the fastest on the device it will run on.

  A step of a loop costs a CPU next to nothing, an accelerator a launch.
  """
  return "sequential" if target_platform() == "cpu" else "chunked"


def normaliser(scores, initial, first):
  """Gives lse (B, T, N) by an associative scan."""
  new = jnp.zeros_like(scores, bool)
  if first is not None:
    start = first == jnp.arange(first.shape[1])
    new = jnp.broadcast_to(start[..., None], scores.shape)

  def join(left, right):
    (old, begun), (lse, new) = left, right
    return jnp.where(new, lse, jnp.logaddexp(old, lse)), begun | new

  lse = jnp.maximum(scores, LOWEST)
  lse = lse.at[:, 0].set(jnp.logaddexp(initial, lse[:, 0]))
  return jax.lax.associative_scan(join, (lse, new), axis=1)[0]


def normaliser_in_two(scores, initial, first):
  """Gives lse (B, T, N) by two loops of sqrt(T) steps: inside of chunks, over them."""
  T = scores.shape[1]
  size = math.isqrt(T - 1) + 1
  number = -(-T // size)
  lse = _split(jnp.maximum(scores, LOWEST), number, size, LOWEST).swapaxes(0, 2)
  begin = (jnp.arange(number) * size)[:, None, None]  # chunk, B, N
  if first is None:
    since = jnp.full((size, 1, number, 1), -1)
  else:
    since = _split(first, number, size, mode="edge").swapaxes(0, 2)[..., None]
  lse, since = (x.swapaxes(1, 2) for x in (lse, since))  # (token, chunk, B, N)

  def inside(carry, part):
    lse, new = part
    lse = jnp.where(new, lse, jnp.logaddexp(carry, lse))
    return lse, lse

  new = since == begin + jnp.arange(size)[:, None, None, None]
  _, lse = jax.lax.scan(inside, jnp.full(lse.shape[1:], LOWEST, lse.dtype), (lse, new))
  seen = since < begin

  def over(carry, part):
    lse, seen = part
    return jnp.where(seen, jnp.logaddexp(carry, lse), lse), carry

  _, before = jax.lax.scan(over, initial, (lse[-1], seen[-1]))
  lse = jnp.where(seen, jnp.logaddexp(before, lse), lse)
  return (
    jnp.moveaxis(lse, 2, 0)
    .swapaxes(1, 2)
    .reshape(scores.shape[0], -1, scores.shape[2])[:, :T]
  )


def _powers(weights: Weights):
  """(what is kept of the result before, the share of a token's own value)."""
  keep = jnp.exp(weights.before - weights.lse)
  if weights.first is not None:
    new = weights.first == jnp.arange(weights.first.shape[1])
    keep = jnp.where(new[..., None], 0, keep)
  return keep, jnp.exp(weights.scores - weights.lse)


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
  """x[k] = keep[k] x[k-1] + added[k] from x = 0, by an associative scan."""

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

  parts = _parts(weights, number, size), _split(values, number, size)
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

  parts = (_split(x, number, size) for x in (values, g, delta))
  (a, b), (ds, dv) = jax.lax.scan(
    jax.checkpoint(body, prevent_cse=False),
    (a, b),
    (_parts(weights, number, size), *parts),
    reverse=True,
  )
  return _whole(ds, values), _whole(dv, values), a, b


def _matrix(part):
  """The weights of a chunk of C tokens.

  Returns:
    (B, N, C, C) of its values in its rows; (B, C, N) of the state before in its rows,
    and of its values in the state after; (B, N) of the state before in that after.
  """
  weights, begin = part
  s, lse, before = weights.scores, weights.lse, weights.before[:, :1]
  size = s.shape[1]
  seen = jnp.tril(jnp.ones((size, size), bool))[None]
  goes_on = True
  if weights.first is not None:
    place = begin + jnp.arange(size)
    seen &= weights.first[..., None] <= place
    goes_on = (weights.first < begin)[..., None]
  power = s.swapaxes(1, 2)[:, :, None] - lse.swapaxes(1, 2)[..., None]
  inside = jnp.exp(jnp.where(seen[:, None], power, -jnp.inf))
  carried = jnp.exp(jnp.where(goes_on, before - lse, -jnp.inf))
  return inside, carried, inside[:, :, -1].swapaxes(1, 2), carried[:, -1]


def _chunks(T: int) -> tuple[int, int]:
  number = -(-T // CHUNK)
  return number, -(-T // number)


def _parts(weights: Weights, number, size):
  """The weights by chunks, and where each begins; what fills them up weighs nothing."""
  first = weights.first
  parts = Weights(
    _split(weights.scores, number, size, 2 * LOWEST),
    _split(weights.lse, number, size, mode="edge"),
    _split(weights.before, number, size, mode="edge"),
    None if first is None else _split(first, number, size, mode="edge"),
  )
  return parts, size * jnp.arange(number)


def _split(x, number, size, fill=0.0, mode="constant"):
  """(B, T, ...) to (number, B, size, ...), filled up with `fill` or the last entry."""
  widths = ((0, 0), (0, number * size - x.shape[1])) + ((0, 0),) * (x.ndim - 2)
  more = {"constant_values": fill} if mode == "constant" else {}
  x = jnp.pad(x, widths, mode=mode, **more)
  return jnp.moveaxis(x.reshape(x.shape[0], number, size, *x.shape[2:]), 1, 0)


def _whole(x, like):
  """The inverse of `_split`, with T as in `like`."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : like.shape[1]]


FORMS = {
  "sequential": Form(normaliser_in_two, _sequential_forward, _sequential_backward),
  "associative": Form(normaliser, _associative_forward, _associative_backward),
  "chunked": Form(normaliser, _chunked_forward, _chunked_backward),
}
