"""Feed-forward blocks, applied to each token on its own."""

import jax
from flax import nnx
from jaxtyping import Array, Float

_INIT = nnx.initializers.lecun_normal()


class SwiGLU(nnx.Module):
  """down(silu(gate x) * up x), no biases.

  Noam Shazeer. GLU Variants Improve Transformer. arXiv:2002.05202, equation 6.
  """

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    def linear(a, b):
      return nnx.Linear(a, b, use_bias=False, kernel_init=_INIT, rngs=rngs)

    self.gate, self.up, self.down = (
      linear(dim, hidden),
      linear(dim, hidden),
      linear(hidden, dim),
    )

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the block's output, without the residual."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class SGLU(nnx.Module):
  """down(gate x * up x) without an activation, no biases: a simple gated linear unit.

  Zhen Qin et al. TransNormerLLM. arXiv:2307.14995, equation 13.
  """

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    ends = (dim, hidden), (dim, hidden), (hidden, dim)
    self.gate, self.up, self.down = (
      nnx.Linear(*pair, use_bias=False, kernel_init=_INIT, rngs=rngs) for pair in ends
    )

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the block's output, without the residual."""
    return self.down(self.gate(x) * self.up(x))


class GELU(nnx.Module):
  """down(gelu(up x)) with biases, as in the Vision Transformer."""

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the block's output, without the residual."""
    return self.down(jax.nn.gelu(self.up(x)))


KINDS = {"swiglu": SwiGLU, "sglu": SGLU, "gelu": GELU}
