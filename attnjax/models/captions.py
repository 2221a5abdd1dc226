"""A captioner: words attend to the words before them, then to the patches of an image.

Blocks as in the text decoder of BLIP (Junnan Li et al. arXiv:2201.12086), which is
BERT's with a layer between text and image in each block (Jacob Devlin et al.
arXiv:1810.04805), with norms behind the sums. The mechanism is a layer of the form
"cross" that takes two streams, the words and the image; where the system has the form
"causal" too, it is the layer among the words as well, else dot-product attention is.
Patches are embedded linearly, without an encoder of their own.

  h = LN(x + self(x));  h = cross(h, patches);  x = LN(mlp(h) + h + bottleneck(h))

`bottleneck` = r > 0 has up(relu(down(h))) of width D / r, the adapter beside an MLP
(Neil Houlsby et al. arXiv:1902.00751; here it reads the input of the MLP).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract import registry
from attnjax.core.streams import Stream
from attnjax.nn import linear, mlp
from attnjax.nn.connector import Connector
from attnjax.nn.patches import Patches
from attnjax.nn.stack import hidden_size

FORMS = ("cross",)
TAKES = "image_text"  # what its data sets hold
SIZES = ("channels", "vocab")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return (batch["image"], batch["tokens"]), {}


class Block(nnx.Module):
  """A block: words among themselves, words to the image, an MLP with an adapter.

  Args:
    dim: D.
    build: makes the mechanism, of the form "cross".
    layers: of the model.
    hidden: width of the MLP.
    bottleneck: r of the adapter beside it; 0: none.
    rngs: for the parameters.

  Raises:
    ValueError: for a mechanism of more or fewer than two streams.
  """

  def __init__(
    self,
    dim: int,
    build: Any,
    *,
    layers: int,
    hidden: int,
    bottleneck: int,
    rngs: nnx.Rngs,
  ):
    names = tuple(build.module.STREAMS)
    if len(names) != 2:
      raise ValueError(f"streams {', '.join(names)}: a captioner has two")
    self.names = names
    own = build.of(("causal",)) if "causal" in build.module.FORMS else _plain()
    made: dict[str, Any] = {"layers": layers, "rngs": rngs}
    self.words, self.image = own(dim, **made), build(dict.fromkeys(names, dim), **made)
    self.mlp = mlp.GELU(dim, hidden, rngs=rngs)
    self.norms = nnx.List([nnx.LayerNorm(dim, rngs=rngs) for _ in range(2)])
    self.adapter = _Bottleneck(dim, bottleneck, rngs) if bottleneck else None

  def __call__(
    self, x: Float[Array, "B T D"], patches: Float[Array, "B S D"], index: Any
  ) -> Float[Array, "B T D"]:
    """Returns the new states of the words."""
    h = self.norms[0](x + self.words(x, index=index))
    given = dict(zip(self.names, (Stream(h), Stream(patches))))
    h = self.image(given, index=index)[self.names[0]]
    y = h + self.mlp(h)
    return self.norms[1](y if self.adapter is None else y + self.adapter(h))


class Model(nnx.Module):
  """images (B, H, W, channels), words (B, T) -> logits (B, T, vocab) float32."""

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    channels: int,
    vocab: int,
    patch: int = 2,
    dim: int = 32,
    depth: int = 2,
    mlp_ratio: float = 2.0,
    connector_ratio: float = 2.0,  # hidden width of the connector, in dim
    bottleneck: int = 0,  # r of the adapters beside the MLPs; 0: none
    rngs: nnx.Rngs,
  ):
    if depth % len(builds):
      raise ValueError(
        f"depth = {depth} does not divide by the pattern of {len(builds)} mechanisms"
      )
    if bottleneck and (bottleneck < 0 or dim % bottleneck):
      raise ValueError(f"bottleneck = {bottleneck}; it is 0 or divides dim = {dim}")
    init = nnx.initializers.normal(0.5)
    self.embed = nnx.Embed(vocab, dim, embedding_init=init, rngs=rngs)
    self.patches = Patches(channels, dim, patch, rngs=rngs)
    self.connector = Connector(dim, hidden_size(dim, connector_ratio), rngs=rngs)
    hidden = hidden_size(dim, mlp_ratio)
    options: dict[str, Any] = {"layers": depth, "hidden": hidden}
    options |= {"bottleneck": bottleneck, "rngs": rngs}
    blocks = [Block(dim, builds[i % len(builds)], **options) for i in range(depth)]
    self.blocks = nnx.List(blocks)

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    tokens: Int[Array, "B T"],
    *,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B T V"]:
    """Returns logits after each word.

    Args:
      images: of any size.
      tokens: words; those behind the last one that counts may be any.
      key: not read, since nothing is dropped.
    """
    del key
    patches = self.connector(self.patches(images))
    patches = patches.reshape(len(images), -1, patches.shape[-1])
    x = self.embed.embedding[...][tokens]
    for index, block in enumerate(self.blocks):
      x = block(x, patches, index)
    head = self.embed.embedding[...].T
    return jnp.matmul(x, head, preferred_element_type=jnp.float32)


def tiny(rngs: nnx.Rngs) -> tuple[Any, dict[str, Any]]:
  """Returns a small model around p-Laplacian adapters, and a batch of 3 examples."""
  options = {"heads": 2, "reduction": 2, "pool": 4}
  build = registry.constructor("p_adapter", options, FORMS)
  sizes = {"channels": 1, "vocab": 11, "dim": 16, "bottleneck": 4}
  draw = np.random.default_rng(0)
  images = draw.standard_normal((3, 6, 8, 1), np.float32)
  tokens = draw.integers(0, 11, (3, 5), np.int32)
  return Model([build], **sizes, rngs=rngs), {"image": images, "tokens": tokens}


class _Bottleneck(nnx.Module):
  """up(relu(down(x))), x (*B, D), of width D / r."""

  def __init__(self, dim: int, reduction: int, rngs: nnx.Rngs):
    self.down = linear.linear(dim, dim // reduction, rngs=rngs)
    self.up = linear.linear(dim // reduction, dim, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    return self.up(jax.nn.relu(self.down(x)))


def _plain():
  return registry.constructor("dot_product", {}, ("causal",))
