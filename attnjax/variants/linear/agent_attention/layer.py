"""The layer: projections and `attend`, with means of the queries as agents."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import resample
from attnjax.nn import projections
from attnjax.nn.depthwise import Depthwise
from attnjax.variants.linear.agent_attention.arrangement import Arrangement, agents
from attnjax.variants.linear.agent_attention.attention import IMPLEMENTATIONS, attend
from attnjax.variants.linear.agent_attention.biases import Biases
from attnjax.variants.linear.agent_attention.reduction import Reduction

FORMS = ("sequence", "image")
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """Projections, agents, biases, `attend` and a convolution of the values.

    agents = average(q) in p x p cells that may overlap, A = p^2
    y = (attend(q, k, v, agents) + convolve3x3(v)) W

  x is (B, H, W, D) or (B, T, D). A sequence is a line of tokens with A cells; with a
  class token, its first token, the others are the points of `grid`: the class token is
  a query and a key, but no part of an agent, and has no convolution. Padding in a
  line has no effect.

  Args:
    dim: D.
    form: "sequence" or "image".
    heads: N.
    kv_heads: K; as many as heads if 0.
    head_dim: H; dim / heads if 0.
    num_agents: A, a square on grids.
    grid: the sides of the biases' parameters, or one number for both sides; on other
      grids the biases are interpolated.
    kernel: side of the values' convolution; none if 0.
    agent_bias: whether there are biases.
    sr_ratio: side and stride of a convolution, with a norm, that reduces x before the
      keys and values, as in the Pyramid Vision Transformer; images only. None if 1.
    window: side of the windows that an image is cut in, as in Swin; they do not see
      each other. Those at the end of an image that they do not tile are smaller, which
      needs sr_ratio = 1. One window if 0, or at least the image.
    shift: row and column at which windows begin, cyclically: as in the official code,
      tokens of opposite borders that share a window see each other. No shift of images
      that have a side of one window.
    class_token: see above; sequences only.
    qkv_bias: of the projections to queries, keys and values.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    kv_heads: int = 0,
    head_dim: int = 0,
    num_agents: int = 9,
    grid: int | Sequence[int] = 7,
    kernel: int = 3,
    agent_bias: bool = True,
    sr_ratio: int = 1,
    window: int = 0,
    shift: int = 0,
    class_token: bool = False,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    axes = 2 if form == "image" or class_token else 1
    sides = (grid,) * axes if isinstance(grid, int) else tuple(grid)
    _check(form, axes, sides, num_agents, sr_ratio, window, class_token)
    if shift and (sr_ratio > 1 or not 0 < shift < window):
      raise ValueError(f"shift = {shift}: below window = {window}, with sr_ratio = 1")
    size = projections.head_size(dim, heads, head_dim)
    kv_heads = kv_heads or heads
    self.qkv = projections.QueryKeyValue(
      dim, heads, kv_heads, size, bias=qkv_bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    if kernel:
      self.convolution = Depthwise(heads * size, kernel, axes=axes, rngs=rngs)
    if agent_bias:
      reduced = tuple(max(side // sr_ratio, 1) for side in sides)
      self.gather = Biases(heads, num_agents, reduced, rngs=rngs)
      self.spread = Biases(heads, num_agents, sides, rngs=rngs)
      if class_token:
        self.class_biases = nnx.List(
          nnx.Param(_INIT(rngs.params(), (heads, num_agents))) for _ in range(2)
        )
    if sr_ratio > 1:
      self.reduce = Reduction(dim, sr_ratio, rngs=rngs)
    self.sides = (math.isqrt(num_agents),) * 2 if axes == 2 else (num_agents,)
    self.form, self.grid, self.class_token = form, sides, int(class_token)
    self.kernel, self.agent_bias, self.sr_ratio = kernel, agent_bias, sr_ratio
    self.window, self.shift, self.impl = window, shift, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.form == "image":
      return {}
    reasons = {
      "segment_ids": "agents are of a whole sequence",
      "positions": "cells and biases are of the places in the row",
    }
    return reasons | ({"valid": "a grid has none"} if self.class_token else {})

  def project(
    self,
    x: Float[Array, "B *S D"],
    *,
    grid: tuple[int, ...] = (),
    **context: Unpack[Context],
  ) -> Heads:
    """Returns the heads (B, *S, N, H) of every token, and the agents.

    Each window has its own agents (b, A, N, H); k and v have the reduced grid as S.
    """
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    points = (grid or self.grid) if self.class_token else ()
    cut = Arrangement.of(tokens, self.window, self.shift, points)
    self._check_size(x, cut)
    few = tokens.x
    if self.sr_ratio > 1:
      few = cut.together(self.reduce(cut.apart(few)))
    q, k, v = self.qkv.query(tokens.x), self.qkv.key(few), self.qkv.value(few)
    found = agents(q, cut, self.sides, self._grid(cut.apart(q), cut))
    return Heads(q, k, v, tokens, more={"agents": found, "cut": cut})

  def mix(self, heads: Heads) -> Float[Array, "B *S N E"]:
    """Returns `attend` of the heads, without the convolution of the values."""
    cut = heads.more["cut"]
    q, k, v = map(cut.apart, (heads.q, heads.k, heads.v))
    gather, spread = self._biases(self._grid(q, cut), self._grid(k, cut), cut.length)
    rows = [y.reshape(y.shape[0], -1, *y.shape[-2:]) for y in (q, k, v)]
    real = cut.real(len(heads.q))
    out = attend(
      *rows,
      agents=heads.more["agents"],
      gather_bias=gather,
      spread_bias=spread,
      valid=None if real is None else real.reshape(len(real), -1),
      impl=self.impl,
    )
    return cut.together(out.reshape(*q.shape[:-1], out.shape[-1]))

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of outputs and convolved values; 0 at padding."""
    x, ids = heads.tokens.x, heads.tokens.ids
    if self.kernel:
      out = out + self._convolved(heads)
    y = self.out(out.astype(x.dtype))
    return y if ids is None else jnp.where((ids >= 0)[..., None], y, 0)

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    grid: tuple[int, ...] = (),
    **context: Unpack[Context],
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output in the shape of x; see `attnjax.contract.forms`.

    Args:
      x: tokens.
      grid: the sides of the points behind a class token, if not those that the
        parameters have.
      **context: see `attnjax.contract.forms.sequence`.
    """
    own: Any = {"grid": grid} if grid else {}
    return contexts.run(self, x, context | own)

  def _grid(self, y, cut) -> tuple[int, ...]:
    """Returns the sides of the grid of heads y (b, *S, N, E)."""
    return cut.grid if self.class_token else y.shape[1:-2]

  def _biases(self, grid, small, length):
    """Returns the biases of the two softmaxes, or (None, None) without `agent_bias`.

    The first is for agents and keys, the second for queries and agents.
    """
    if not self.agent_bias:
      return None, None
    gather, spread = self.gather(small, length), self.spread(grid, length)
    if self.class_token:
      own = (bias[...][None, ..., None] for bias in self.class_biases)
      gather, spread = (
        jnp.concatenate([first, rest], axis=-1)
        for first, rest in zip(own, (gather, spread))
      )
    return gather, spread.swapaxes(2, 3)

  def _convolved(self, heads) -> Array:
    """Returns the convolved values, (B, *S, N, V); 0 at a class token."""
    cut = heads.more["cut"]
    q, v = cut.apart(heads.q), cut.apart(heads.v)
    grid, small = self._grid(q, cut), self._grid(v, cut)
    v = jnp.repeat(v, q.shape[-2] // v.shape[-2], axis=-2)
    v = v.reshape(v.shape[0], -1, math.prod(v.shape[-2:]))
    first, rest = v[:, : self.class_token], v[:, self.class_token :]
    maps = rest.reshape(v.shape[0], *small, -1)
    if small != grid:
      rows, columns = (resample.linear(s, p)[0] for s, p in zip(grid, small))
      maps = jnp.einsum("yp,xr,bprc->byxc", rows, columns, maps).astype(v.dtype)
    out = self.convolution(maps, cut.ids).reshape(v.shape[0], -1, v.shape[-1])
    out = jnp.concatenate([jnp.zeros_like(first), out], axis=1)
    return cut.together(out.reshape(*q.shape[:-1], -1))

  def _check_size(self, x, cut):
    tokens = math.prod(cut.grid) + self.class_token
    if self.class_token and x.shape[1] != tokens:
      raise ValueError(
        f"{x.shape[1]} tokens; grid {cut.grid} has {tokens} with its own"
      )
    if self.sr_ratio > 1 and any(cut.padding):
      raise ValueError(
        f"windows of side {self.window} do not tile {cut.grid}, and sr_ratio > 1"
      )


def _check(form, axes, sides, num_agents, sr_ratio, window, class_token):
  if form == "sequence" and (sr_ratio > 1 or window):
    raise ValueError(f"sr_ratio = {sr_ratio}, window = {window}: for images only")
  if form == "image" and class_token:
    raise ValueError("class_token = True: for sequences only")
  if axes == 2 and math.isqrt(num_agents) ** 2 != num_agents:
    raise ValueError(f"num_agents = {num_agents}: on a grid their number is a square")
  if len(sides) != axes:
    raise ValueError(f"grid = {sides} must have {axes} sides")
