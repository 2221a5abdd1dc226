"""The layer: agents are averages of the queries, over cells of the grid."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import resample
from attnjax.core.compaction import Compaction
from attnjax.core.softmax import wide
from attnjax.nn import projections, unseen
from attnjax.nn.depthwise import Depthwise
from attnjax.variants.linear.agent_attention.attention import IMPLEMENTATIONS, attend
from attnjax.variants.linear.agent_attention.biases import Biases
from attnjax.variants.linear.agent_attention.reduction import Reduction, whole, windows

FORMS = ("sequence", "image")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Projections, agents, biases, `attend` and a convolution of the values.

    agents = average(q) in p x p cells that may overlap, A = p^2
    y = (attend(q, k, v, agents) + convolve3x3(v)) W

  x is (B, H, W, D) or (B, T, D). A sequence is a line of tokens with A cells; with a
  class token, its first token, the others are the points of `grid`: the class token is
  a query and a key, but no part of an agent, and has no convolution. Padding in a
  line is as if it were not there.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    agents: A, a square on grids.
    grid: the sides for which the biases' own parameters are made, or one for both; on
      other grids they are interpolated.
    kernel: side of the values' convolution; none if 0.
    agent_bias: whether there are biases.
    sr_ratio: keys and values are of x reduced by a convolution of that side and
      stride and a norm, as in the Pyramid Vision Transformer; images only.
    window: images are cut in windows of that side, which do not see each other, as in
      Swin; they must tile it. One window if 0.
    class_token: see above; sequences only.
    qkv_bias: of the projections to queries, keys and values.
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
    agents: int = 9,
    grid: int | Sequence[int] = 7,
    kernel: int = 3,
    agent_bias: bool = True,
    sr_ratio: int = 1,
    window: int = 0,
    class_token: bool = False,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    axes = 2 if form == "image" or class_token else 1
    sides = (grid,) * axes if isinstance(grid, int) else tuple(grid)
    _check(form, axes, sides, agents, sr_ratio, window, class_token)
    size = projections.head_size(dim, heads, head_dim)
    kv_heads = kv_heads or heads
    self.project = projections.QueryKeyValue(
      dim, heads, kv_heads, size, bias=qkv_bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    if kernel:
      self.convolution = Depthwise(heads * size, kernel, axes=axes, rngs=rngs)
    if agent_bias:
      reduced = tuple(max(side // sr_ratio, 1) for side in sides)
      self.gather = Biases(heads, agents, reduced, rngs=rngs)
      self.spread = Biases(heads, agents, sides, rngs=rngs)
      if class_token:
        self.class_biases = nnx.List(
          nnx.Param(_INIT(rngs.params(), (heads, agents))) for _ in range(2)
        )
    if sr_ratio > 1:
      self.reduce = Reduction(dim, sr_ratio, rngs=rngs)
    self.sides = (math.isqrt(agents),) * 2 if axes == 2 else (agents,)
    self.form, self.grid, self.class_token = form, sides, int(class_token)
    self.kernel, self.agent_bias, self.sr_ratio = kernel, agent_bias, sr_ratio
    self.window, self.impl = window, impl

  @property
  def refuses(self) -> dict[str, str]:
    """What of a context the layer cannot honour, and why."""
    return (
      {"segment_ids": "agents are of a whole sequence"}
      if self.form == "sequence"
      else {}
    )

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

    `positions` are not used: the biases are the layer's own.

    Raises:
      NotImplementedError: for segments, since agents are of a whole sequence; for
        padding on a grid.
    """
    del positions, index
    if 0 in x.shape:
      return unseen.nothing(self, x)
    self._check(x, segment_ids, padding)
    shape, moved = x.shape, None if padding is None else Compaction.of(padding)
    if moved is not None:
      x = moved.pack(x)
    if self.window:
      x = windows(x, self.window)
    grid = x.shape[1:-1] if self.form == "image" or len(self.grid) == 1 else self.grid
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    q, k, v, small = self._heads(tokens, grid)
    out = self._mix(q, k, v, grid, small, moved)
    if self.kernel:
      out = out + self._convolve(v, grid, small, moved).reshape(out.shape)
    y = self.out(out.astype(x.dtype)).reshape(x.shape)
    if self.window:
      y = whole(y, shape)
    return y if moved is None else moved.unpack(y)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """What both softmaxes give to each key, (B, N, T, S) float32; rows sum to 1.

    Without the convolution; S is what sr_ratio leaves.
    """
    del positions, index
    self._check(x, segment_ids, padding)
    if self.window:
      raise NotImplementedError(f"window = {self.window}: each has its own weights")
    moved = None if padding is None else Compaction.of(padding)
    x = x if moved is None else moved.pack(x)
    grid = x.shape[1:-1] if self.form == "image" or len(self.grid) == 1 else self.grid
    q, k, _, small = self._heads(x.reshape(x.shape[0], -1, x.shape[-1]), grid)
    eye = projections.identity_values(k)
    if moved is not None:
      eye = moved.pack(eye)
    out = self._mix(q, k, eye, grid, small, moved)
    return (out if moved is None else moved.unpack(out)).swapaxes(1, 2)

  def _heads(self, x, grid):
    """The heads q, k, v of tokens (B, T, D), and the grid of k and v."""
    if self.sr_ratio == 1:
      return *self.project.heads(x), grid
    maps = self.reduce(x.reshape(x.shape[0], *grid, -1))
    reduced = maps.reshape(x.shape[0], -1, x.shape[-1])
    key, value = self.project.key(reduced), self.project.value(reduced)
    return self.project.query(x), key, value, maps.shape[1:3]

  def _mix(self, q, k, v, grid, small, moved):
    length = None if moved is None else moved.real.sum(axis=1)
    gather = spread = None
    if self.agent_bias:
      gather = self.gather(small, length)
      spread = self.spread(grid, length)
      if self.class_token:
        own = (bias[...][None, ..., None] for bias in self.class_biases)
        gather, spread = (
          jnp.concatenate([first, rest], axis=-1)
          for first, rest in zip(own, (gather, spread))
        )
      spread = spread.swapaxes(2, 3)
    return attend(
      q,
      k,
      v,
      self._agents(q[:, self.class_token :], grid, length),
      gather_bias=gather,
      spread_bias=spread,
      padding=None if moved is None else moved.real,
      impl=self.impl,
    )

  def _agents(self, q, grid, length):
    """Averages of q (B, T, N, H) over the cells, (B, A, N, H)."""
    if len(grid) == 1:
      mean = resample.bins(self.sides[0], grid[0], length)
      mean = jnp.broadcast_to(mean, (q.shape[0], *mean.shape[1:]))
      out = jnp.einsum("bpt,btnh->bpnh", mean, q.astype(wide(q)))
    else:
      rows, columns = (resample.bins(p, s)[0] for p, s in zip(self.sides, grid))
      points = q.reshape(q.shape[0], *grid, *q.shape[2:]).astype(wide(q))
      out = jnp.einsum("py,rx,byxnh->bprnh", rows, columns, points)
      out = out.reshape(q.shape[0], -1, *q.shape[2:])
    return out.astype(q.dtype)

  def _convolve(self, v, grid, small, moved):
    v = jnp.repeat(v, self.out.kernel.shape[0] // v.shape[2], axis=2)
    v = v.reshape(*v.shape[:2], -1)
    first, v = v[:, : self.class_token], v[:, self.class_token :]
    maps = v.reshape(v.shape[0], *small, -1)
    if small != grid:
      rows, columns = (resample.linear(s, p)[0] for s, p in zip(grid, small))
      maps = jnp.einsum("yp,xr,bprc->byxc", rows, columns, maps).astype(v.dtype)
    ids = None if moved is None else jnp.where(moved.real, 0, -1)
    out = self.convolution(maps, ids).reshape(v.shape[0], -1, v.shape[-1])
    return jnp.concatenate([jnp.zeros_like(first), out], axis=1)

  def _check(self, x, segment_ids, padding):
    axes = 2 if self.form == "image" else 1
    if x.ndim != axes + 2:
      raise ValueError(
        f"x has the shape {x.shape}; form {self.form!r} takes {axes + 2} axes"
      )
    if segment_ids is not None:
      raise NotImplementedError("segment_ids: agents are of a whole sequence")
    if padding is not None and len(self.grid) == 2:
      raise NotImplementedError("padding: a grid has none")
    tokens = math.prod(self.grid) + self.class_token
    if self.class_token and x.shape[1] != tokens:
      raise ValueError(
        f"{x.shape[1]} tokens; grid {self.grid} has {tokens} with its own"
      )
    if self.window and any(side % self.window for side in x.shape[1:3]):
      raise ValueError(f"windows of side {self.window} do not tile {x.shape[1:3]}")


def _check(form, axes, sides, agents, sr_ratio, window, class_token):
  if form == "sequence" and (sr_ratio > 1 or window):
    raise ValueError(f"sr_ratio = {sr_ratio}, window = {window}: for images only")
  if form == "image" and class_token:
    raise ValueError("class_token = True: for sequences only")
  if axes == 2 and math.isqrt(agents) ** 2 != agents:
    raise ValueError(f"agents = {agents}: on a grid their number is a square")
  if len(sides) != axes:
    raise ValueError(f"grid = {sides} must have {axes} sides")
