"""The metric learner: from a density of queries to the operator between q and k."""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from attnjax.core.exported import serializable
from attnjax.nn.transformer import layer_norm
from attnjax.variants.softmax.power_law_graph.attention import power_law

INIT = nnx.initializers.xavier_uniform()


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metric:
  """The deductive outputs of a layer, each (*B, N, H, H) in float32.

  Attributes:
    learned: A, the result of the residual units.
    metric: A_LM, positive.
    potential: A_P.
    curvature: G_LM, the operator between queries and keys.
  """

  learned: Any
  metric: Any
  potential: Any
  curvature: Any


class GatedUnit(nnx.Module):
  """W3 (silu(W1 x + b1) * (W2 x + b2)) + b3, dim to hidden to dim.

  Args:
    dim: D.
    hidden: width between the projections.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
    sizes = (dim, hidden), (dim, hidden), (hidden, dim)
    self.gate, self.up, self.down = (
      nnx.Linear(*pair, kernel_init=INIT, rngs=rngs) for pair in sizes
    )

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns the unit's output, without a residual."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class ResidualUnit(nnx.Module):
  """norm(x + gated units in turn), over the last axis.

  Args:
    dim: H.
    hidden: of the gated units.
    gated_units: number of them.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, hidden: int, gated_units: int, *, rngs: nnx.Rngs):
    units = [GatedUnit(dim, hidden, rngs=rngs) for _ in range(gated_units)]
    self.units = nnx.List(units)
    self.norm = layer_norm(dim, 1e-6, rngs=rngs)

  def __call__(self, x: Float[Array, "*B H"]) -> Float[Array, "*B H"]:
    """Returns the unit's output."""
    y = x
    for unit in self.units:
      y = unit(y)
    return self.norm(x + y)


class PowerLawMetric(nnx.Module):
  """Maps the density q^T q of each head to its Metric.

  arXiv:2410.16703, section 2. Norms and residual units act on the rows of the density
  and are shared by the heads; the power law has parameters for each head.

  Args:
    head_dim: H.
    heads: N.
    hidden: width of the gated units; 8/3 H, rounded down, if 0.
    residual_units: number of residual units.
    gated_units: gated units of each residual unit.
    rngs: for the parameters.
  """

  def __init__(
    self,
    head_dim: int,
    heads: int,
    *,
    hidden: int,
    residual_units: int,
    gated_units: int,
    rngs: nnx.Rngs,
  ):
    if residual_units < 0 or gated_units < 1:
      raise ValueError(
        f"residual_units = {residual_units}, gated_units = {gated_units}: at least 0"
        " and 1"
      )
    hidden = hidden or 8 * head_dim // 3
    shape = heads, head_dim, head_dim
    # PyTorch's Xavier takes N H^2 as fan out, and H^2 as fan in.
    init = nnx.initializers.normal(math.sqrt(2 / (head_dim**2 + heads * head_dim)))
    zeros = nnx.initializers.zeros
    self.norm = layer_norm(head_dim, 1e-6, rngs=rngs)
    self.residual = nnx.List(
      [
        ResidualUnit(head_dim, hidden, gated_units, rngs=rngs)
        for _ in range(residual_units)
      ]
    )
    self.weight, self.power, self.coupling = (
      nnx.Param(init(rngs.params(), shape)) for _ in range(3)
    )
    self.shift, self.coupling_shift = (
      nnx.Param(zeros(rngs.params(), shape)) for _ in range(2)
    )

  def __call__(self, density: Float[Array, "*B N H H"]) -> Metric:
    """Returns the tensors of each head, for a density in float32."""
    learned = self.norm(density)
    for unit in self.residual:
      learned = unit(learned)
    found = power_law(
      learned,
      self.weight[...],
      self.shift[...],
      self.power[...],
      self.coupling[...],
      self.coupling_shift[...],
    )
    return Metric(learned, *found)
