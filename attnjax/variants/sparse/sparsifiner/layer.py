"""The layer: projections, the predictor, and attention to the keys it chooses."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import projections
from attnjax.ops import self_attention
from attnjax.variants.sparse.sparsifiner import connectivity, predicted
from attnjax.variants.sparse.sparsifiner.attention import IMPLEMENTATIONS
from attnjax.variants.sparse.sparsifiner.predictor import ConnectivityPredictor

FORMS = ("sequence", "image")
MODES = ("sparse", "reconstruct")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Left:
  """The tokens that a network has not pruned: see `Layer.pruned`.

  Attributes:
    valid: (B, T), True at these and at the class token; None for all.
    grid: sides of the grid of a sequence's tokens; () for a row of them.
    share: the greatest share of keys that a query may see.
  """

  valid: Any = None
  grid: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
  share: float = dataclasses.field(default=1.0, metadata={"static": True})


class Layer(nnx.Module):
  """DeiT's attention with predicted connectivity; x (B, T, D) or (B, H, W, D).

  A loss of the model's output has no gradient in the predictor. With `distill` the
  predictor learns the layer's own softmax weights, by a loss that exists in the
  backward pass only and reaches no other parameter. `reconstruction` takes a teacher's
  weights.

  Args:
    dim: D.
    form: "sequence" or "image".
    layers: number of the model's layers, over which the loss is averaged.
    heads: N.
    head_dim: H; dim / heads if 0.
    grid: sides of the images for which the predictor's tables are (their product: the
      tokens of a sequence without the class token); tables of others are interpolated,
      those of a sequence along it.
    class_token: whether token 0 of a sequence sees all and is not predicted.
    kind: "sparse", or "reconstruct": attention stays dense while the predictor learns.
    keep_ratio: as in `attend`.
    reduce_n: as in `ConnectivityPredictor`.
    reduce_c: as in `ConnectivityPredictor`.
    tie: as in `ConnectivityPredictor`.
    top: as in `ConnectivityPredictor`.
    threshold: as in `ConnectivityPredictor`.
    distill: weight of the predictor's loss in the gradient; none if 0.
    qkv_bias: of the projections to queries, keys and values.
    out_bias: of the projection of all heads' results.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    layers: int = 1,
    heads: int = 4,
    head_dim: int = 0,
    grid: Sequence[int] = (14, 14),
    class_token: bool = False,
    kind: str = "sparse",
    keep_ratio: float = 0.25,
    reduce_n: int = 6,
    reduce_c: int = 2,
    tie: bool = False,
    top: int = 8,
    threshold: float = 0.02,
    distill: float = 0.002,
    qkv_bias: bool = True,
    out_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS), kind=(kind, MODES), impl=(impl, ("auto", *IMPLEMENTATIONS))
    )
    if form == "image" and (class_token or len(grid) != 2):
      raise ValueError(
        f"grid = {grid}, class_token = {class_token}; form 'image' takes (H, W), False"
      )
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=qkv_bias, rngs=rngs
    )
    self.predictor = ConnectivityPredictor(
      tuple(grid),
      size,
      first=int(class_token),
      reduce_n=reduce_n,
      reduce_c=reduce_c,
      tie=tie,
      top=top,
      threshold=threshold,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, bias=out_bias, rngs=rngs)
    self.form, self.kind, self.keep_ratio = form, kind, keep_ratio
    self.impl, self.distill = impl, distill / layers

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    reason = "the predictor's tables are of all tokens of a sequence, in their places"
    return dict.fromkeys(("segment_ids", "valid", "positions"), reason)

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of every token in row-major order."""
    return self_attention.heads(
      x, context, self.qkv, form=self.form, refuses=self.refuses
    )

  def mix(self, heads: Heads) -> Float[Array, "B T N H"]:
    """Returns attention to the predicted keys; dense for the kind "reconstruct"."""
    q, k, v = heads.q, heads.k, heads.v
    if self.kind == "reconstruct":
      return attention.attend(q, k, v, impl=self.impl)[0]
    factors = self._factors(jax.lax.stop_gradient(heads), sparse=True)
    given: dict[str, Any] = {"valid": _left(heads).valid}
    given |= {
      "keep_ratio": self.kept(heads),
      "top": self.predictor.top,
      "whole": True,
      "impl": self.impl,
    }
    return predicted.attend_predicted(q, k, v, *factors, **given)

  def scores(self, heads: Heads) -> Float[Array, "B N R T"]:
    """Returns the predicted weights, by which keys are chosen."""
    return self._scores(jax.lax.stop_gradient(heads), sparse=True)

  def kept(self, heads: Heads) -> float:
    """Returns the share of keys that a query sees; not more than tokens are left."""
    return min(self.keep_ratio, _left(heads).share)

  def pruned(self, heads: Heads, left: Left) -> Heads:
    """Returns heads that are 0 at pruned tokens, and know the grid of the tokens."""
    given = heads.q, heads.k, heads.v
    if left.valid is not None:
      given = (jnp.where(left.valid[..., None, None], y, 0) for y in given)
    q, k, v = given
    return dataclasses.replace(heads, q=q, k=k, v=v, more={"left": left})

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection of all heads' outputs, in the shape of the input.

    Its backward pass adds the gradient of the predictor's loss.
    """
    x = heads.tokens.x
    if self.distill:
      given = jax.lax.stop_gradient(heads)
      loss = self._own_loss(given)
      out = connectivity.also_minimise(out, self.distill * loss)
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def reconstruction(
    self,
    x: Float[Array, "B *S D"],
    weights: Float[Array, "B N T T"] | None = None,
  ) -> Float[Array, ""]:
    """Returns the summed squared error of the predicted weights.

    The class token's row is left out.

    Args:
      x: the layer's input.
      weights: a teacher's weights; if None the layer's own, which then have a gradient.
    """
    heads = self.project(x)
    return self._own_loss(heads) if weights is None else self._loss(heads, weights)

  def _scores(self, heads, sparse):
    """Returns the predictor's weights."""
    return self._predict(self.predictor.scores, heads, sparse)

  def _factors(self, heads, sparse):
    """Returns what `predicted.attend_predicted` takes for the predictor's weights."""
    return self._predict(self.predictor.factors, heads, sparse)

  def _predict(self, function, heads, sparse):
    """Calls the predictor, whose tables are resampled to the grid of the tokens."""
    x, left = heads.tokens.x, _left(heads)
    whole = (x.shape[1] - self.predictor.first,)
    grid = x.shape[1:-1] if self.form == "image" else left.grid or whole
    return function(heads.q, heads.k, grid, sparse=sparse, valid=left.valid)

  def _own_loss(self, heads):
    """Returns `_loss` of the layer's own weights, without an array of all of them."""
    first, valid = self.predictor.first, _left(heads).valid
    valid = None if valid is None else valid[:, first:]
    factors = self._factors(heads, sparse=False)
    given = heads.q[:, first:], heads.k, *factors
    return predicted.reconstruction(*given, valid=valid)

  def _loss(self, heads, weights):
    guess, first = self._scores(heads, sparse=False), self.predictor.first
    weights, valid = weights[:, :, first:], _left(heads).valid
    if valid is not None:  # rows of pruned tokens are not learned
      rows = valid[:, None, first:, None]
      guess, weights = (jnp.where(rows, y, 0) for y in (guess, weights))
    return connectivity.reconstruction(guess, weights)


def _left(heads: Heads) -> Left:
  return heads.more.get("left", Left())
