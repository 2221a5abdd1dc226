"""A long short-term memory: a recurrent layer whose cell is written by gates.

Felix A. Gers, Jürgen Schmidhuber, Fred Cummins. Learning to Forget. 2000: with a
forget gate and without peepholes, as torch.nn.LSTM and flax have it.

  i, f, g, o = split(x Wx + h Wh + b, 4)
  c' = sigmoid(f) c + sigmoid(i) tanh(g),   h' = sigmoid(o) tanh(c')
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

State = tuple[Array, Array]  # (c, h), float32


class LSTM(nnx.Module):
  """One layer, one direction; cells and states are float32."""

  def __init__(self, inputs: int, hidden: int, *, scale: float = 0.0, rngs: nnx.Rngs):
    """Draws all parameters uniformly.

    Args:
      inputs: width of x.
      hidden: H, width of the state.
      scale: the largest parameter; 0: hidden^-0.5, as torch draws them.
      rngs: for the parameters.
    """
    most = scale or hidden**-0.5

    def uniform(*shape):
      drawn = jax.random.uniform(rngs.params(), shape, jnp.float32, -most, most)
      return nnx.Param(drawn)

    self.hidden = hidden
    self.kernel = uniform(inputs, 4 * hidden)
    self.recurrent = uniform(hidden, 4 * hidden)
    self.bias = uniform(4 * hidden)

  def empty(self, *shape: int) -> State:
    """Returns the state (c, h) before any input: zeros (*shape, H)."""
    zero = jnp.zeros((*shape, self.hidden), jnp.float32)
    return zero, zero

  def step(self, x: Float[Array, "*B I"], state: State) -> State:
    """Returns the state (c, h) after one more input."""
    return self._step(self._read(x), state)

  def __call__(
    self,
    x: Float[Array, "B T I"],
    state: State | None = None,
    *,
    valid: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T H"], State]:
    """Returns h after every input, and the state after the last one.

    Args:
      x: inputs in their order.
      state: before the first one; zeros if None.
      valid: True at the real ones; others, also NaN, leave the state as it is, and h
        is 0 there.
    """
    state = self.empty(x.shape[0]) if state is None else state
    if valid is None:
      valid = jnp.ones(x.shape[:2], bool)
    real = jnp.moveaxis(valid, 1, 0)[..., None]
    read = jnp.moveaxis(self._read(jnp.where(valid[..., None], x, 0)), 1, 0)

    def one(state, given):
      read, real = given
      new_c, new_h = self._step(read, state)
      c, h = jnp.where(real, new_c, state[0]), jnp.where(real, new_h, state[1])
      return (c, h), jnp.where(real, h, 0)

    last, states = jax.lax.scan(one, state, (read, real))
    return jnp.moveaxis(states, 0, 1), last

  def _read(self, x):
    kernel = self.kernel[...]
    read = jnp.matmul(
      x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32
    )
    return read + self.bias[...].astype(jnp.float32)

  def _step(self, read, state):
    c, h = state
    kernel = self.recurrent[...]
    kept = jnp.matmul(
      h.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32
    )
    i, f, g, o = jnp.split(read + kept, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)
