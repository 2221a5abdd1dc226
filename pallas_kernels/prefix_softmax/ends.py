"""What parts of the tokens end with if they start from nothing: sums by known weights.

The greatest scores and totals of all rows are known before, so that a part has no need
to go from chunk to chunk for its end: it is one weighted sum of its values, and of the
cotangents in reverse, which XLA makes of all parts in one kernel that reads them once.
"""

import jax.numpy as jnp

from attnjax.core.recurrence.prefix import Weights


def forward(weights: Weights, values, size: int, parts: int):
  """What parts but the last, of `size` tokens each, make of the state.

  Returns:
    (parts - 1, B, N), what is kept of the state before each, and (parts - 1, B, N, E),
    its state after it if there was none before.
  """

  def cut(x):
    return x[:, : (parts - 1) * size].reshape(len(x), parts - 1, size, *x.shape[2:])

  top, share = (cut(x)[:, :, -1:] for x in (weights.top, weights.share))
  before = tuple(cut(x)[:, :, :1] for x in weights.before)
  exponent, kept = cut(weights.scores) - top, _kept(before, top, share)
  if weights.first is not None:
    place = cut(jnp.arange((parts - 1) * size)[None, :, None])
    since = cut(weights.first[..., None])[:, :, -1:]
    exponent = jnp.where(since <= place, exponent, -jnp.inf)
    kept = jnp.where(since < place[:, :, :1], kept, 0)
  ends = _sums((jnp.exp(exponent) * share)[..., None] * cut(values))
  return jnp.moveaxis(kept[:, :, 0], 1, 0), ends


def backward(weights: Weights, g, delta, size: int, parts: int, length: int):
  """The same in reverse: the first part are the last `size` of `length` tokens.

  Tokens are filled up to `length`, but not by as many as a part has.

  Returns:
    (parts - 1, B, N) as of `forward`; (parts - 1, B, N, E), the gradient by the state
    before each if none comes from behind it; the same, without E, of the deltas.
  """
  begin = length - (parts - 1) * size

  def cut(x, mode="edge"):
    widths = ((0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2))
    x = jnp.pad(x, widths, mode=mode)[:, begin:]
    return x.reshape(len(x), parts - 1, size, *x.shape[2:])

  before = tuple(cut(x)[:, :, :1] for x in weights.before)
  into = _kept(before, cut(weights.top), cut(weights.share))
  if weights.first is not None:
    place = begin + size * jnp.arange(parts - 1)[:, None, None]
    into = jnp.where(cut(weights.first[..., None]) < place, into, 0)
  changes = _sums(into[..., None] * cut(g, "constant"))
  taken = _sums(into * cut(delta, "constant"))
  kept = jnp.moveaxis(into[:, :, -1], 1, 0)
  return kept[::-1], changes[::-1], taken[::-1]


def _kept(before, top, share):
  """What rows keep of the state before their part."""
  # If there is none, before is no lower bound of top.
  return jnp.exp(jnp.minimum(before[0] - top, 0)) * before[1] * share


def _sums(x):
  """(parts, B, ...) of (B, parts, size, ...)."""
  return jnp.moveaxis(x.sum(axis=2), 1, 0)
