"""The layer: projections around `attend`."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.nn import projections, unseen
from attnjax.variants.local.neighborhood import attention, decode

AXES = {"causal": 1, "sequence": 1, "image": 2, "video": 3}


class Layer(nnx.Module):
  """The official module: projections with bias, `attend`, a projection with bias.

  x is (B, T, D), (B, H, W, D) or, in the form "video", (B, F, H, W, D). An axis
  shorter than window x dilation is not an error as in `attend`: its dilation groups
  that are shorter than the window are seen whole, as short documents are.

  Args:
    dim: D.
    form: "causal", "sequence", "image" or "video".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    window: as in `attend`, one entry for each axis, or one for all.
    stride: the same.
    dilation: the same.
    causal: the same; the form "causal" is causal anyway, "sequence" never.
    scale: H^-0.5 if 0.
    bias: of the projections to queries, keys and values.
    rope_theta: rotary positions for forms of one axis; none if 0, as in the paper.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    kv_heads: int = 0,
    head_dim: int = 0,
    window: int | Sequence[int] = 7,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    causal: bool | Sequence[bool] = False,
    scale: float = 0.0,
    bias: bool = True,
    rope_theta: float = 0.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, AXES)
    axes = attention.broadcast(AXES[form], window, stride, dilation, causal)
    if form == "sequence" and axes[0].causal:
      raise ValueError("causal = True in form 'sequence'; form 'causal' is for that")
    if rope_theta and len(axes) > 1:
      raise ValueError(
        f"rope_theta = {rope_theta}: form {form!r} has no order of tokens, it must be 0"
      )
    if form == "causal":
      axes = (axes[0]._replace(causal=True),)
    size = projections.head_size(dim, heads, head_dim)
    self.project = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads or heads,
      size,
      rope_theta=rope_theta,
      bias=bias,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, bias=True, rngs=rngs)
    self.form, self.axes, self.impl = form, axes, impl
    self.kv_heads, self.size, self.scale = kv_heads or heads, size, scale or None

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B *S D"]:
    """The same shape as x; `segment_ids` and `padding` for one axis only.

    Padding inside a row keeps its place: a window counts it, and nobody sees it.
    """
    del index  # the same at every depth
    if 0 in x.shape:
      return unseen.nothing(self, x)
    q, k, v, ids = self._prepare(x, segment_ids, padding, positions)
    out, _ = self._run(q, k, v, ids, self.impl)
    return self.out(out.astype(x.dtype))

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The softmax weights, (B, N, T, T) float32, T = prod S in row-major order."""
    del index
    q, k, _, ids = self._prepare(x, segment_ids, padding, positions)
    grid = k.shape[1:-2]
    eye = projections.identity_values(k.reshape(k.shape[0], -1, *k.shape[-2:]))
    out, _ = self._run(q, k, eye.reshape(-1, *grid, *eye.shape[2:]), ids, "reference")
    return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> decode.Cache:
    """An empty cache for a sequence of `length` tokens in all.

    It holds window x dilation tokens, whatever the length. With a stride above 1 the
    last window depends on where the sequence ends: steps equal the whole for
    sequences of exactly that length, which begin with their padding, if any.
    """
    if self.form != "causal":
      raise NotImplementedError(
        f"form {self.form!r} does not decode: it sees the future"
      )
    slots = self.axes[0].window * self.axes[0].dilation
    return decode.Cache.empty(batch, length, slots, self.kv_heads, self.size, dtype)

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: decode.Cache,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], decode.Cache]:
    """The next T tokens, T >= 1, after those in the cache.

    Raises:
      NotImplementedError: for segment ids with a stride above 1.
    """
    del index
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    if segment_ids is not None and self.axes[0].stride > 1:
      raise NotImplementedError(
        f"segment_ids with stride = {self.axes[0].stride}: windows depend on where a"
        " document ends, which a step cannot know"
      )
    x, ids = unseen.blank(x, segment_ids, padding)
    ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
    q, k, v = self.project(x, cache.length + jnp.arange(x.shape[1]))
    out, cache = decode.step(q, k, v, ids, cache, self.axes[0], self.scale, self.impl)
    return self.out(out.astype(x.dtype)), cache

  def _prepare(self, x, segment_ids, padding, positions):
    if x.ndim != len(self.axes) + 2:
      raise ValueError(
        f"x has the shape {x.shape}; form {self.form!r} takes {len(self.axes)} axes"
        " between batch and width"
      )
    if len(self.axes) > 1 and not (segment_ids is None and padding is None):
      raise NotImplementedError(
        f"form {self.form!r} takes no segment_ids and no padding"
      )
    x, ids = unseen.blank(x, segment_ids, padding)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    positions = jnp.arange(flat.shape[1]) if positions is None else positions
    q, k, v = (
      y.reshape(*x.shape[:-1], *y.shape[2:]) for y in self.project(flat, positions)
    )
    return q, k, v, ids

  def _run(self, q, k, v, ids, impl):
    return attention.run(q, k, v, self.axes, None, None, ids, self.scale, impl)
