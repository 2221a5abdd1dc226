"""The gated recurrences: RG-LRU, its state-expanded form, and the quasi-LSTM."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn.linear import linear
from attnjax.variants.recurrent.dynamical_systems import builders
from attnjax.variants.recurrent.dynamical_systems.projections import Convolution


class RGLRU(nnx.Module):
  """Hawk's block: (gate, u) = W_in x, y = W_out (gelu(gate) * RG-LRU(conv u))."""

  def __init__(self, dim: int, *, expand: float, conv: int, rngs: nnx.Rngs):
    size = round(expand * dim)
    self.input = linear(dim, (2, size), bias=False, rngs=rngs)
    self.conv = Convolution(size, conv, rngs=rngs)
    self.gates = linear(size, (2, size), rngs=rngs)
    self.base = nnx.Param(_spread(size))
    self.output = linear(size, dim, bias=False, rngs=rngs)

  @property
  def state_shape(self) -> tuple[int, int, int]:
    """Returns (N, H, E), the shape of one sequence's state."""
    return 1, 1, self.base.shape[0]

  def init_cache(self, batch: int, dtype):
    """Returns the convolution's empty cache."""
    return self.conv.init_cache(batch, dtype)

  def drive(self, x: Float[Array, "B T D"], cache, segment_ids):
    """Returns (system, the values that drive it, the gate, the convolution's cache)."""
    gate, u = jnp.unstack(self.input(x), axis=-2)
    u, cache = self.conv.step(u, cache, segment_ids)
    forget, write = jnp.unstack(self.gates(u), axis=-2)
    system = builders.rglru(forget, self.base[...], write)
    return system, _head(u), gate, cache

  def finish(self, out, rest):
    """Projects the gated system output (B, T, 1, E) to (B, T, D)."""
    return self.output(_gelu(rest) * out[:, :, 0])


class SELRU(nnx.Module):
  """RG-LRU with `state` elements for each channel, written and read as in S6."""

  def __init__(self, dim: int, *, state: int, conv: int, rngs: nnx.Rngs):
    self.input = linear(dim, (2, dim), bias=False, rngs=rngs)
    self.conv = Convolution(dim, conv, rngs=rngs)
    self.write_read = linear(dim, (2, state), rngs=rngs)
    self.forget = linear(dim, dim, rngs=rngs)
    self.base = nnx.Param(jnp.tile(_spread(dim), (state, 1)))
    self.output = linear(dim, dim, bias=False, rngs=rngs)

  @property
  def state_shape(self) -> tuple[int, int, int]:
    """Returns (N, H, E), the shape of one sequence's state."""
    state, dim = self.base.shape
    return 1, state, dim

  def init_cache(self, batch: int, dtype):
    """Returns the convolution's empty cache."""
    return self.conv.init_cache(batch, dtype)

  def drive(self, x: Float[Array, "B T D"], cache, segment_ids):
    """Returns (system, the values that drive it, the gate, the convolution's cache)."""
    gate, u = jnp.unstack(self.input(x), axis=-2)
    u, cache = self.conv.step(u, cache, segment_ids)
    b, c = jnp.unstack(self.write_read(u), axis=-2)
    system = builders.selru(self.forget(u), self.base[...], b, c)
    return system, _head(u), gate, cache

  def finish(self, out, rest):
    """Projects the gated system output (B, T, 1, E) to (B, T, D)."""
    return self.output(_gelu(rest) * out[:, :, 0])


class QLSTM(nnx.Module):
  """Quasi-LSTM: the gates see the token, not the state; the state is read linearly."""

  def __init__(self, dim: int, *, expand: float, coupled: bool, rngs: nnx.Rngs):
    size = round(expand * dim)
    self.input = linear(dim, size, rngs=rngs)
    self.gates = linear(dim, (2 if coupled else 3, size), rngs=rngs)
    self.output = linear(size, dim, bias=False, rngs=rngs)
    self.size = size

  @property
  def state_shape(self) -> tuple[int, int, int]:
    """Returns (N, H, E), the shape of one sequence's state."""
    return 1, 1, self.size

  def init_cache(self, batch: int, dtype):
    """Returns (), as there is no convolution."""
    del batch, dtype
    return ()

  def drive(self, x: Float[Array, "B T D"], cache, segment_ids):
    """Returns (system, the values that drive it, None for `finish`, cache)."""
    del segment_ids
    # write, read and, unless coupled, forget
    system = builders.qlstm(*jnp.unstack(self.gates(x), axis=-2))
    return system, _head(self.input(x)), None, cache

  def finish(self, out, rest):
    """Projects the system's output (B, T, 1, E) to (B, T, D)."""
    del rest
    return self.output(out[:, :, 0])


def _head(u) -> Array:
  """Returns (B, T, E) as the values of one head, float32 (float64 for float64)."""
  return u.astype(accumulator_dtype(u))[:, :, None]


def _gelu(x) -> Array:
  return jax.nn.gelu(x, approximate=False)


def _spread(size) -> Array:
  """Returns `base` for decays of 0.999 to 0.9 at sigmoid = 1, as published."""
  base = jnp.log(jnp.expm1(jnp.linspace(0.001, 0.1, size)))
  low, high = base[0], base[-1]
  share = (base - low) / jnp.where(high > low, high - low, 1)
  return -9 + share * (9 - 4.323)
