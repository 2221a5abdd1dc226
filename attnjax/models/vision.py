"""A Vision Transformer around any mechanism that sees a whole image.

Alexey Dosovitskiy et al. An Image is Worth 16x16 Words. arXiv:2010.11929. Fixed 2-D
sinusoids and mean pooling instead of learned positions and a class token (Lucas Beyer,
Xiaohua Zhai, Alexander Kolesnikov. Better plain ViT baselines. arXiv:2205.01580), so
that images of any size fit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import Heads, reducers, weights
from attnjax.nn import reduced, running
from attnjax.nn.backbone import Classifier
from attnjax.nn.patches import Patches
from attnjax.nn.stack import Stack, hidden_size
from attnjax.nn.stages import Stages

# A mechanism that knows two dimensions is given them.
FORMS = ("image", "sequence")
TAKES = "images"  # what its data sets hold
SIZES = ("channels", "classes")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"],), {}


def Model(
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
  between: str | Mapping[int, Callable] = "",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) -> logits (B, classes) float32.

  Its single stage has the grid of patches. Layers of sequences get it row by row. With
  reducers of tokens all layers are of sequences, the logits are of the mean of the
  tokens that are left, and maps have dropped ones as they were when they were dropped.

  Args:
    builds: make the layers, which repeat the pattern.
    channels: of the images.
    classes: number of logits.
    patch: side of the patches.
    dim: width.
    depth: number of blocks.
    mlp_ratio: hidden width of the MLPs, in the width; 0: no MLP.
    dropout: share of units that are left out.
    remat: see `nn.stack.REMAT`.
    between: reducers of tokens before blocks, see `contract.reducers`.
    rngs: for the parameters.
  """
  cuts = reducers(between)
  stem = Patches(channels, dim, patch, positions=True, rngs=rngs)
  stack = Stack(
    [_on_rows(build) if cuts else on_grid(build) for build in builds],
    dim=dim,
    depth=depth,
    norm="layer",
    feed_forward="gelu",
    hidden=hidden_size(dim, mlp_ratio),
    dropout=dropout,
    remat=remat,
    between=cuts,
    rngs=rngs,
  )
  norm = nnx.LayerNorm(dim, rngs=rngs)
  head = nnx.Linear(dim, classes, rngs=rngs)
  return _classifier(stem, stack, norm, head)


def _classifier(stem, stack, norm, head) -> Classifier:
  if not stack.cuts:
    return Classifier(stem, Stages([stack], norm=norm), head)
  body = Stages([reduced.ReducedStage(stack)], norm=reduced.EachRow(norm))
  return Classifier(stem, body, head, pool=reduced.mean)


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
    """Returns the layer's output (B, h, w, D), and new statistics if some are given."""
    carry = running.Carry(self, stats, train)
    y = carry(self.layer, _rows(x), **context)
    return carry.result(y.reshape(x.shape))

  def weights(self, x: Float[Array, "B h w D"], **context) -> Array:
    """Returns the layer's weights, (B, N, h w, h w)."""
    return weights(self.layer, _rows(x), **context)

  def project(self, x: Float[Array, "B h w D"], **context) -> Heads:
    """Returns the layer's heads of the rows."""
    return self.layer.project(_rows(x), **context)

  def mix(self, heads: Heads) -> Array:
    """Returns what the layer's mechanism makes of its heads."""
    return self.layer.mix(heads)

  def merge(
    self, out: Array, heads: Heads, *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the layer's output for the rows (B, h w, D), and new statistics."""
    carry = running.Carry(self, stats, train)
    own = {"stats": carry.of(self.layer), "train": train}
    y, new = running.apply(self.layer.merge, out, heads, **own)
    carry.keep(self.layer, new)
    return carry.result(y)


def _rows(x):
  return x.reshape(x.shape[0], -1, x.shape[-1])


def on_grid(build: Any) -> Callable:
  """Returns a Constructor of layers on grids: one of sequences gets a grid's rows."""
  if build.form == "image":
    return build
  return lambda *arguments, **options: OnGrid(build(*arguments, **options))


def _on_rows(build):
  return build if build.form == "sequence" else build.of(("sequence",))
