"""The layer: positions, linear attention and what makes it local again."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.nn import projections, running, unseen
from attnjax.nn.depthwise import Depthwise
from attnjax.nn.norms import BatchNorm
from attnjax.variants.linear.l2vit.attention import IMPLEMENTATIONS, attend

FORMS = ("sequence", "image")
NORMS = ("layer", "batch")
EPSILON = 1e-5


def norm(kind: str, dim: int, *, rngs: nnx.Rngs):
  """A norm over the channels of each token, or of each channel over all tokens."""
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
    """The convolved grid (B, *S, D), and new statistics if some are given.

    The residual is the caller's. Batch norm does not measure tokens of negative ids.
    """
    carry = running.Carry(self, stats, train)
    x = jax.nn.gelu(self.first(x, segment_ids), approximate=False)
    masked = segment_ids is not None and isinstance(self.norm, BatchNorm)
    x = carry(self.norm, x, **({"mask": segment_ids >= 0} if masked else {}))
    return carry.result(self.second(x, segment_ids))


class Layer(nnx.Module):
  """Attention with what surrounds it in the paper's block, up to the MLP.

    h = x + position(x)
    h = h + project(attend(norm(h)))
    y = h + concentrate(norm(h)) - x

  A host adds y to x. x is (B, T, D) or (B, H, W, D); on sequences the convolutions have
  one axis and do not cross segments or padding.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N.
    head_dim: H; dim / heads if 0.
    den_min: of `attend`.
    position: side of the position kernel; no position convolution if 0.
    local: side of the concentration's kernels; no concentration if 0.
    norm: within the concentration: "layer", or the paper's "batch", whose running
      statistics are an argument and a result, see `attnjax.nn.running`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    head_dim: int = 0,
    den_min: float = 100.0,
    position: int = 3,
    local: int = 7,
    norm: str = "layer",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("norm", norm, NORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    size, axes = projections.head_size(dim, heads, head_dim), FORMS.index(form) + 1
    self.position = Depthwise(dim, position, axes=axes, rngs=rngs) if position else None
    self.norm = nnx.LayerNorm(dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
    self.project = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, rngs=rngs
    )
    self.temperature = nnx.Param(jnp.full(heads, size**-0.5))
    self.out = projections.output(heads, size, dim, bias=True, rngs=rngs)
    if local:
      self.local_norm = nnx.LayerNorm(
        dim, epsilon=EPSILON, use_fast_variance=False, rngs=rngs
      )
      self.concentrate = Concentration(dim, local, kind=norm, axes=axes, rngs=rngs)
    self.local, self.axes, self.den_min, self.impl = local, axes, den_min, impl

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """What a host adds to x (B, *S, D), 0 at the padding; and new statistics.

    `positions` are not used: convolutions know which tokens are neighbours.
    """
    del positions, index
    carry = running.Carry(self, stats, train)
    if 0 in x.shape:
      return carry.result(unseen.nothing(carry.plain(self), x))
    x, ids = self._blank(x, segment_ids, padding)
    h = self._placed(x, ids)
    h = h + self.attend(self.norm(h), segment_ids, padding)
    if self.local:
      h = h + carry(self.concentrate, self.local_norm(h), ids)
    y = h - x
    return carry.result(y if ids is None else jnp.where((ids >= 0)[..., None], y, 0))

  def attend(
    self,
    x: Float[Array, "B *S D"],
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
  ) -> Float[Array, "B *S D"]:
    """The attention alone, with its projections."""
    x, _ = unseen.blank(x, segment_ids, padding)
    q, k, v = self._heads(x)
    out = self._mix(q, k, v, segment_ids, padding)
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The factors of the values, (B, N, T, T) float32; rows do not sum to 1."""
    del positions, index
    x, ids = self._blank(x, segment_ids, padding)
    q, k, _ = self._heads(self.norm(self._placed(x, ids)))
    eye = projections.identity_values(k)
    return self._mix(q, k, eye, segment_ids, padding).swapaxes(1, 2)

  def _placed(self, x, ids):
    return x if self.position is None else x + self.position(x, ids)

  def _heads(self, x):
    return self.project.heads(x.reshape(x.shape[0], -1, x.shape[-1]))

  def _mix(self, q, k, v, segment_ids, padding):
    given = {"segment_ids": segment_ids, "padding": padding, "impl": self.impl}
    return attend(q, k, v, self.temperature[...], den_min=self.den_min, **given)

  def _blank(self, x, segment_ids, padding):
    if x.ndim != self.axes + 2:
      raise ValueError(
        f"x has the shape {x.shape}; this form takes {self.axes} axes between batch"
        " and width"
      )
    if self.axes > 1 and not (segment_ids is None and padding is None):
      raise NotImplementedError("form 'image' takes no segment_ids and no padding")
    return unseen.blank(x, segment_ids, padding)
