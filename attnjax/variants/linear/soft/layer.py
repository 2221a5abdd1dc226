"""The layer, which computes landmarks from its queries, and the paper's block."""

import math
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import inverse
from attnjax.core.compaction import Compaction
from attnjax.core.depthwise import depthwise
from attnjax.nn import projections
from attnjax.variants.linear.soft.attention import IMPLEMENTATIONS, attend

FORMS = ("sequence", "image")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Projections to queries and values, `attend`, a convolution of the values.

    landmarks = gelu(norm(convolve(q)))      kernel and stride `ratio`, shared by heads
    y = (attend(q H^-1/4, v, landmarks) + convolve(v)) W

  x is (B, T, D) or (B, H, W, D). Windows of landmarks that the sequence or grid does
  not fill are left out, as in the authors' code; a side shorter than one window is
  padded with zeros. Padding in a sequence has no effect.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N.
    head_dim: H; dim / heads if 0.
    ratio: side of a window of tokens that becomes one landmark.
    kernel: side of the values' convolution, one kernel for each head; none if 0.
    normalise: as in `attend`, SOFT++'s normalisation.
    iterations: as in `attend`.
    jitter: as in `attend`.
    gradient: as in `attend`.
    start: as in `attend`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    head_dim: int = 0,
    ratio: int = 2,
    kernel: int = 5,
    normalise: bool = False,
    iterations: int = 0,
    jitter: float = 0.01,
    gradient: str = "analytic",
    start: str = "matrix",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      gradient=(gradient, inverse.GRADIENTS),
      start=(start, inverse.STARTS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if ratio < 1:
      raise ValueError(f"ratio = {ratio}; a window has 1 token or more")
    size, axes = projections.head_size(dim, heads, head_dim), FORMS.index(form) + 1

    def project():
      return nnx.LinearGeneral(dim, (heads, size), kernel_init=_INIT, rngs=rngs)

    self.query, self.value = project(), project()
    self.landmark = _noise((*(ratio,) * axes, size, size), ratio**axes * size, rngs)
    self.norm = nnx.LayerNorm(size, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
    if kernel:
      self.convolution = _noise((*(kernel,) * axes, heads, 1), kernel**axes, rngs)
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.form, self.axes, self.ratio, self.kernel = form, axes, ratio, kernel
    self.options: tuple[tuple[str, Any], ...] = (
      ("normalise", normalise),
      ("iterations", iterations),
      ("jitter", jitter),
      ("gradient", gradient),
      ("start", start),
      ("impl", impl),
    )

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    return {
      "segment_ids": "landmarks are made of adjacent tokens",
      "positions": "only who is next to whom is read, by windows and convolution",
    }

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the scaled queries, which are also the keys, the values and landmarks."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    q = self.query(tokens.x) / self.landmark.shape[-1] ** 0.25
    moved = None if tokens.ids is None else Compaction.of(tokens.ids >= 0)
    landmarks = self._landmarks(q if moved is None else moved.pack(q))
    more = {"landmarks": landmarks, "moved": moved}
    return Heads(q, q, self.value(tokens.x), tokens, more=more)

  def mix(self, heads: Heads) -> Float[Array, "B *S N E"]:
    """Returns `attend` of the heads, plus the convolution of the values."""
    landmarks, moved = heads.more["landmarks"], heads.more["moved"]
    q, v, given = heads.q, heads.v, dict(self.options)
    if moved is not None:
      q, v = moved.pack(q), moved.pack(v)
      count = jnp.maximum(moved.real.sum(axis=1) // self.ratio, 1)
      used = jnp.arange(landmarks.shape[1]) < count[:, None]
      given |= {"valid": moved.real, "landmark_valid": used}
    rows, values = (y.reshape(y.shape[0], -1, *y.shape[-2:]) for y in (q, v))
    out = attend(rows, values, landmarks, **given).reshape(v.shape)
    if self.kernel:
      out = out + depthwise(v, self.convolution[...], axes=self.axes)
    return out if moved is None else moved.unpack(out)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' outputs; 0 at padding."""
    y, ids = self.out(out.astype(heads.tokens.x.dtype)), heads.tokens.ids
    return y if ids is None else jnp.where((ids >= 0)[..., None], y, 0)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output in the shape of x; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def _landmarks(self, q):
    """Returns windows of q after a linear map, a norm and GELU, (B, M, N, H)."""
    r = self.ratio
    for axis in range(1, self.axes + 1):
      length = q.shape[axis]
      if length < r:
        width = [(0, 0)] * q.ndim
        width[axis] = (0, r - length)
        q = jnp.pad(q, width)
      q = jax.lax.slice_in_dim(q, 0, max(length // r, 1) * r, axis=axis)
    kernel = self.landmark[...].astype(q.dtype)
    if self.axes == 1:
      windows = q.reshape(q.shape[0], -1, r, *q.shape[-2:])
      points = jnp.einsum("bminh,iho->bmno", windows, kernel)
    else:
      B, height, width, N, H = q.shape
      windows = q.reshape(B, height // r, r, width // r, r, N, H)
      points = jnp.einsum("byixjnh,ijho->byxno", windows, kernel)
      points = points.reshape(B, -1, N, H)
    return jax.nn.gelu(self.norm(points), approximate=False)


class Block(nnx.Module):
  """The paper's block, which normalises after each sum: x (B, H, W, D).

    h = norm(x + layer(x));  y = norm(h + MLP(h)),  MLP with the tanh form of GELU

  Args:
    dim: D.
    hidden: width of the MLP; 4 D if 0.
    drop: the share of numbers of both branches that are left out in training; in the
      authors' code they are single ones, though it calls that dropping paths.
    rngs: for the parameters.
    **options: as in `Layer`.
  """

  def __init__(
    self, dim: int, *, hidden: int = 0, drop: float = 0.0, rngs: nnx.Rngs, **options
  ):
    if not 0 <= drop < 1:
      raise ValueError(f"drop = {drop}: it must be from 0 to below 1")
    hidden = hidden or 4 * dim
    self.mix = Layer(dim, form="image", rngs=rngs, **options)
    self.norms = nnx.List(
      nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs) for _ in "12"
    )
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)
    self.drop = drop

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    index: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B *S D"]:
    """Returns the block's output; `key` turns dropping on."""
    first, second = (None, None) if key is None else jax.random.split(key)
    x = self.norms[0](x + self._dropped(self.mix(x, index=index), first))
    y = self.down(jax.nn.gelu(self.up(x)))
    return self.norms[1](x + self._dropped(y, second))

  def weights(
    self, x: Float[Array, "B *S D"], *, index: int = 0, stats: Any = ()
  ) -> list[Array]:
    """Returns the weights (B, N, T, T) of the layer's values."""
    del stats
    return [contexts.weights(self.mix, x, index=index)]

  def _dropped(self, y, key):
    if key is None or not self.drop:
      return y
    kept = jax.random.bernoulli(key, 1 - self.drop, y.shape)
    return jnp.where(kept, y / (1 - self.drop), 0).astype(y.dtype)


def _noise(shape, terms, rngs):
  """Returns a random parameter that keeps the variance of sums of `terms` products."""
  return nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(terms))
