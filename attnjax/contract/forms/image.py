"""The form "image": layer(x) -> y, both (B, H, W, D); hosts: pyramid, vision.

  layer(x, *, index=0) -> y

index: the layer's number among the `layers` of the model, an int or a traced scalar:
blocks are stacked and scanned, so that a layer cannot store it. No examples or no
points give the empty result. No layer holds a random key, a cache or an integer array.

`contract.weights(layer, x, index=0)` gives (B, N, T, S) float32, the weight of value s
in the result of point t, row by row of the image, where the mechanism has weights.
"""

from typing import Protocol

from jaxtyping import Array, Float, Int

from attnjax.contract.layers import LAYERS


class Layer(Protocol):
  """A layer on images, made by `Layer(dim, *, form, rngs, **hyper-parameters)`."""

  def __call__(
    self, x: Float[Array, "B H W D"], *, index: Int[Array, ""] | int = 0
  ) -> Float[Array, "B H W D"]:
    """Returns the layer's result at every point."""
    ...


CHECKS = LAYERS
