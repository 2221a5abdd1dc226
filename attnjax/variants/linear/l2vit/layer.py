"""The layer: position convolution, linear attention and concentration."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract import check_known, check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import drop_path, projections, running, transformer, unseen
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.norms import BatchNorm
from attnjax.variants.linear.l2vit.attention import IMPLEMENTATIONS, attend

FORMS = ("sequence", "image")
NORMS = ("layer", "batch")
EPSILON = 1e-5


def norm(kind: str, dim: int, *, rngs: nnx.Rngs):
  """Returns a norm over each token's channels, or over all tokens for each channel."""
  check_known("norm", kind, NORMS)
  if kind == "layer":
    return nnx.LayerNorm(dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
  return BatchNorm(dim, momentum=0.9, epsilon=EPSILON)


class Concentration(nnx.Module):
  """Two depthwise convolutions (the paper's LCM): conv, GELU, norm, conv."""

  init_stats = running.init_stats

  def __init__(
    self, dim: int, size: int = 7, *, kind: str = "batch", axes: int = 2, rngs: nnx.Rngs
  ):
    self.first, self.second = (
      Depthwise(dim, size, axes=axes, rngs=rngs) for _ in range(2)
    )
    self.norm = norm(kind, dim, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    segment_ids: Int[Array, "B T"] | None = None,
    *,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the convolved grid (B, *S, D), and new statistics if some are given.

    The caller adds the residual. Batch norm does not measure tokens of negative ids.
    """
    carry = running.Carry(self, stats, train)
    x = jax.nn.gelu(self.first(x, segment_ids), approximate=False)
    masked = segment_ids is not None and isinstance(self.norm, BatchNorm)
    x = carry(self.norm, x, **({"mask": segment_ids >= 0} if masked else {}))
    return carry.result(self.second(x, segment_ids))


class Layer(nnx.Module):
  """The paper's block without its MLP: position, attention and concentration.

    h = x + position(x)
    h = h + out(attend(norm(h)))
    y = h + concentrate(norm(h)) - x

  A host adds y to x. x is (B, T, D) or (B, H, W, D); on sequences the convolutions have
  one axis and do not cross segments or padding.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N.
    head_dim: H; dim / heads if 0.
    den_min: as in `attend`.
    position_kernel: side of the position kernel; no position convolution if 0.
    local_kernel: side of the concentration's kernels; no concentration if 0.
    norm: the concentration's norm: "layer", or the paper's "batch", whose running
      statistics are an argument and a result, see `attnjax.nn.running`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    head_dim: int = 0,
    den_min: float = 100.0,
    position_kernel: int = 3,
    local_kernel: int = 7,
    norm: str = "layer",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS), norm=(norm, NORMS), impl=(impl, ("auto", *IMPLEMENTATIONS))
    )
    size, axes = projections.head_size(dim, heads, head_dim), FORMS.index(form) + 1
    self.position = (
      Depthwise(dim, position_kernel, axes=axes, rngs=rngs) if position_kernel else None
    )
    self.norm = nnx.LayerNorm(dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
    self.qkv = projections.QueryKeyValue(dim, heads, heads, size, bias=True, rngs=rngs)
    self.temperature = nnx.Param(jnp.full(heads, size**-0.5))
    self.out = projections.output(heads, size, dim, bias=True, rngs=rngs)
    if local_kernel:
      self.local_norm = nnx.LayerNorm(
        dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs
      )
      self.concentrate = Concentration(
        dim, local_kernel, kind=norm, axes=axes, rngs=rngs
      )
    self.form, self.local_kernel, self.den_min, self.impl = (
      form,
      local_kernel,
      den_min,
      impl,
    )

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {"positions": "only who is next to whom is read, by the convolutions"}

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token after position convolution and norm."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    h = tokens.x
    h = h if self.position is None else h + self.position(h, tokens.ids)
    q, k, v = self.qkv.heads(self.norm(h).reshape(tokens.rows.shape))
    seen = unseen.told(tokens.ids, context.get("segment_ids"))
    return Heads(q, k, v, tokens, seen, {"placed": h})

  def mix(self, heads: Heads) -> Float[Array, "B T N E"]:
    """Returns `attend` of the heads, whose rows do not sum to 1."""
    given: dict[str, Any] = {"den_min": self.den_min, "impl": self.impl} | heads.seen
    return attend(heads.q, heads.k, heads.v, self.temperature[...], **given)

  def merge(
    self,
    out: Array,
    heads: Heads,
    *,
    drop: float = 0.0,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns the update y (B, *S, D) of x, 0 at padding, and new statistics.

    y sums the position convolution, the projection of all heads' outputs and the
    concentration; without `stats` it is returned alone. With a `key` the last two are
    each dropped for a share `drop` of the examples.
    """
    carry = running.Carry(self, stats, train)
    first, second = transformer.keys(key, 2)
    x, ids, h = heads.tokens.x, heads.tokens.ids, heads.more["placed"]
    h = h + drop_path.drop(self.out(out.astype(x.dtype)).reshape(x.shape), drop, first)
    if self.local_kernel:
      z = carry(self.concentrate, self.local_norm(h), ids)
      h = h + drop_path.drop(z, drop, second)
    y = h - x
    return carry.result(y if ids is None else jnp.where((ids >= 0)[..., None], y, 0))

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    stats: Any = None,
    train: bool = False,
    **context: Unpack[Context],
  ) -> Any:
    """Returns the update y (B, *S, D) of x, 0 at padding, and new statistics.

    The host adds y to x; without `stats` it is returned alone. See
    `attnjax.contract.forms` for the context.
    """
    if 0 in x.shape:
      carry = running.Carry(self, stats, train)
      return carry.result(unseen.nothing(carry.plain(self), x))
    heads = self.project(x, **context)
    return self.merge(self.mix(heads), heads, stats=stats, train=train)
