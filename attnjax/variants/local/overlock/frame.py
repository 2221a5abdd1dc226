"""The frame of a ContMix block: its convolutions, its residuals and its MLP."""

from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract.context import Tokens
from attnjax.nn import drop_path, running, transformer
from attnjax.variants.local.overlock.contmix import ContMix
from attnjax.variants.local.overlock.parts import EPSILON, Feed, Scale, depthwise


class Residual(nnx.Module):
  """The sum of x and y, one of which may be scaled; y is dropped for some examples.

  Args:
    dim: D.
    value: with which the scale starts; there is none if 0.
    scale_input: whether x is scaled, not y.
    drop: the share of examples that leave y out in training.
  """

  def __init__(self, dim: int, value: float, *, scale_input: bool, drop: float):
    self.scale = Scale(dim, value) if value else None
    self.scale_input, self.drop = scale_input, drop

  def __call__(self, x: Array, y: Array, key: Key[Array, ""] | None) -> Array:
    """Returns the sum; a `key` turns dropping on."""
    if self.scale is not None and self.scale_input:
      x = self.scale(x)
    elif self.scale is not None:
      y = self.scale(y)
    return x + drop_path.drop(y, self.drop, key)


class Frame(nnx.Module):
  """The rest of a ContMix block: two convolutions, two residuals and the MLP."""

  def __init__(self, dim: int, hidden: int, layer_scale: float, sums, *, rngs):
    self.convolve = nnx.List(depthwise(dim, rngs=rngs) for _ in range(2))
    self.sums = nnx.List(Residual(dim, layer_scale, **sums) for _ in range(2))
    self.norm = transformer.layer_norm(dim, EPSILON, rngs=rngs)
    self.feed = Feed(dim, hidden, rngs=rngs)

  def begun(self, x):
    """Returns x + convolve(x), of which the mixer sees the norm."""
    return x + self.convolve[0](x)

  def __call__(self, x, y, key):
    """Returns the block's output of its input and the mixer's output."""
    first, second = transformer.keys(key, 2)
    x = self.sums[0](x, y, first)
    x = x + self.convolve[1](x)
    return self.sums[1](x, self.feed(self.norm(x)), second)


def weights(
  carry: running.Carry, mixer: ContMix, x: Array, *more: Array
) -> Float[Array, "B N T T"]:
  """Returns the weights of a block's mixer, given its maps as in `ContMix`."""
  own = {"stats": carry.of(mixer), "train": False}
  return mixer.weights(running.apply(mixer.project, Tokens(x), *more, **own)[0])
