"""The head of ITCFN: a 1-D DenseNet over the tokens of all streams.

Gao Huang et al. Densely Connected Convolutional Networks. arXiv:1608.06993.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import linear, running
from attnjax.nn.dropout import drop
from attnjax.nn.norms import BatchNorm

LAYERS = (6, 12, 24, 16)  # of the authors' blocks
MIDDLE = 128  # channels between the two convolutions of a layer
STEM = 64  # channels of the first convolution


def _convolution(below, above, kernel, stride, rngs):
  """Returns a convolution over tokens, drawn within 1 / sqrt(inputs) as in torch."""
  most = (below * kernel) ** -0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -most, most)

  return nnx.Conv(
    below,
    above,
    (kernel,),
    strides=stride,
    padding=kernel // 2,
    kernel_init=linear.INIT,
    bias_init=uniform,
    rngs=rngs,
  )


class Dense(nnx.Module):
  """[x, conv(relu(norm(conv(relu(norm x)))))]: (B, L, C) to (B, L, C + growth)."""

  init_stats = running.init_stats

  def __init__(self, below: int, growth: int, rngs: nnx.Rngs):
    self.norm, self.inner_norm = BatchNorm(below), BatchNorm(MIDDLE)
    self.narrow = _convolution(below, MIDDLE, 1, 1, rngs)
    self.wide = _convolution(MIDDLE, growth, 3, 1, rngs)

  def __call__(self, x: Float[Array, "B L C"], *, stats=None, train=False) -> Any:
    """Returns the wider map, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    y = self.narrow(jax.nn.relu(carry(self.norm, x)))
    y = self.wide(jax.nn.relu(carry(self.inner_norm, y)))
    return carry.result(jnp.concatenate([x, y], axis=-1))


class Transition(nnx.Module):
  """Means of pairs of conv(relu(norm x)): (B, L, C) to (B, L // 2, C // 2)."""

  init_stats = running.init_stats

  def __init__(self, below: int, rngs: nnx.Rngs):
    self.norm = BatchNorm(below)
    self.convolution = _convolution(below, below // 2, 3, 1, rngs)

  def __call__(self, x: Float[Array, "B L C"], *, stats=None, train=False) -> Any:
    """Returns the shorter map, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    y = self.convolution(jax.nn.relu(carry(self.norm, x)))
    return carry.result(nnx.avg_pool(y, (2,), (2,)))


class DenseNet(nnx.Module):
  """Scores classes by tokens (B, L, below), of which there are 32 at least.

  Args:
    below: D of the tokens.
    classes: number of scores.
    layers: of each block.
    growth: channels that a layer adds.
    drop_rate: share of units that are dropped before the last map, with a key.
    sigmoid_scores: whether scores pass a sigmoid, as the authors' do.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    below: int = 1,
    classes: int = 2,
    *,
    layers: Sequence[int] = LAYERS,
    growth: int = 16,
    drop_rate: float = 0.5,
    sigmoid_scores: bool = False,
    rngs: nnx.Rngs,
  ):
    self.stem, self.norm = _convolution(below, STEM, 7, 2, rngs), BatchNorm(STEM)
    found, channels = [], STEM
    for place, count in enumerate(layers):
      if place:
        found.append(Transition(channels, rngs))
        channels //= 2
      found += [Dense(channels + i * growth, growth, rngs) for i in range(count)]
      channels += count * growth
    self.blocks = nnx.List(found)
    self.hidden = linear.linear(channels, channels // 2, rngs=rngs)
    self.head = linear.linear(channels // 2, classes, rngs=rngs)
    self.drop_rate, self.sigmoid_scores = drop_rate, sigmoid_scores

  def __call__(
    self,
    x: Float[Array, "B L D"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns scores (B, classes), and new statistics if some are given.

    Args:
      x: tokens, L of them.
      key: turns dropout on.
      stats: running statistics of the batch norms.
      train: whether the norms measure the batch.
    """
    carry = running.Carry(self, stats, train)
    x = jax.nn.relu(carry(self.norm, self.stem(x)))
    x = nnx.max_pool(x, (3,), (2,), padding=((1, 1),))
    for block in self.blocks:
      x = carry(block, x)
    y = jax.nn.relu(self.hidden(x.mean(axis=1)))
    y = self.head(drop(y, self.drop_rate, key)).astype(jnp.float32)
    return carry.result(jax.nn.sigmoid(y) if self.sigmoid_scores else y)
