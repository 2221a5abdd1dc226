"""The paper's network: patches, blocks of gating units, a mean over all tokens."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.nn import dropout as dropouts
from attnjax.nn.backbone import Classifier
from attnjax.nn.linear import linear
from attnjax.nn.patches import Patches
from attnjax.nn.stages import Stage, Stages, one_a_stage
from attnjax.nn.transformer import layer_norm
from attnjax.variants.mixers.activator.gating import ACTIVATIONS
from attnjax.variants.mixers.activator.layer import Layer

# The published networks, for images of 32 x 32. For images of 28 x 28 there is "mini",
# which is invented: 7 x 7 tokens.
SIZES: dict[str, dict[str, Any]] = {
  "with_mlp": {},
  "only_glu": {"mlp_ratio": 0.0},
  "mini": {"dims": (64,), "depths": (2,)},
}
PARAMETERS: dict[str, float] = {}  # neither the paper nor the code has them


def Model(
  channels: int,
  classes: int,
  *,
  dims: tuple[int, ...] = (256,),
  depths: tuple[int, ...] = (4,),
  patch: int = 4,
  expand: float = 2.0,
  mlp_ratio: float = 2.0,
  activation: str = "gelu",
  dropout: float = 0.5,
  remat: str = "none",
  impl: str = "auto",
  rngs: nnx.Rngs,
) -> Classifier:
  """Builds the network: images (B, H, W, channels) to logits (B, classes).

  One stage of blocks without positions. Beside the hyper-parameters of all networks,
  `attnjax.contract.forms.backbone`:

    patch       side of the patches
    expand      channels of the gating units, in the width
    mlp_ratio   hidden width of the MLPs, in the width; 0: no MLPs
    activation  of the gating units, one of ACTIVATIONS; that of the MLPs is GELU

  Raises:
    ValueError: unless there is one stage.
  """
  one_a_stage(dims=dims, depths=depths)
  if len(dims) != 1:
    raise ValueError(f"dims = {dims}: the network has one stage")
  dim, options = dims[0], {"expand": expand, "activation": activation, "impl": impl}
  stem = Patches(channels, dim, patch, rngs=rngs)
  stem.project = linear(patch * patch * channels, dim, rngs=rngs)
  hidden = int(mlp_ratio * dim)
  blocks = [
    Block(dim, hidden=hidden, dropout=dropout, **options, rngs=rngs)
    for _ in range(depths[0])
  ]
  head = linear(dim, classes, rngs=rngs)
  return Classifier(stem, Stages([Stage(blocks, remat=remat)]), head)


class Block(nnx.Module):
  """x + unit(norm x), then x + MLP(norm x) by the same norm.

  Args:
    dim: D.
    hidden: width of the MLP; 0 for none.
    dropout: share of units of the MLP that a key drops, hidden ones and outputs.
    rngs: for the parameters.
    **options: of `Layer`.
  """

  def __init__(
    self, dim: int, *, hidden: int, dropout: float, rngs: nnx.Rngs, **options: Any
  ):
    if not 0 <= dropout < 1:
      raise ValueError(f"dropout = {dropout}: it must be from 0 to below 1")
    self.norm = layer_norm(dim, rngs=rngs)
    self.unit = Layer(dim, form="image", **options, rngs=rngs)
    self.up = linear(dim, hidden, rngs=rngs) if hidden else None
    self.down = linear(hidden, dim, rngs=rngs) if hidden else None
    self.dropout = dropout

  def __call__(
    self,
    x: Float[Array, "B h w D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B h w D"]:
    """Returns the block's output; `key` turns dropout on."""
    x = x + self.unit(self.norm(x), index=index)
    if self.up is None or self.down is None:
      return x
    first, second = (None, None) if key is None else jax.random.split(key)
    y = ACTIVATIONS["gelu"](self.up(self.norm(x)))
    y = self.down(dropouts.drop(y, self.dropout, first))
    return x + dropouts.drop(y, self.dropout, second)
