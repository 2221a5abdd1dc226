"""The layer, which makes landmarks of its queries, and the paper's block."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import inverse
from attnjax.core.compaction import Compaction
from attnjax.core.depthwise import depthwise
from attnjax.nn import projections, unseen
from attnjax.variants.linear.soft.attention import IMPLEMENTATIONS, attend

FORMS = ("sequence", "image")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Projections to queries and values, `attend`, a convolution of the values.

    landmarks = gelu(norm(convolve(q)))      kernel and stride `ratio`, shared by heads
    y = (attend(q H^-1/4, v, landmarks) + convolve(v)) W

  x is (B, T, D) or (B, H, W, D). Windows of landmarks that the sequence or grid does
  not fill are left out, as the authors' code does; a side shorter than one window is
  filled up with zeros. Padding in a sequence is as if it were not there.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N.
    head_dim: H; dim / heads if 0.
    ratio: side of a window of tokens that becomes one landmark.
    kernel: side of the values' convolution, one kernel for each head; none if 0.
    normalise: SOFT++'s normalisation, as the next four options of `attend`.
    iterations: of the inverse; 0 is as many as it needs, `PUBLISHED` the authors'.
    jitter: before the inverse.
    gradient: of the inverse.
    start: of the inverse.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
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
    for name, value, known in (
      ("form", form, FORMS),
      ("gradient", gradient, inverse.GRADIENTS),
      ("start", start, inverse.STARTS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
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
    self.axes, self.ratio, self.kernel = axes, ratio, kernel
    self.options = (
      ("normalise", normalise),
      ("iterations", iterations),
      ("jitter", jitter),
      ("gradient", gradient),
      ("start", start),
      ("impl", impl),
    )

  @property
  def refuses(self) -> dict[str, str]:
    """What of a context the layer cannot honour, and why."""
    return {"segment_ids": "landmarks are made of adjacent tokens"}

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B *S D"]:
    """The layer's result, in the shape of x; 0 at the padding.

    `positions` are not used.

    Raises:
      NotImplementedError: for segments, since a landmark is made of adjacent tokens;
        for padding in an image.
    """
    del positions, index
    if 0 in x.shape:
      return unseen.nothing(self, x)
    x, moved = self._prepare(x, segment_ids, padding)
    real = None if moved is None else moved.real
    out = self._mix(self._query(x, real), self.value(x), real)
    y = self.out(out.astype(x.dtype))
    return y if moved is None else moved.unpack(y)

  def weights(
    self, x, *, segment_ids=None, padding=None, positions=None, index=0
  ) -> Float[Array, "B N T T"]:
    """The factors of the values, float32, with the convolution's."""
    del positions, index
    x, moved = self._prepare(x, segment_ids, padding)
    real = None if moved is None else moved.real
    q = self._query(x, real)
    T, heads = math.prod(x.shape[1:-1]), q.shape[-2]
    eye = jnp.broadcast_to(jnp.eye(T)[:, None], (x.shape[0], T, heads, T))
    eye = eye if moved is None else moved.pack(eye)
    out = self._mix(q, eye.reshape(*x.shape[:-1], heads, T), real)
    out = out if moved is None else moved.unpack(out)
    return out.reshape(x.shape[0], T, heads, T).swapaxes(1, 2)

  def _prepare(self, x, segment_ids, padding):
    """(x with its real tokens first, how they got there)."""
    if x.ndim != self.axes + 2:
      raise ValueError(
        f"x has the shape {x.shape}; this form takes {self.axes} axes between batch"
        " and width"
      )
    if segment_ids is not None:
      raise NotImplementedError("segment_ids: landmarks are made of adjacent tokens")
    if padding is None:
      return x, None
    if self.axes > 1:
      raise NotImplementedError("form 'image' takes no padding")
    moved = Compaction.of(padding)
    return moved.pack(x), moved

  def _query(self, x, real):
    q = self.query(x) / self.landmark.shape[-1] ** 0.25
    return q if real is None else jnp.where(real[..., None, None], q, 0)

  def _mix(self, q, v, real):
    """(B, *S, N, V) of q (B, *S, N, H) and v (B, *S, N, V)."""
    if real is not None:
      v = jnp.where(real[..., None, None], v, 0)
    landmarks = self._landmarks(q)
    given: dict[str, Any] = dict(self.options)
    if real is not None:
      count = jnp.maximum(real.sum(axis=1) // self.ratio, 1)
      used = jnp.arange(landmarks.shape[1]) < count[:, None]
      given |= {"padding": real, "landmark_padding": used}
    rows, values = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, v))
    out = attend(rows, values, landmarks, **given).reshape(v.shape)
    if self.kernel:
      out = out + depthwise(v, self.convolution[...], axes=self.axes)
    return out

  def _landmarks(self, q):
    """(B, M, N, H): windows of q, linearly mapped, normalised and bent."""
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

  The options are those of `Layer`.
  """

  def __init__(self, dim: int, *, hidden: int = 0, rngs: nnx.Rngs, **options):
    hidden = hidden or 4 * dim
    self.mix = Layer(dim, rngs=rngs, **options)
    self.norms = nnx.List(
      nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs) for _ in "12"
    )
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)

  def __call__(self, x: Float[Array, "B *S D"]) -> Float[Array, "B *S D"]:
    """The block's output."""
    x = self.norms[0](x + self.mix(x))
    return self.norms[1](x + self.down(jax.nn.gelu(self.up(x))))


def _noise(shape, terms, rngs):
  """A parameter that keeps the variance of sums of so many terms."""
  return nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(terms))
