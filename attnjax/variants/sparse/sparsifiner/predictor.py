"""The connectivity predictor: a low-rank approximation of the attention weights."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnjax.variants.sparse.sparsifiner import connectivity

_INIT = nnx.initializers.truncated_normal(0.02)


class ConnectivityPredictor(nnx.Module):
  """The approximate attention weights of each head, from its queries and keys.

  All heads share the parameters.

  Args:
    grid: sides of the grid of tokens for which the tables are; tables of other grids
      are interpolated.
    head_dim: H.
    first: tokens before the grid (the class token).
    reduce_n: number of tokens to one reduced token.
    reduce_c: number of channels to one reduced channel.
    tie: whether one table reduces the tokens and expands them again.
    top: coefficients of a row that are kept, when sparse.
    threshold: of the expanding table's magnitudes, when sparse.
    rngs: for the parameters.
  """

  def __init__(
    self,
    grid: tuple[int, ...],
    head_dim: int,
    *,
    first: int = 0,
    reduce_n: int = 6,
    reduce_c: int = 2,
    tie: bool = False,
    top: int = 8,
    threshold: float = 0.02,
    rngs: nnx.Rngs,
  ):
    tokens = first + math.prod(grid)
    reduced, size = max(1, tokens // reduce_n), max(1, head_dim // reduce_c)
    self.query = nnx.Linear(head_dim, size, rngs=rngs)
    self.key = nnx.Linear(head_dim, size, rngs=rngs)
    self.down = nnx.Param(_INIT(rngs.params(), (tokens, reduced)))
    if not tie:
      self.up = nnx.Param(_INIT(rngs.params(), (tokens, reduced)))
    self.tie, self.grid, self.first = tie, grid, first
    self.top, self.threshold = top, threshold

  def factors(
    self,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    grid: tuple[int, ...] = (),
    *,
    sparse: bool = True,
    valid: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B R N h"], Float[Array, "B m N h"], Float[Array, "m T"]]:
    """Returns reduced queries, the keys of reduced tokens, and the expanding table.

    Args:
      q: queries; those of the first tokens are left out.
      k: keys.
      grid: sides of the grid of tokens; `self.grid` if ().
      sparse: whether the table holds a few magnitudes, or all entries and their signs:
        this form is trained.
      valid: True at the tokens that are not pruned; others count as 0.
    """
    query, key = self.query(q), self.key(k)
    if valid is not None:
      query, key = (jnp.where(valid[..., None, None], y, 0) for y in (query, key))
    key = connectivity.reduced(key, self._table(self.down, grid))
    up = self._table(self.down if self.tie else self.up, grid).T
    if sparse:
      shrunk = self.down.shape[0] / up.shape[1]
      up = connectivity.sparse_basis(up, self.threshold * shrunk)
    return query[:, self.first :], key, up

  def coefficients(
    self, q, k, grid=(), *, sparse: bool = True, valid=None
  ) -> Float[Array, "B N R m"]:
    """Returns the weights of each query after the first on the reduced tokens.

    If sparse, only the greatest of each row are not 0. Arguments as in `factors`.
    """
    query, key, _ = self.factors(q, k, grid, sparse=sparse, valid=valid)
    weight = connectivity.coefficients(query, key)
    return connectivity.sparse_coefficients(weight, self.top) if sparse else weight

  def scores(
    self, q, k, grid=(), *, sparse: bool = True, valid=None
  ) -> Float[Array, "B N R T"]:
    """Returns the approximate weights; arguments as in `factors`.

    If sparse, they are the product of a few coefficients and the magnitudes of a few
    table entries; otherwise of all, with their signs.
    """
    given = {"sparse": sparse, "valid": valid}
    weight = self.coefficients(q, k, grid, **given)
    return weight @ self.factors(q, k, grid, **given)[2].astype(weight.dtype)

  def _table(self, table, grid) -> jax.Array:
    return connectivity.resized(table[...], self.grid, grid or self.grid, self.first)
