"""The policy: a prompt sees selected blocks, and later tokens see everything."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax.core.dense_after_prompt import DenseAfterPrompt
from attnjax.core.masks import Mask
from attnjax.variants.sparse.sale import attention, quantizer, selection
from attnjax.variants.sparse.sale.regions import Sizes


@dataclasses.dataclass(frozen=True)
class Policy(DenseAfterPrompt):
  """SALE as a policy; see `attnjax.contract.forms.policy`.

  The prompt says how many blocks pass `tau`: the policy takes no budget as a share of
  the keys. Comparisons at equal costs sweep `tau`.

  Attributes:
    tau: for all heads; or a tuple for each layer of a number for each head, as
      `calibration.table` returns it.
    block_q: as in `select`, and so are the next five.
    block_k: keys of a block.
    local: last keys that are seen anyway.
    segment: multiple of the candidates.
    bits: of the codes.
    granularity: of the codes' scales.
    dense_length: tokens up to which a prompt is dense, 1024 in the released code.
    dense_layers: first layers, which are dense.
    impl: of the selection, as in `select`.
  """

  tau: float | tuple[tuple[float, ...], ...] = 0.004
  block_q: int = 64
  block_k: int = 32
  local: int = 128
  segment: int = 128
  bits: int = 4
  granularity: str = "token"
  dense_length: int = 1024
  dense_layers: int = 0
  impl: str = "auto"

  def __post_init__(self):
    quantizer.check(self.bits, self.granularity, self.sizes.block_k)
    if min(np.min(self.tau), self.dense_length, self.dense_layers) < 0:
      raise ValueError(
        f"tau = {self.tau}, dense_length = {self.dense_length}, dense_layers ="
        f" {self.dense_layers}: 0 or more each"
      )

  @property
  def sizes(self) -> Sizes:
    """Returns the sizes of blocks, checked."""
    return Sizes(self.block_q, self.block_k, self.local, self.segment)

  def fitted(self, layers: int) -> "Policy":
    """Returns the policy for a model.

    Raises:
      ValueError: if `tau` is a table of another number of layers.
    """
    if isinstance(self.tau, tuple) and len(self.tau) != layers:
      raise ValueError(f"tau of {len(self.tau)} layers for a model of {layers}")
    return self

  def prefill(
    self,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    count: Int[Array, "B"],
    index: Any,
  ) -> Mask:
    """Returns the blocks of keys that each block of the prompt's queries sees."""
    chosen = selection.select(
      q,
      k,
      tau=self._tau(q.shape[2], count, index),
      lengths=count,
      bits=self.bits,
      granularity=self.granularity,
      impl=self.impl,
      **dataclasses.asdict(self.sizes),
    )
    return attention.listed(chosen, self.sizes, q.shape[1])

  def _tau(self, heads: int, count, index) -> Float[Array, "B N"]:
    """Returns the thresholds of a layer's prompts, 0 where they are dense.

    Raises:
      ValueError: if `tau` is a table of another number of heads.
    """
    tau = jnp.asarray(self.tau, jnp.float32)
    tau = tau[index] if tau.ndim else jnp.full((heads,), tau)
    if tau.shape != (heads,):
      raise ValueError(f"tau of {tau.shape[0]} heads for a layer of {heads}")
    dense = (count <= self.dense_length)[:, None] | (
      jnp.asarray(index) < self.dense_layers
    )
    return jnp.where(dense, 0.0, tau)
