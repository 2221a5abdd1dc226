"""Two towers and a scorer: texts find videos, and videos texts.

The towers are linear maps of vectors that encoders have made, of a text and of each
frame, as in the training of X-Pool (arXiv:2203.15086) with CLIP left as it is. The
scorer is a system of the form "pairs"; its scores are multiplied by a learned
temperature. Pair n of a batch is right, all others are wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from attnjax.nn import linear
from attnjax.nn.temperature import Temperature

FORMS = ("pairs",)
TAKES = "text_frames"  # what its data sets hold
SIZES = ("text_width", "frame_width")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  padding = {"valid": batch["valid"]} if "valid" in batch else {}
  return (batch["text"], batch["frames"]), padding


class Model(nnx.Module):
  """texts (Q, W), frames (I, F, V) -> logits (Q, I) float32."""

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    text_width: int,
    frame_width: int,
    dim: int = 64,
    tile: int = 0,  # texts, and videos, that are compared at a time; 0: all
    rngs: nnx.Rngs,
  ):
    if len(builds) != 1:
      raise ValueError(f"{len(builds)} mechanisms: retrieval has one scorer")
    if tile < 0:
      raise ValueError(f"tile = {tile}; it must be at least 0")
    self.text = linear.linear(text_width, dim, rngs=rngs)
    self.frames = linear.linear(frame_width, dim, rngs=rngs)
    self.scorer = builds[0]({"queries": dim, "items": dim}, rngs=rngs)
    self.temperature = Temperature()
    self.tile = tile

  def __call__(
    self,
    text: Float[Array, "Q W"],
    frames: Float[Array, "I F V"],
    *,
    valid: Bool[Array, "I F"] | None = None,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "Q I"]:
    """Returns the logits of all pairs.

    Args:
      text: a vector a text.
      frames: a vector a frame.
      valid: True at the real frames; all are real if None.
      key: turns on what the scorer drops.
    """
    given = self._towers(text, frames, valid)
    scores = self.scorer(*given, item_valid=valid, tile=self.tile, key=key)
    return self.temperature(scores)

  def weigh(
    self,
    text: Float[Array, "Q W"],
    frames: Float[Array, "I F V"],
    *,
    valid: Bool[Array, "I F"] | None = None,
  ) -> Float[Array, "I N Q F"]:
    """Returns the share of each frame for each text.

    Raises:
      NotImplementedError: if the scorer does not weigh frames.
    """
    if not hasattr(self.scorer, "weigh"):
      raise NotImplementedError(f"{type(self.scorer).__name__} does not weigh frames")
    given = self._towers(text, frames, valid)
    return self.scorer.weigh(*given, item_valid=valid)

  def _towers(self, text, frames, valid):
    if valid is not None:
      frames = jnp.where(valid[..., None], frames, 0)
    return self.text(text), self.frames(frames)
