"""The layer: projections and `attend` along a curve on which blocks are compact."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import partition
from attnjax.core.compaction import Compaction
from attnjax.nn import projections, unseen
from attnjax.variants.sparse.rectified_sparse.attention import IMPLEMENTATIONS, attend
from attnjax.variants.sparse.rectified_sparse.pooled import touching

FORMS = ("sequence", "image")
AXES = {"sequence": 1, "image": 2, "video": 3}


class Layer(nnx.Module):
  """Projections and `attend`; x (B, T, D), (B, H, W, D) or (B, F, H, W, D).

  Images and, in the form "video", films are read along a Hilbert curve. Blocks with
  adjacent points are critical for each other.

  Args:
    dim: D.
    form: "sequence", "image" or "video".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    block: as in `attend`, as the next four.
    mass: of the critical blocks.
    min_blocks: that are critical.
    text: so many last tokens are text; form "sequence" only.
    gain_test: of the rectified blocks.
    qk_norm: an RMS norm of each query and key head.
    rope_theta: rotary positions in the form "sequence"; none if 0.
    bias: of all projections.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    kv_heads: int = 0,
    head_dim: int = 0,
    block: int = 128,
    mass: float = 0.3,
    min_blocks: int = 1,
    text: int = 0,
    gain_test: bool = True,
    qk_norm: bool = False,
    rope_theta: float = 0.0,
    bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, AXES),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if form != "sequence" and (text or rope_theta):
      raise ValueError(
        f"text = {text}, rope_theta = {rope_theta} in form {form!r}; form 'sequence'"
        " takes them"
      )
    size = projections.head_size(dim, heads, head_dim)
    self.project = projections.QueryKeyValue(
      dim,
      heads,
      kv_heads or heads,
      size,
      qk_norm=qk_norm,
      rope_theta=rope_theta,
      bias=bias,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, bias=bias, rngs=rngs)
    self.axes, self.text = AXES[form], text
    given = {"block": block, "mass": mass, "min_blocks": min_blocks, "text": text}
    self.options = (*given.items(), ("gain_test", gain_test), ("impl", impl))

  @property
  def refuses(self) -> dict[str, str]:
    """What of a context the layer cannot honour, and why."""
    return {"segment_ids": "a block may hold tokens of two documents"}

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B *S D"]:
    """The layer's result, in the shape of x.

    Padding between visual tokens is as if it were not there.

    Raises:
      NotImplementedError: for segments, which blocks would mix; for padding or
        positions in an image or film.
    """
    del index  # the same at every depth
    if 0 in x.shape:
      return unseen.nothing(self, x)
    heads = self._heads(x, segment_ids, padding, positions)
    out = self._attend(*heads, x.shape[1:-1], padding)
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """What each token takes of each other, (B, N, T, T) float32."""
    del index
    q, k, _ = self._heads(x, segment_ids, padding, positions)
    eye = projections.identity_values(k)
    return self._attend(q, k, eye, x.shape[1:-1], padding).swapaxes(1, 2)

  def _heads(self, x, segment_ids, padding, positions):
    """q, k and v, (B, T, N, H), in the order of the rows."""
    if x.ndim != self.axes + 2:
      raise ValueError(
        f"x has the shape {x.shape}; this form takes {self.axes} axes between batch"
        " and width"
      )
    if segment_ids is not None:
      raise NotImplementedError("segment_ids: a block may hold tokens of two documents")
    given = {"padding": padding, "positions": positions}
    for name, value in given.items():
      if value is not None and self.axes > 1:
        raise NotImplementedError(f"{name}: only form 'sequence' takes it")
    x, _ = unseen.blank(x, padding=padding)
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    return self.project(
      rows, jnp.arange(rows.shape[1]) if positions is None else positions
    )

  def _attend(self, q, k, v, shape, padding):
    """`attend` of rows that are brought in order, and back."""
    options: dict[str, Any] = dict(self.options)
    end = math.prod(shape) - self.text
    if end < 1:
      raise ValueError(f"text = {self.text} of {end + self.text} tokens; one is visual")
    if self.axes == 1:
      order, grid = np.arange(end), (end,)
    else:
      order, grid = partition.hilbert_order(shape), shape
    options["neighbours"] = touching(order, grid, options["block"])
    if padding is not None:
      moved = Compaction.of(padding[:, :end])
      options["padding"] = jnp.concatenate([moved.real, padding[:, end:]], axis=1)

      def pack(x):
        return jnp.concatenate([moved.pack(x[:, :end]), x[:, end:]], axis=1)

      out = attend(*map(pack, (q, k, v)), **options)
      return jnp.concatenate([moved.unpack(out[:, :end]), out[:, end:]], axis=1)
    if self.axes == 1:
      return attend(q, k, v, **options)
    out = attend(*(x[:, order] for x in (q, k, v)), **options)
    return out[:, partition.inverse(order)]
