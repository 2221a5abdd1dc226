"""The diffusion transformer: FLUX.2's blocks under the hierarchical mask."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.nn.stack import REMAT
from attnjax.variants.local.scale_dit.blocks import DoubleBlock, SingleBlock
from attnjax.variants.local.scale_dit.layout import Layout
from attnjax.variants.local.scale_dit.lora import TokenLoRA
from attnjax.variants.local.scale_dit.modulation import (
  Last,
  Modulation,
  TimeEmbedding,
  linear,
)

# The models of FLUX.2; the released code adapts "klein_9b".
SIZES: dict[str, dict[str, Any]] = {
  "klein_9b": {
    "text_channels": 12288,
    "dim": 4096,
    "heads": 32,
    "doubles": 8,
    "singles": 24,
  },
  "klein_4b": {
    "text_channels": 7680,
    "dim": 3072,
    "heads": 24,
    "doubles": 5,
    "singles": 20,
  },
  "dev": {
    "text_channels": 15360,
    "dim": 6144,
    "heads": 48,
    "doubles": 8,
    "singles": 48,
    "guided": True,
  },
}
PARAMETERS = {"klein_9b": 9e9, "klein_4b": 4e9, "dev": 32e9}


class Transformer(nnx.Module):
  """Latent patches of [text; image; low resolution] to the image's velocities.

  The time modulates text and image, and another one, 0, the low resolution. All blocks
  of a kind share their modulations. Low-rank terms are on low-resolution tokens alone:
  in the embedding of patches, and in all maps of the blocks but the text's.

  Args:
    channels: C of a patch of the latent image.
    text_channels: channels of the text's features.
    dim: D.
    heads: N.
    doubles: number of blocks in which the text has its own weights, at least 1.
    singles: number of blocks after them with one set of weights, at least 1.
    mlp_ratio: width of the MLPs, in D.
    guided: whether the strength of the guidance is embedded, too.
    rank: of the low-rank terms.
    alpha: of the low-rank terms.
    lora_noise: as `noise` of `TokenLoRA`.
    rope_theta: of the rotary positions.
    remat: what `jax.checkpoint` keeps of each block, see `attnjax.nn.stack.REMAT`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    channels: int = 128,
    *,
    text_channels: int = 12288,
    dim: int = 4096,
    heads: int = 32,
    doubles: int = 8,
    singles: int = 24,
    mlp_ratio: float = 3.0,
    guided: bool = False,
    rank: int = 16,
    alpha: float = 16.0,
    lora_noise: float = 0.0,
    rope_theta: float = 2000.0,
    remat: str = "none",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("remat", remat, REMAT)
    lora = {"rank": rank, "alpha": alpha, "noise": lora_noise}
    given = {"heads": heads, "hidden": int(mlp_ratio * dim), "lora": lora}
    given |= {"rope_theta": rope_theta, "impl": impl}

    def stacked(kind, number):
      keys = jax.random.split(rngs.params(), number)
      return jax.vmap(lambda key: kind(dim, **given, rngs=nnx.Rngs(key)))(keys)

    self.embed = TokenLoRA(channels, dim, **lora, rngs=rngs)
    self.embed_text = linear(text_channels, dim, rngs)
    self.time = TimeEmbedding(dim, rngs=rngs)
    self.guidance = TimeEmbedding(dim, rngs=rngs) if guided else None
    self.modulate_text = Modulation(dim, 2, rngs=rngs)
    self.modulate_image = Modulation(dim, 2, rngs=rngs)
    self.modulate_single = Modulation(dim, 1, rngs=rngs)
    # Leaves below this name have an axis of blocks, see `sharding`.
    self.blocks = nnx.List(
      [stacked(DoubleBlock, doubles), stacked(SingleBlock, singles)]
    )
    self.last = Last(dim, channels, rngs=rngs)
    self.remat = remat

  def __call__(
    self,
    image: Float[Array, "B P C"],
    text: Float[Array, "B E F"],
    time: Float[Array, "B"],
    *,
    layout: Layout,
    low: Float[Array, "B L C"] | None = None,
    low_time: float = 0.0,
    guidance: Float[Array, "B"] | None = None,
    anchor_scale: int = 0,
  ) -> Float[Array, "B P C"]:
    """Returns the velocities of the image's patches, in their order.

    Args:
      image: noisy patches in the order of `layout.places()`.
      text: features of the text.
      time: from 0, no noise, to 1.
      layout: the numbers and the order of the tokens.
      low: patches of the low-resolution image, in the order of `layout.low_places()`;
        None if the layout has none.
      low_time: the time of these patches.
      guidance: its strength, for a model that is `guided`.
      anchor_scale: as in `Layout.positions`.

    Raises:
      ValueError: for numbers of tokens that the layout does not have, and for guidance
        that is missing or that the model does not take.
    """
    low = image[:, :0] if low is None else low
    _check((text, image, low), layout)
    if (guidance is None) != (self.guidance is None):
      raise ValueError(f"guidance = {guidance}: the model is guided, or takes none")
    patches = jnp.concatenate([image, low], axis=1)
    flags = layout.streams()[layout.text :] == 2
    x = jnp.concatenate([self.embed_text(text), self.embed(patches, flags)], axis=1)
    now = self._embedded(time, guidance)
    clean = self._embedded(jnp.full_like(time, low_time), guidance)
    by_image, by_single = self.modulate_image, self.modulate_single
    double = self.modulate_text(now), by_image(now), by_image(clean)
    single = by_single(now), by_single(now), by_single(clean)
    for blocks, own in zip(self.blocks, (double, single)):
      x = self._scanned(blocks, x, layout, own, anchor_scale)
    return self.last(x[:, layout.text : layout.text + layout.high], now)

  def _embedded(self, time, guidance):
    found = self.time(time)
    return found if self.guidance is None else found + self.guidance(guidance)

  def _scanned(self, blocks, x, layout, modulations, anchor_scale):
    def run(x, block):
      return block(x, layout, modulations, anchor_scale=anchor_scale), None

    policy = REMAT[self.remat]
    run = run if policy is None else jax.checkpoint(run, policy=policy)
    return jax.lax.scan(run, x, blocks)[0]


def _check(streams, layout):
  found = tuple(x.shape[1] for x in streams)
  want = layout.text, layout.high, layout.low
  if found != want:
    raise ValueError(f"{found} tokens of text, image, low; the layout has {want}")
