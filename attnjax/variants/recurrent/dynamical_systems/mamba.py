"""The selective state spaces: S6 (Mamba) and SSD (Mamba-2)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn.linear import linear
from attnjax.variants.recurrent.dynamical_systems import builders
from attnjax.variants.recurrent.dynamical_systems.projections import (
  Convolution,
  log_spaced,
)

SLOWEST, FASTEST = 1e-3, 0.1  # delta at the start


class S6(nnx.Module):
  """Mamba's block: y = W_out (S6(silu(conv u)) * silu(z)), (u, z) = W_in x."""

  def __init__(self, dim: int, *, expand: float, state: int, conv: int, rngs: nnx.Rngs):
    size, rank = round(expand * dim), math.ceil(dim / 16)
    self.input = linear(dim, (2, size), bias=False, rngs=rngs)
    self.conv = Convolution(size, conv, rngs=rngs)
    self.select = linear(size, rank + 2 * state, bias=False, rngs=rngs)
    self.delta = linear(rank, size, rngs=rngs)
    steps = log_spaced(rngs.params(), size, SLOWEST, FASTEST)
    self.delta.bias = nnx.Param(steps)
    self.log_a = nnx.Param(
      jnp.log(jnp.broadcast_to(jnp.arange(1.0, state + 1), (size, state)))
    )
    self.skip = nnx.Param(jnp.ones(size))
    self.output = linear(size, dim, bias=False, rngs=rngs)
    self.rank, self.state = rank, state

  @property
  def state_shape(self) -> tuple[int, int, int]:
    """Returns (N, H, E), the shape of one sequence's state."""
    return 1, self.state, self.skip.shape[0]

  def init_cache(self, batch: int, dtype):
    """Returns the convolution's empty cache."""
    return self.conv.init_cache(batch, dtype)

  def drive(self, x: Float[Array, "B T D"], cache, segment_ids):
    """Returns (system, the values that drive it, the gate, the convolution's cache)."""
    u, gate = jnp.unstack(self.input(x), axis=-2)
    u, cache = self.conv.step(u, cache, segment_ids)
    u = jax.nn.silu(u)
    rank, b, c = jnp.split(self.select(u), [self.rank, self.rank + self.state], axis=-1)
    dtype = accumulator_dtype(u)
    delta = jax.nn.softplus(self.delta(rank).astype(dtype))
    a = -jnp.exp(self.log_a[...].astype(dtype))
    system = builders.s6(delta, a, b.astype(dtype), c.astype(dtype), self.skip[...])
    return system, u.astype(dtype)[:, :, None], gate, cache

  def finish(self, out, rest):
    """Projects the gated system output (B, T, 1, E) to (B, T, D)."""
    return self.output(out[:, :, 0] * jax.nn.silu(rest))


class SSD(nnx.Module):
  """Mamba-2's block: one delta and decay for each head, a norm after the gate.

  If `bare`, it has neither convolution with its silu, nor gate, nor norm.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    expand: float,
    state: int,
    conv: int,
    bare: bool = False,
    rngs: nnx.Rngs,
  ):
    size = round(expand * dim)
    if size % heads:
      raise ValueError(f"expand * dim = {size} does not divide by heads = {heads}")
    inner = size + 2 * state
    self.gate = None if bare else linear(dim, size, bias=False, rngs=rngs)
    self.input = linear(dim, inner, bias=False, rngs=rngs)
    self.conv = None if bare else Convolution(inner, conv, rngs=rngs)
    self.delta = linear(dim, heads, rngs=rngs)
    steps = log_spaced(rngs.params(), heads, SLOWEST, FASTEST)
    self.delta.bias = nnx.Param(steps)
    self.log_a = nnx.Param(
      jnp.log(jax.random.uniform(rngs.params(), (heads,), minval=1, maxval=16))
    )
    self.skip = nnx.Param(jnp.ones(heads))
    self.norm = None if bare else nnx.RMSNorm(size, epsilon=1e-5, rngs=rngs)
    self.output = linear(size, dim, bias=False, rngs=rngs)
    self.heads, self.size, self.state = heads, size, state

  @property
  def state_shape(self) -> tuple[int, int, int]:
    """Returns (N, H, E), the shape of one sequence's state."""
    return self.heads, self.state, self.size // self.heads

  def init_cache(self, batch: int, dtype):
    """Returns the convolution's empty cache, () if there is no convolution."""
    return () if self.conv is None else self.conv.init_cache(batch, dtype)

  def drive(self, x: Float[Array, "B T D"], cache, segment_ids):
    """Returns (system, the values that drive it, the gate, the convolution's cache)."""
    u = self.input(x)
    if self.conv is not None:
      u, cache = self.conv.step(u, cache, segment_ids)
      u = jax.nn.silu(u)
    dtype = accumulator_dtype(u)
    v, b, c = jnp.split(u.astype(dtype), [self.size, self.size + self.state], axis=-1)
    delta = jax.nn.softplus(self.delta(x).astype(dtype))
    a = -jnp.exp(self.log_a[...].astype(dtype))
    system = builders.ssd(delta, a, b, c, self.skip[...])
    gate = None if self.gate is None else self.gate(x)
    return system, v.reshape(*x.shape[:2], self.heads, -1), gate, cache

  def finish(self, out, rest):
    """Projects the gated, normalised system output (B, T, N, E) to (B, T, D)."""
    y = out.reshape(*out.shape[:2], -1)
    return self.output(y if self.norm is None else self.norm(y * jax.nn.silu(rest)))
