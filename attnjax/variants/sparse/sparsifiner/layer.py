"""The layer: projections, the predictor, attention to what it chooses."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax import attention
from attnjax.contract import check_known
from attnjax.core.softmax import wide
from attnjax.nn import projections, unseen
from attnjax.variants.sparse.sparsifiner import connectivity
from attnjax.variants.sparse.sparsifiner.attention import IMPLEMENTATIONS, attend
from attnjax.variants.sparse.sparsifiner.predictor import ConnectivityPredictor

FORMS = ("sequence", "image")
MODES = ("sparse", "reconstruct")


class Layer(nnx.Module):
  """DeiT's attention with predicted connectivity; x (B, T, D) or (B, H, W, D).

  No loss of the model's output teaches the predictor. With `distill` it learns the
  layer's own softmax weights by a loss that only gradients see, and that reaches the
  predictor only; or give `reconstruction` a teacher's weights.

  Args:
    dim: D.
    form: "sequence" or "image".
    layers: of the model, over which the loss is averaged.
    heads: N.
    head_dim: H; dim / heads if 0.
    grid: sides of the images (or, multiplied, tokens of the sequences without the
      class token) for which the predictor's tables are; others get interpolated ones.
    class_token: whether token 0 of a sequence sees all and is not predicted.
    mode: "sparse", or "reconstruct": attention stays dense while the predictor learns.
    keep: as in `attend`.
    reduce_n: as in `ConnectivityPredictor`, as the next four.
    reduce_c: of the channels.
    tie: of the tables.
    top: coefficients.
    threshold: of the basis.
    distill: weight of the predictor's loss in the gradient; none if 0.
    bias: of the projections.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    layers: int = 1,
    heads: int = 4,
    head_dim: int = 0,
    grid: Sequence[int] = (14, 14),
    class_token: bool = False,
    mode: str = "sparse",
    keep: float = 0.25,
    reduce_n: int = 6,
    reduce_c: int = 2,
    tie: bool = False,
    top: int = 8,
    threshold: float = 0.02,
    distill: float = 0.002,
    bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("mode", mode, MODES),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if form == "image" and (class_token or len(grid) != 2):
      raise ValueError(
        f"grid = {grid}, class_token = {class_token}; form 'image' takes (H, W), False"
      )
    size = projections.head_size(dim, heads, head_dim)
    options: dict[str, Any] = {"bias": bias, "rngs": rngs}
    self.project = projections.QueryKeyValue(dim, heads, heads, size, **options)
    self.predictor = ConnectivityPredictor(
      tuple(grid) if form == "image" else (math.prod(grid),),
      size,
      first=int(class_token),
      reduce_n=reduce_n,
      reduce_c=reduce_c,
      tie=tie,
      top=top,
      threshold=threshold,
      rngs=rngs,
    )
    self.out = projections.output(heads, size, dim, **options)
    self.form, self.mode, self.keep = form, mode, keep
    self.impl, self.distill = impl, distill / layers

  @property
  def refuses(self) -> dict[str, str]:
    """What of a context the layer cannot honour, and why."""
    return dict.fromkeys(
      ("segment_ids", "padding"),
      "the predictor's tables are of all tokens of a sequence",
    )

  def __call__(
    self,
    x: Float[Array, "B *S D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B *S D"]:
    """The layer's result, in the shape of x.

    Raises:
      NotImplementedError: for segments and padding: the predictor's tables are of all
        tokens of a sequence. (`attend` takes what token pruning leaves as padding.)
    """
    del positions, index  # nothing depends on them
    if 0 in x.shape:
      return unseen.nothing(self, x)
    q, k, v, grid = self._heads(x, segment_ids, padding)
    out = self._attend(q, k, v, grid)
    if self.distill:
      given = jax.lax.stop_gradient((q, k))
      loss = self._loss(*given, grid, dense_weights(*given))
      out = connectivity.also_minimise(out, self.distill * loss)
    return self.out(out.astype(x.dtype)).reshape(x.shape)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The softmax weights, (B, N, T, T) float32."""
    del positions, index
    q, k, _, grid = self._heads(x, segment_ids, padding)
    eye = projections.identity_values(k)
    return self._attend(q, k, eye, grid).swapaxes(1, 2)

  def reconstruction(
    self,
    x: Float[Array, "B *S D"],
    weights: Float[Array, "B N T T"] | None = None,
  ) -> Float[Array, ""]:
    """The sum of squared errors of the predicted weights, without the class token's.

    Args:
      x: the layer's input.
      weights: a teacher's; the layer's own, which then have a gradient, if None.
    """
    q, k, _, grid = self._heads(x, None, None)
    weights = dense_weights(q, k) if weights is None else weights
    return self._loss(q, k, grid, weights)

  def _heads(self, x, segment_ids, padding) -> tuple[Any, ...]:
    """(q, k, v, grid) of the tokens in a row."""
    axes = FORMS.index(self.form) + 1
    if x.ndim != axes + 2:
      raise ValueError(
        f"x has the shape {x.shape}; form {self.form!r} takes {axes + 2} axes"
      )
    for name, value in (("segment_ids", segment_ids), ("padding", padding)):
      if value is not None:
        raise NotImplementedError(
          f"{name}: the predictor's tables are of all tokens of a sequence"
        )
    first = self.predictor.first
    grid = x.shape[1:-1] if axes == 2 else (x.shape[1] - first,)
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    return *self.project(rows, jnp.arange(rows.shape[1])), grid

  def _attend(self, q, k, v, grid):
    if self.mode == "reconstruct":
      return attention.attend(q, k, v, impl=self.impl)[0]
    guess = self.predictor.scores(*jax.lax.stop_gradient((q, k)), grid)
    return attend(q, k, v, guess, keep=self.keep, impl=self.impl)

  def _loss(self, q, k, grid, weights):
    guess = self.predictor.scores(q, k, grid, sparse=False)
    return connectivity.reconstruction(guess, weights[:, :, self.predictor.first :])


def dense_weights(
  q: Float[Array, "B T N H"], k: Float[Array, "B S N H"]
) -> Float[Array, "B N T S"]:
  """The weights of softmax attention, what the predictor learns; at least float32."""
  score = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=wide(q))
  return jax.nn.softmax(q.shape[-1] ** -0.5 * score, axis=-1)
