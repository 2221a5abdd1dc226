"""A network that grounds answers: the pixels of an image that a sentence is about.

Khoshsirat, Kambhamettu. Sentence Attention Blocks for Answer Grounding.
arXiv:2309.11593: the maps of a backbone's stages are each changed by the sentence, and
merged from coarse to fine, see `attnjax.nn.top_down`. In place of the pre-trained
EfficientNet there are stages of plain convolutions, of half the resolution each.

  stage(x) = relu(BN(conv(... relu(BN(conv(x))))))    3 x 3, the first with stride 2

A mechanism is a system of the form "cross" with the streams "image" and "text": here
the pixels of a map and one token, the vector of the sentence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import linear, running
from attnjax.nn.norms import BatchNorm
from attnjax.nn.top_down import TopDown

FORMS = ("cross",)
TAKES = "image_sentence_maps"  # what its data sets hold
SIZES = ("channels", "sentence_width", "outputs")  # what Model is told of them
STREAMS = {"image", "text"}


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"], batch["sentence"]), {}


class Model(nnx.Module):
  """images (B, H, W, channels), sentences (B, E) -> logits (B, H, W, outputs) float32.

  Layers take turns: that of map i, the finest first, is made by builds[i % len].
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    channels: int,
    sentence_width: int,
    outputs: int,
    dims: tuple[int, ...] = (16, 32, 48, 64),  # width of each stage
    convolutions: int = 2,  # of each stage
    dropout: float = 0.5,  # in front of the head
    rngs: nnx.Rngs,
  ):
    if convolutions < 1 or not dims:
      raise ValueError(f"dims = {dims}, convolutions = {convolutions}: at least 1")
    for build in builds:
      names = set(getattr(getattr(build, "module", None), "STREAMS", STREAMS))
      if names != STREAMS:
        raise ValueError(f"streams {sorted(names)}; this host has {sorted(STREAMS)}")
    self.stages = nnx.List(
      Stage(below, dim, convolutions, rngs=rngs)
      for below, dim in zip((channels, *dims), dims)
    )
    layers = [
      builds[i % len(builds)](
        {"image": dim, "text": sentence_width}, layers=len(dims), rngs=rngs
      )
      for i, dim in enumerate(dims)
    ]
    self.decoder = TopDown(layers, dims, outputs, dropout=dropout, rngs=rngs)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    sentence: Float[Array, "B E"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the logits, and new statistics if some are given.

    Args:
      images: of any size.
      sentence: a vector an image.
      key: turns dropout on.
      stats: running statistics of the batch norms.
      train: whether batch norm measures the batch.
    """
    carry, x, features = running.Carry(self, stats, train), images, []
    for stage in self.stages:
      x = carry(stage, x)
      features.append(x)
    logits = carry(self.decoder, features, sentence, images.shape[1:3], key=key)
    return carry.result(logits)


class Stage(nnx.Module):
  """Convolutions of 3 x 3 with batch norm and relu, the first one with stride 2.

  Args:
    below: channels of the map.
    dim: channels of the result, whose sides are half as long, rounded up.
    convolutions: number of them.
    rngs: for the kernels, which are drawn as torch draws them.
  """

  init_stats = running.init_stats

  def __init__(self, below: int, dim: int, convolutions: int, *, rngs: nnx.Rngs):
    options: dict[str, Any] = {"use_bias": False, "kernel_init": linear.INIT}
    self.convs = nnx.List(
      nnx.Conv(
        dim if number else below,
        dim,
        (3, 3),
        strides=1 if number else 2,
        **options,
        rngs=rngs,
      )
      for number in range(convolutions)
    )
    self.norms = nnx.List(BatchNorm(dim) for _ in range(convolutions))

  def __call__(
    self, x: Float[Array, "B H W C"], *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the map (B, h, w, dim), and new statistics."""
    carry = running.Carry(self, stats, train)
    for conv, norm in zip(self.convs, self.norms):
      x = jax.nn.relu(carry(norm, conv(x)))
    return carry.result(x)
