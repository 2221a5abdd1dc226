"""A Vision Transformer around any mechanism that sees a whole image.

Alexey Dosovitskiy et al. An Image is Worth 16x16 Words. arXiv:2010.11929. Fixed 2-D
sinusoids and mean pooling instead of learned positions and a class token (Lucas Beyer,
Xiaohua Zhai, Alexander Kolesnikov. Better plain ViT baselines. arXiv:2205.01580), so
that images of any size fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import weights
from attnjax.core.positions import sinusoids
from attnjax.nn import running
from attnjax.nn.patches import Patches
from attnjax.nn.stack import Stack, hidden_size

# A mechanism that knows two dimensions is given them.
FORMS = ("image", "sequence")
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
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    mlp_ratio: float = 4.0,
    dropout: float = 0.0,
    remat: str = "none",
    rngs: nnx.Rngs,
  ):
    self.patches = Patches(channels, dim, patch, rngs=rngs)
    self.stack = Stack(
      [_on_grid(build) for build in builds],
      dim=dim,
      depth=depth,
      norm="layer",
      feed_forward="gelu",
      hidden=hidden_size(dim, mlp_ratio),
      dropout=dropout,
      remat=remat,
      rngs=rngs,
    )
    self.norm = nnx.LayerNorm(dim, rngs=rngs)
    self.head = nnx.Linear(dim, classes, rngs=rngs)

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
    """The normalised grid of patches (B, h, w, D), as a list of one stage."""
    carry = running.Carry(self, stats, train)
    return carry.result(self._features(carry, images, key))

  def weights(
    self, images: Float[Array, "B H W C"], *, stats: Any = None
  ) -> list[Array]:
    """The attention weights of every block, (B, N, h w, h w) each."""
    own = running.Carry(self, stats, False).of(self.stack)
    return self.stack.weights(self._embed(images), stats=own)

  def _features(self, carry, images, key):
    return [self.norm(carry(self.stack, self._embed(images), key=key))]

  def _embed(self, images):
    x = self.patches(images)
    return x + sinusoids(x.shape[1:3], x.shape[3]).astype(x.dtype)


class OnGrid(nnx.Module):
  """A sequence layer on the points of a grid, row by row."""

  def __init__(self, layer: Any):
    self.layer = layer

  def __call__(
    self,
    x: Float[Array, "B h w D"],
    *,
    stats: Any = None,
    train: bool = False,
    **context,
  ) -> Any:
    """The layer's output (B, h, w, D), and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    y = carry(self.layer, _rows(x), **context)
    return carry.result(y.reshape(x.shape))

  def weights(self, x: Float[Array, "B h w D"], **context) -> Array:
    """The layer's weights, (B, N, h w, h w)."""
    return weights(self.layer, _rows(x), **context)


def _rows(x):
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _on_grid(build):
  if build.form == "image":
    return build
  return lambda *arguments, **options: OnGrid(build(*arguments, **options))
