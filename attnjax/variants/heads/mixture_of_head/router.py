"""The router of a layer: the logits of its gates, and the weight of its loss."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.contract import check_options
from attnjax.variants.heads.mixture_of_head import routing
from attnjax.variants.sparse.sparsifiner.connectivity import also_minimise

KINDS = ("linear", "query_norm")
COUNTS = ("token", "example", "batch")
# The bound D^-0.5 of a uniform draw, as of torch's linear maps.
_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Router(nnx.Module):
  """Gates of N heads, the first of them shared; its logits are arrays by name.

  Args:
    dim: D.
    heads: N.
    shared: number of shared heads A; half of N if -1.
    top_k: routed heads that a token takes; half of R = N - A if -1.
    kind: "linear": logits are linear maps of the layer's input; "query_norm": those of
      routed heads are their queries' norms, and nothing is learned.
    quantised: as in `gates`.
    balance: weight of the loss in the gradient; none if 0.
    counted: how often a batch's loss counts: as often as it has real tokens, examples
      with one, or once.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    shared: int = -1,
    top_k: int = -1,
    kind: str = "linear",
    quantised: bool = False,
    balance: float = 0.01,
    counted: str = "token",
    rngs: nnx.Rngs,
  ):
    check_options(kind=(kind, KINDS), counted=(counted, COUNTS))
    A = heads // 2 if shared < 0 else shared
    R = heads - A
    k = (R + 1) // 2 if top_k < 0 else top_k
    if R < 0 or not min(1, R) <= k <= R:
      raise ValueError(
        f"shared = {A}, top_k = {k}; of {heads} heads at most all are shared, and of"
        f" {R} routed ones a token takes {min(1, R)} to {R}"
      )
    if kind == "query_norm" and R < 2:
      raise ValueError(f"kind 'query_norm' compares norms; there are {R} routed heads")
    self.heads, self.shared, self.top_k, self.kind = heads, A, k, kind
    self.quantised, self.balance, self.counted = quantised, balance, counted

    def linear(outputs):
      return nnx.Linear(dim, outputs, use_bias=False, kernel_init=_INIT, rngs=rngs)

    learned = kind == "linear"
    weighed = learned and not quantised
    self.routed_map = linear(R) if learned and R else None
    self.shared_map = linear(A) if weighed and A > 1 else None
    self.balance_map = linear(2) if weighed and A and R else None

  def logits(
    self, x: Float[Array, "B T D"], q: Float[Array, "B T N H"]
  ) -> dict[str, Array | None]:
    """Returns the arguments routed, shared and balance of `gates`.

    Args:
      x: the layer's input.
      q: its queries; a rotation does not change their norms.
    """
    if self.kind == "query_norm":
      routed = routing.query_norms(q[:, :, self.shared :])
    elif self.routed_map is None:
      routed = jnp.zeros((*x.shape[:2], 0), x.dtype)
    else:
      routed = self.routed_map(x)
    maps = {"shared": self.shared_map, "balance": self.balance_map}
    return {"routed": routed} | {
      n: None if f is None else f(x) for n, f in maps.items()
    }

  def gates(self, logits: dict[str, Any]) -> routing.Gates:
    """Returns the gates of all heads."""
    options = {"heads": self.heads, "top_k": self.top_k, "quantised": self.quantised}
    return routing.gates(**logits, **options)

  def loss(
    self, logits: dict[str, Any], ids: Int[Array, "B T"] | None = None
  ) -> Float[Array, ""]:
    """Returns `balance_loss` of the gates; tokens of negative ids count nowhere."""
    valid = None if ids is None else ids >= 0
    return routing.balance_loss(self.gates(logits), valid)

  def learning(
    self, out: Array, logits: dict[str, Any], ids: Int[Array, "B T"] | None = None
  ) -> Array:
    """Returns `out`, whose backward pass adds the gradient of the weighted loss."""
    if not self.balance or self.shared == self.heads:
      return out
    B, T = logits["routed"].shape[:2]
    real = jnp.ones((B, T), bool) if ids is None else ids >= 0
    numbers = {"token": real, "example": real.any(axis=1), "batch": jnp.ones(())}
    number = numbers[self.counted].sum()
    return also_minimise(out, self.balance * number * self.loss(logits, ids))
