"""The cache policy: pooled keys beside the cache, and the best blocks at each step."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import budgets
from attnjax.core.policies import Choice, News, Past
from attnjax.variants.decode.kinetics import selection


@dataclasses.dataclass(frozen=True)
class Policy:
  """Block top-k as a cache policy; see `attnjax.contract.forms.policy`.

  Attributes:
    blocks: k, blocks that a query reads; 0 for the first and last tokens alone.
    block: s, tokens of a block; 1 for top-k of tokens.
    local: w, last tokens, the new one among them.
    sink: first tokens.
    dense_layers: layers that read everything.
  """

  blocks: int = 64
  block: int = 16
  local: int = 256
  sink: int = 4
  dense_layers: tuple[int, ...] = (0,)

  def __post_init__(self):
    if self.blocks < 0 or self.block < 1 or self.local < 1 or self.sink < 0:
      raise ValueError(
        f"blocks = {self.blocks}, block = {self.block}, local = {self.local}, sink ="
        f" {self.sink}: at least 0, 1, 1 (the new token) and 0"
      )

  def fitted(self, layers: int) -> "Policy":
    """Returns the policy for a model.

    Raises:
      ValueError: if the model lacks a dense layer.
    """
    missing = [layer for layer in self.dense_layers if not 0 <= layer < layers]
    if missing:
      raise ValueError(f"dense_layers {missing} of a model of {layers} layers")
    return self

  def of_fraction(self, fraction: float, length: int) -> "Policy":
    """Returns the policy with blocks and tokens that are a share of a row's keys.

    The local tokens keep their share of the budget. Blocks become smaller where they
    would be more than a sixteenth of it, and so do the first tokens.
    """
    keys = budgets.keys(fraction, length)
    block, sink = min(self.block, max(keys // 16, 1)), min(self.sink, keys // 16)
    whole = self.sink + self.local + self.blocks * self.block
    local = max(keys * self.local // whole, 1)
    # The last tokens that fill no block are read as well.
    blocks = (keys - sink - local - (block - 1)) // block
    if fraction == 1:
      blocks = -(-length // block)
    sizes = {"block": block, "sink": sink, "local": local, "blocks": max(blocks, 0)}
    return dataclasses.replace(self, **sizes)

  def init(self, batch: int, length: int, heads: int, size: int, dtype: Any) -> Any:
    """Returns the sums of the keys of each block, float32 (B, P, K, H)."""
    del dtype
    count = max((length - self.sink) // self.block, 0)
    return jnp.zeros((batch, count, heads, size), jnp.float32)

  def start(self, batch: int, length: int) -> Any:
    """Returns nothing: layers choose alone."""
    del batch, length
    return ()

  def observe(self, own: Any, news: News) -> Any:
    """Returns the sums with the keys of new tokens."""
    own = jnp.where(news.fresh[:, None, None, None], 0.0, own)
    P = own.shape[1]
    where = jnp.where(
      news.places < self.sink, P, (news.places - self.sink) // self.block
    )
    rows = jnp.arange(len(where))[:, None]
    return own.at[rows, where].add(news.k.astype(own.dtype), mode="drop")

  def choose(
    self, q: Float[Array, "B N H"], past: Past, own: Any, shared: Any, index: Any
  ) -> tuple[Choice, Any, Any]:
    """Returns the places of each key head's best blocks."""
    scores = selection.block_scores(q, own / self.block)
    sizes = {n: getattr(self, n) for n in ("blocks", "block", "local", "sink")}
    places, real = selection.select_blocks(scores, past.count, **sizes)
    dense = jnp.asarray(index)[None] == jnp.asarray((*self.dense_layers, -1))
    return Choice(places, real, dense.any()), own, shared

  def reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns keys that a query reads: attended to, and pooled ones, in all layers."""
    dense = len(self.dense_layers)
    sizes = self.blocks, self.block, self.local, self.sink
    if places <= selection.applies_above(*sizes):
      return float(layers * places), 0.0
    count = (places - self.local - self.sink) // self.block
    some = places - max(count - self.blocks, 0) * self.block
    return float(dense * places + (layers - dense) * some), float(
      (layers - dense) * count
    )
