"""The form "sequence": layer(x) -> y, both (B, T, D), every token sees all; vision.

  layer(x, *, segment_ids=None, valid=None, positions=None, index=0) -> y

with segment_ids (B, T) int: tokens of different ids, or of id -1, do not see each other
(packed documents); valid (B, T) bool, True at the real tokens; positions (B, T) or
(T,), 0, 1, 2, ... by default; index: the layer's number among the `layers` of the
model, an int or a traced scalar: blocks are stacked and scanned, so that a layer cannot
store it.

Values at padding and at negative ids, also NaN, count as zeros: see `nn.unseen`.
Padding on either side of a row changes nothing. Padding inside a row is seen by nobody;
layers that use positions keep its place: positions count it unless they are given,
windows of neighbours reach over it, and convolutions read zeros there. Layers without
positions, recurrences and sums, skip it as if it were not there. No examples or no
tokens give the empty result.

A layer refuses an argument that it cannot honour with NotImplementedError, and names
it, with the reason, in `layer.refuses`. No layer holds a random key, a cache or an
integer array.

`contract.weights(layer, x, ...)`, with the arguments of a call, gives (B, N, T, S)
float32, the weight of value s in the result of token t, where the mechanism has
weights.
"""

from typing import Protocol

from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract.layers import LAYERS, SEQUENCES


class Layer(Protocol):
  """A layer on sequences, made by `Layer(dim, *, form, rngs, **hyper-parameters)`."""

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B T D"]:
    """Returns the layer's result at every token."""
    ...


CHECKS = (*LAYERS, *SEQUENCES)
