"""A hierarchical vision model around any mechanism on feature maps.

Stages of blocks at falling resolution and growing width, as in Ze Liu et al. Swin
Transformer. arXiv:2103.14030, section 3.1: each stage begins by merging patches of
2 x 2. Fixed 2-D sinusoids are added once, so images of any size fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.core.positions import sinusoids
from attnjax.nn import running
from attnjax.nn.patches import Patches
from attnjax.nn.stack import Stack, hidden_size

FORMS = ("image",)
TAKES = "images"  # what its data sets hold
SIZES = ("channels", "classes")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"],), {}


class Model(nnx.Module):
  """images (B, H, W, C) -> logits (B, classes) float32.

  `stats` and `train` are of layers with batch norm, see `attnjax.nn.running`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    channels: int,
    classes: int,
    patch: int = 2,
    dims: tuple[int, ...] = (32, 64),
    depths: tuple[int, ...] = (2, 2),
    mlp_ratio: float = 4.0,
    dropout: float = 0.0,
    remat: str = "none",
    rngs: nnx.Rngs,
  ):
    if len(dims) != len(depths):
      raise ValueError(f"dims {dims} and depths {depths} differ in their length")
    self.patches, self.stages = nnx.List([]), nnx.List([])
    for stage, (dim, depth) in enumerate(zip(dims, depths)):
      above, size = (dims[stage - 1], 2) if stage else (channels, patch)
      self.patches.append(Patches(above, dim, size, rngs=rngs))
      self.stages.append(
        Stack(
          builds,
          dim=dim,
          depth=depth,
          norm="layer",
          feed_forward="gelu",
          hidden=hidden_size(dim, mlp_ratio),
          dropout=dropout,
          remat=remat,
          rngs=rngs,
        )
      )
    self.norms = nnx.List([nnx.LayerNorm(dim, rngs=rngs) for dim in dims])
    self.head = nnx.Linear(dims[-1], classes, rngs=rngs)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Logits of the classes, and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    pooled = self._features(carry, images, key)[-1].mean(axis=(1, 2))
    return carry.result(self.head(pooled).astype("float32"))

  def features(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """The normalised feature map (B, h, w, D) of every stage, for dense tasks."""
    carry = running.Carry(self, stats, train)
    return carry.result(self._features(carry, images, key))

  def weights(
    self, images: Float[Array, "B H W C"], *, stats: Any = None
  ) -> list[Array]:
    """The attention weights of every block of every stage, (B, N, h w, h w) each."""
    carry = running.Carry(self, stats, False)
    found, x = [], images
    for number, stage in enumerate(self.stages):
      x = self._merge(number, x)
      found += stage.weights(x, stats=carry.of(stage))
      x = carry(stage, x)
    return found

  def _features(self, carry, images, key):
    found, x = [], images
    for number, (stage, norm) in enumerate(zip(self.stages, self.norms)):
      own = None if key is None else jax.random.fold_in(key, number)
      x = carry(stage, self._merge(number, x), key=own)
      found.append(norm(x))
    return found

  def _merge(self, number, x):
    x = self.patches[number](x)
    if number:
      return x
    return x + sinusoids(x.shape[1:3], x.shape[3]).astype(x.dtype)
