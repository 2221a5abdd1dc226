"""The way from coarse to fine: feature maps that text has changed become one map.

Khoshsirat, Kambhamettu. Sentence Attention Blocks for Answer Grounding.
arXiv:2309.11593: a feature pyramid that ends in the classes of all pixels.

  x_l <- layer_l(x_l, text)
  x_(l-1) <- relu( x_(l-1) + bilinear( BN( K x_l ) ) )   from coarse to fine; K is 1 x 1
  logits = bilinear( head( dropout( x_0 ) ) )

A layer has the form "cross", with the streams "image" and "text". One that also has
`projected(streams, kernel)` multiplies the coarsest map by K itself. One whose call has
`key` gets a part of the network's.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core import resample
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.streams import Stream
from attnjax.nn import linear, running
from attnjax.nn.dropout import drop
from attnjax.nn.norms import BatchNorm


class Merge(nnx.Module):
  """relu(fine + bilinear(norm(coarse kernel))), of the width and size of the fine map.

  Args:
    below: channels of the coarser map.
    dim: channels of the finer map.
    rngs: for the kernel, which is drawn as torch draws convolutions.
  """

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, *, rngs: nnx.Rngs):
    self.lower = linear.linear(below, dim, bias=False, rngs=rngs)
    self.norm = BatchNorm(dim)

  def __call__(
    self,
    fine: Float[Array, "B H W D"],
    low: Float[Array, "B h w D"],
    *,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the finer map, and new statistics.

    Args:
      fine: the finer map.
      low: `lower` of the coarser one.
      stats: running statistics of the norm.
      train: whether the norm measures the batch.
    """
    carry = running.Carry(self, stats, train)
    up = resample.bilinear(carry(self.norm, low), fine.shape[1:3])
    return carry.result(jax.nn.relu(up + fine))


class TopDown(nnx.Module):
  """Maps (B, H_l, W_l, C_l), the finest first, and text -> logits (B, H, W, outputs).

  Args:
    layers: one a map.
    channels: C_l of each map.
    outputs: classes of a pixel.
    dropout: share of the units in front of the head that training drops.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    layers: Sequence[Any],
    channels: Sequence[int],
    outputs: int,
    *,
    dropout: float = 0.5,
    rngs: nnx.Rngs,
  ):
    if len(layers) != len(channels) or not layers:
      raise ValueError(f"{len(layers)} layers and {len(channels)} maps: one a map")
    if not 0 <= dropout < 1:
      raise ValueError(f"dropout = {dropout}; it must be from 0 to below 1")
    self.layers = nnx.List(layers)
    pairs = zip(channels[1:], channels)
    self.merges = nnx.List([Merge(below, dim, rngs=rngs) for below, dim in pairs])
    self.head = linear.linear(channels[0], outputs, rngs=rngs)
    self.dropout = dropout

  def __call__(
    self,
    features: Sequence[Float[Array, "B _ _ _"]],
    text: Stream | Float[Array, "B E"],
    size: tuple[int, int],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the logits, float32 or wider, and new statistics if some are given.

    Args:
      features: one map a layer, the finest first.
      text: tokens, or a vector a sentence.
      size: (H, W) of the logits.
      key: turns dropout on.
      stats: running statistics of the batch norms; () for a single map.
      train: whether batch norm measures the batch.

    Raises:
      ValueError: for another number of maps, and without statistics.
    """
    if len(features) != len(self.layers):
      raise ValueError(f"{len(features)} maps of {len(self.layers)} layers")
    carry = running.Carry(self, stats, train)
    text = text if isinstance(text, Stream) else Stream(text[:, None])
    *finer, x = features
    if not finer:
      x = self._changed(carry, 0, x, text, key)
    for number in range(len(finer) - 1, -1, -1):
      merge = self.merges[number]
      if number == len(finer) - 1:
        low = self._lowered(carry, merge, x, text, key)
      else:
        low = merge.lower(x)
      x = carry(merge, self._changed(carry, number, finer[number], text, key), low)
    x = self.head(drop(x, self.dropout, key))
    return carry.result(resample.bilinear(x.astype(accumulator_dtype(x)), size))

  def _changed(self, carry, number, x, text, key):
    """Returns a map as its layer changes it."""
    layer, own = self.layers[number], {}
    if key is not None and "key" in inspect.signature(type(layer).__call__).parameters:
      own = {"key": jax.random.fold_in(key, number)}
    return carry(layer, _streams(x, text), index=number, **own)["image"].reshape(
      x.shape
    )

  def _lowered(self, carry, merge, x, text, key):
    """Returns `lower` of the coarsest map as its layer changes it."""
    layer = self.layers[-1]
    if not hasattr(layer, "projected"):
      return merge.lower(self._changed(carry, len(self.merges), x, text, key))
    y = layer.projected(_streams(x, text), merge.lower.kernel[...])
    return y.reshape(*x.shape[:3], y.shape[-1])


def _streams(x: Float[Array, "B h w C"], text: Stream) -> Mapping[str, Stream]:
  """Returns the streams of a layer: the pixels row by row, and the text."""
  return {"image": Stream(x.reshape(x.shape[0], -1, x.shape[-1])), "text": text}
