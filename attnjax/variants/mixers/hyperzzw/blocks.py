"""The slow-fast block, and the layer that holds one for hosts."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import unseen
from attnjax.variants.mixers.hyperzzw.branches import MultiBranch
from attnjax.variants.mixers.hyperzzw.operator import IMPLEMENTATIONS
from attnjax.variants.mixers.hyperzzw.standardise import Pool, gibs, of_batch

FORMS = ("image",)


class SFNEBlock(nnx.Module):
  """Slow-fast encoding: GELU(gibs(branches)) + bias, whole channels dropped.

  Args:
    channels: C of the input.
    outputs: channels of the result.
    dropout: the share of channels that a `key` drops.
    rngs: for the parameters.
    options: as in `MultiBranch`.
  """

  def __init__(
    self,
    channels: int,
    outputs: int,
    *,
    dropout: float = 0.0,
    rngs: nnx.Rngs,
    **options,
  ):
    self.branches = MultiBranch(channels, outputs, rngs=rngs, **options)
    self.bias = nnx.Param(jnp.zeros((1,)))
    self.dropout = dropout

  def __call__(
    self,
    x: Float[Array, "B H W C"],
    earlier: Sequence[Float[Array, "B H W _"]] = (),
    pool: Pool = of_batch,
    key: Key[Array, ""] | None = None,
  ) -> tuple[Float[Array, "B H W E"], Float[Array, "H W C"]]:
    """Returns (features, the slow net's kernel); a key turns dropout on."""
    y, kernel = self.branches(x, earlier, pool)
    y = jax.nn.gelu(gibs(y, pool), approximate=False) + self.bias[...][None, None, None]
    if key is not None and self.dropout:
      shape = (y.shape[0], 1, 1, y.shape[3])
      keep = jax.random.bernoulli(key, 1 - self.dropout, shape)
      y = jnp.where(keep, y / (1 - self.dropout), 0)
    return y, kernel


class Layer(nnx.Module):
  """A block with as many output as input channels; x (B, H, W, D).

  An image's output depends on its batch, see the package's docstring.

  Args:
    dim: D.
    form: "image".
    size: pixels a side of the position biases; other images get interpolated ones.
    kernels: sides of the four local kernels.
    slow_width: width of the slow net of the global kernel.
    slow_depth: hidden layers of that slow net.
    local_width: width of the slow nets of local kernels and channels.
    score_width: width of the slow net of the pixels' scores.
    omega0: scale of the slow nets' frequencies, see `SlowNet`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    size: int = 16,
    kernels: Sequence[int] = (3, 9, 5, 7),
    slow_width: int = 64,
    slow_depth: int = 2,
    local_width: int = 32,
    score_width: int = 64,
    omega0: float = 2000.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
    self.block = SFNEBlock(
      dim,
      dim,
      size=size,
      kernels=kernels,
      slow_width=slow_width,
      slow_depth=slow_depth,
      local_width=local_width,
      score_width=score_width,
      omega0=omega0,
      impl=impl,
      rngs=rngs,
    )

  def __call__(
    self, x: Float[Array, "B H W D"], **context: Unpack[Context]
  ) -> Float[Array, "B H W D"]:
    """Returns the block's features (B, H, W, D)."""
    x = contexts.accept(x, context, form="image").x
    if 0 in x.shape:
      return unseen.nothing(self, x)
    return self.block(x.astype(accumulator_dtype(x)))[0].astype(x.dtype)
