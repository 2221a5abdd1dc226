"""Feed-forward blocks, applied to each token on its own."""

from typing import Any

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
    return self.parts(x)["output"]

  def parts(self, x: Float[Array, "*B D"]) -> dict[str, Array]:
    """Returns all values in the block by name, see `parts`."""
    gate, up = self.gate(x), self.up(x)
    active = jax.nn.silu(gate)
    found = {"input": x, "gate": gate, "up": up, "active": active}
    return _down(self, found, active * up)


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
    return self.parts(x)["output"]

  def parts(self, x: Float[Array, "*B D"]) -> dict[str, Array]:
    """Returns all values in the block by name, see `parts`."""
    gate, up = self.gate(x), self.up(x)
    return _down(self, {"input": x, "gate": gate, "up": up}, gate * up)


class GELU(nnx.Module):
  """down(gelu(up x)) with biases, as in the Vision Transformer."""

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    self.up = nnx.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the block's output, without the residual."""
    return self.parts(x)["output"]

  def parts(self, x: Float[Array, "*B D"]) -> dict[str, Array]:
    """Returns all values in the block by name, see `parts`."""
    up = self.up(x)
    return _down(self, {"input": x, "up": up}, jax.nn.gelu(up))


def parts(mlp: Any, x: Float[Array, "*B D"]) -> dict[str, Array]:
  """Returns the values in an MLP: "input" x and "output" y, both (*B, D), and others.

  The MLPs of this module also show, each (*B, F): "gate" and "up", the projections;
  "active", the activation of the gate, where both are; "inner", the input of the
  projection back. Others show them by a method `parts` alike.
  """
  return mlp.parts(x) if hasattr(mlp, "parts") else {"input": x, "output": mlp(x)}


def _down(mlp, found, inner):
  return found | {"inner": inner, "output": mlp.down(inner)}


KINDS = {"swiglu": SwiGLU, "sglu": SGLU, "gelu": GELU}
