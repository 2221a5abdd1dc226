"""The pooled attention of blocks: which are critical, and the means of the rest."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.core.dtypes import accumulator_dtype


@dataclasses.dataclass(frozen=True)
class Rule:
  """The options of pooling and choosing blocks; see `attend` for their meanings."""

  block: int = 128
  mass: float = 0.3
  min_blocks: int = 1
  text: int = 0
  first_blocks: int = 0
  gain_test: bool = True
  zero_tail: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plan:
  """The pooled attention weights of the n blocks of visual tokens, and the choices.

  Attributes:
    probability: (B, N, n, n + 1), weights of a block of queries on blocks of keys; the
      last column is the sum over the text, 0 if there is none.
    critical: bool, (B, N, n, n): whether a block is attended token by token.
    rectified: bool, (B, N, n, n): neither critical nor below the pooling's error;
      attended as the means of the blocks.
    factor: (B, N, n), the sum of the probabilities that are not rectified.
    addition: (B, N, n, V), the rectified blocks' part of the output.
    gain: bool, (B, N, n, n): whether the gain is above the error.
  """

  probability: Any
  critical: Any
  rectified: Any
  factor: Any
  addition: Any
  gain: Any


def plan(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K V"],
  rule: Rule,
  *,
  neighbours: Bool[Array | np.ndarray, "n n"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  scale: float | None = None,
) -> Plan:
  """Returns the Plan of T tokens, the last `rule.text` of which are text.

  Every field but `critical`, `rectified` and `gain` is differentiable.
  """
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  end = q.shape[1] - rule.text
  real = jnp.ones((1, q.shape[1]), bool) if valid is None else valid
  inside = blocks(real[:, :end], rule.block)  # (B|1, n, b)
  filled = inside.any(axis=2)[:, None, None]  # (B|1, 1, 1, n)
  counted = jnp.ones_like(inside) if rule.zero_tail else inside
  group = q.shape[2] // k.shape[2]
  query, query_spread = _pool(q[:, :end], inside, counted, rule.block, 1)
  key, key_spread = _pool(k[:, :end], inside, counted, rule.block, group)
  value, _ = _pool(v[:, :end], inside, counted, rule.block, group)

  score = jnp.einsum("bnih,bnjh->bnij", query, key)
  size = jnp.maximum(counted.sum(axis=2), 1)[:, None, None].astype(score.dtype)
  visual = jnp.where(filled, scale * score + jnp.log(size), -jnp.inf)
  texts = jnp.repeat(k[:, end:].astype(accumulator_dtype(k)), group, axis=2)
  written = scale * jnp.einsum("bnih,bsnh->bnis", query, texts)
  written = jnp.where(real[:, None, None, end:], written, -jnp.inf)
  probability = _softmax(visual, written)

  error = jnp.einsum("bnih,bnjh->bnij", query_spread, key)
  error = abs(error) + abs(jnp.einsum("bnih,bnjh->bnij", query, key_spread))
  gain = abs(score) > error
  critical = _critical(jax.lax.stop_gradient(probability), rule, neighbours) & filled
  rectified = filled & ~critical
  rectified = rectified & gain if rule.gain_test else rectified
  rest = jnp.where(rectified, probability[..., :-1], 0)
  return Plan(
    probability=probability,
    critical=critical,
    rectified=rectified,
    factor=probability.sum(axis=-1) - rest.sum(axis=-1),
    addition=jnp.einsum("bnij,bnjv->bniv", rest, value),
    gain=gain,
  )


def blocks(x: Array, size: int) -> Array:
  """Reshapes (B, T, ...) to (B, n, size, ...), the last block padded with zeros."""
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2))
  return x.reshape(x.shape[0], -1, size, *x.shape[2:])


def _pool(x, inside, counted, size, group):
  """Returns the blocks' means and mean absolute distances from them, (B, N, n, H)."""
  x = blocks(x.astype(accumulator_dtype(x)), size)
  x = jnp.where(inside[..., None, None], x, 0)
  count = jnp.maximum(counted.sum(axis=2), 1)[..., None, None].astype(x.dtype)
  mean = x.sum(axis=2) / count
  spread = jnp.where(counted[..., None, None], abs(x - mean[:, :, None]), 0)
  pair = mean, jax.lax.stop_gradient(spread.sum(axis=2) / count)
  return tuple(jnp.repeat(y, group, axis=2).swapaxes(1, 2) for y in pair)


def _softmax(visual, written):
  """Computes the softmax over visual and text scores, the text's weights summed.

  Rows without a key give 0.
  """
  joined = jnp.concatenate([visual, written], axis=-1)
  some = (joined > -jnp.inf).any(axis=-1, keepdims=True)
  weight = jnp.where(some, jax.nn.softmax(jnp.where(some, joined, 0), axis=-1), 0)
  n = visual.shape[-1]
  text = weight[..., n:].sum(axis=-1, keepdims=True)
  return jnp.concatenate([weight[..., :n], text], axis=-1)


def _critical(probability, rule, neighbours):
  """Returns which blocks are critical, (B, N, n, n).

  They are the most probable until their sum passes the mass, at least `min_blocks`; the
  neighbours; and the first blocks among themselves.
  """
  n = probability.shape[-1] - 1
  order = jnp.argsort(-probability, axis=-1, stable=True)
  total = jnp.cumsum(jnp.take_along_axis(probability, order, axis=-1), axis=-1)
  number = jnp.maximum((total <= rule.mass).sum(axis=-1) + 1, rule.min_blocks)
  chosen = jnp.argsort(order, axis=-1) < number[..., None]
  first = np.arange(n) < rule.first_blocks
  always = first[:, None] & first[None]
  if neighbours is not None:
    always = always | neighbours
  return chosen[..., :n] | always[None, None]


def touching(order: np.ndarray, shape: tuple[int, ...], block: int) -> np.ndarray:
  """Returns which blocks of an order hold equal or adjacent grid points, bool (n, n).

  Args:
    order: the row-major numbers of the grid's points, such as
      `attnjax.core.grids.partition.hilbert_order(shape)`.
    shape: of the grid.
    block: tokens of a block.
  """
  number = np.empty(len(order), np.int32)
  number[order] = np.arange(len(order)) // block
  grid = number.reshape(shape)
  table = np.eye(number.max() + 1, dtype=bool)
  for axis in range(grid.ndim):
    low = np.take(grid, np.arange(shape[axis] - 1), axis=axis).ravel()
    high = np.take(grid, np.arange(1, shape[axis]), axis=axis).ravel()
    table[low, high] = table[high, low] = True
  return table
