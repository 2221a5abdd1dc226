"""The layer of the form "cross": the pixels of a map, gated by a sentence."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.streams import Stream
from attnjax.nn import linear
from attnjax.variants.cross.sentence_attention.gates import (
  GATES,
  IMPLEMENTATIONS,
  channel_gate,
  gated,
  project,
)

FORMS = ("cross",)
STREAMS = ("image", "text")


class Layer(nnx.Module):
  """Sentence attention; {"image" (B, T, C), "text" (B, S, E)} -> {"image" (B, T, C)}.

  Linear maps are drawn as torch draws them.

  Args:
    dims: the widths of "image", C, and of "text", E.
    form: "cross".
    expansion: numbers inside of the gate, in E.
    gate: one of `GATES`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  refuses = {"positions": "neither pixels nor words have an order: all share one gate"}

  def __init__(
    self,
    dims: Mapping[str, int],
    *,
    form: str = "cross",
    expansion: int = 4,
    gate: str = "softmax",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS), gate=(gate, GATES), impl=(impl, ("auto", *IMPLEMENTATIONS))
    )
    if set(dims) != set(STREAMS):
      raise ValueError(f"dims of {sorted(dims)}; the streams are {sorted(STREAMS)}")
    if expansion < 1:
      raise ValueError(f"expansion = {expansion}: it must be at least 1")
    hidden = expansion * dims["text"]
    self.inner = linear.linear(dims["text"], hidden, rngs=rngs)
    self.scale, self.bias = nnx.Param(jnp.ones(hidden)), nnx.Param(jnp.zeros(hidden))
    self.outer = linear.linear(hidden, dims["image"], rngs=rngs)
    self.gate, self.impl = gate, impl

  def project(self, text: Stream) -> Float[Array, "B E"]:
    """Returns the sentence's vector, the mean of its real tokens; 0 without any."""
    x = text.cleared()
    total = x.astype(accumulator_dtype(x)).sum(axis=1)
    count = text.real.sum(axis=1, keepdims=True)
    return (total / jnp.maximum(count, 1)).astype(x.dtype)

  def mix(self, sentence: Float[Array, "B E"]) -> Float[Array, "B C"]:
    """Returns `channel_gate` of sentences."""
    inner: Any = self.inner
    outer: Any = self.outer
    weights = (
      *(inner.kernel[...], inner.bias[...]),
      *(self.scale[...], self.bias[...]),
      *(outer.kernel[...], outer.bias[...]),
    )
    return channel_gate(sentence, *weights, gate=self.gate, impl=self.impl)

  def __call__(
    self, streams: Mapping[str, Stream], *, index: Any = 0
  ) -> dict[str, Array]:
    """Returns the gated pixels; see `attnjax.contract.forms.cross`.

    Raises:
      NotImplementedError: for positions.
    """
    del index  # equal at every depth
    gate = self._gate(streams)
    return {"image": gated(streams["image"].cleared(), gate)}

  def projected(
    self, streams: Mapping[str, Stream], kernel: Float[Array, "C D"]
  ) -> Float[Array, "B T D"]:
    """Returns the gated pixels times a kernel, with the gate folded into it.

    Raises:
      NotImplementedError: for positions.
    """
    gate = self._gate(streams)
    x = streams["image"].cleared()[:, None]
    return project(x, gate, kernel, impl=self.impl)[:, 0]

  def _gate(self, streams):
    for name in STREAMS:
      if streams[name].positions is not None:
        raise NotImplementedError(f"{name}.positions: {self.refuses['positions']}")
    return self.mix(self.project(streams["text"]))
