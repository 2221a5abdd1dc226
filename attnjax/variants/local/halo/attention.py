"""`attend` by windows moved to the batch, and its definition on the whole map."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.grids.partition import Halos, Partition
from attnjax.core.scores import Scores

IMPLEMENTATIONS = attention.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B h w N H"],
  k: Float[Array, "B R C K H"],
  v: Float[Array, "B R C K V"],
  *,
  row_table: Float[Array, "L H"] | None = None,
  column_table: Float[Array, "L H"] | None = None,
  block: int = 8,
  halo: int = 3,
  stride: int = 1,
  scale: float | None = None,
  scale_positions: bool = False,
  true_offsets: bool = False,
  mask_padding: bool = False,
  impl: str = "auto",
) -> Float[Array, "B h w N V"]:
  """Computes softmax attention of blocks of queries to the windows around them.

  Args:
    q: queries; with stride s those of every s-th row and column, h = ceil(R / s).
    k: keys; K divides N, query head n uses key head n K // N.
    v: values.
    row_table: L = 2 (block + 2 halo) - 1 vectors, by the row of the key in its window
      less that of the query in its block, plus L div 2. No position if None.
    column_table: vectors for columns, as `row_table` for rows; both or none.
    block: side of a block in keys, b. It need not divide the map, which is padded.
    halo: keys around a block on each side.
    stride: of the queries; it divides `block`.
    scale: of q . k; H^-0.5 if None.
    scale_positions: whether the scores of the tables are scaled too.
    true_offsets: whether, with a stride, the query's row counts in keys; it counts in
      queries in the code that is followed.
    mask_padding: whether keys beyond the map are masked. If not, they are seen as
      zeros.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit, a number is out of range or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  _check(q, k, v, row_table, column_table, block, halo, stride)
  if impl == "reference":
    given = scale, scale_positions, true_offsets, mask_padding
    return reference(q, k, v, row_table, column_table, block, halo, stride, *given)
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  factor, step = scale if scale_positions else 1.0, stride if true_offsets else 1
  tables = _scaled(row_table, column_table, factor, accumulator_dtype(q))
  keys = Halos(k.shape[1:3], block, halo)
  queries = Partition(q.shape[1:3], block // stride)
  return _blocked(q, k, v, tables, queries, keys, step, scale, mask_padding, impl)


def reference(
  q,
  k,
  v,
  row_table=None,
  column_table=None,
  block=8,
  halo=3,
  stride=1,
  scale=None,
  scale_positions=False,
  true_offsets=False,
  mask_padding=False,
):
  """Computes `attend` by its definition: a masked softmax over the whole padded map."""
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  around = [(0, 0), *((halo, -n % block + halo) for n in k.shape[1:3]), (0, 0), (0, 0)]
  inside, index, real = [], [], []
  for axis in (1, 2):
    key = np.arange(sum(around[axis]) + k.shape[axis])
    query = np.arange(q.shape[axis])[:, None]
    # Row of the key in the window of the query's block.
    place = key - query * stride // block * block
    own = query * stride % block if true_offsets else query % (block // stride)
    inside.append((place >= 0) & (place < block + 2 * halo))
    index.append(np.where(inside[-1], place - own, 0) + block + 2 * halo - 1)
    real.append((key >= halo) & (key < halo + k.shape[axis]))
  seen = jnp.asarray(np.kron(*inside)) & (np.kron(*real) | (not mask_padding))
  bias = None
  if row_table is not None and column_table is not None:
    wide = definition.wide(q) * (scale if scale_positions else 1.0)
    rows, columns = row_table[index[0]], column_table[index[1]]
    bias = jnp.einsum("byxnh,yrh->bnyxr", wide, rows)[..., None]
    bias = bias + jnp.einsum("byxnh,xch->bnyxc", wide, columns)[..., None, :]
    bias = bias.reshape(*bias.shape[:2], *seen.shape)
  k, v = (jnp.pad(x, around) for x in (k, v))
  return definition.attention_on_grid(q, k, v, seen, bias=bias, scale=scale)


def _scaled(row_table, column_table, factor, dtype):
  if row_table is None or column_table is None:
    return None
  return [factor * table.astype(dtype) for table in (row_table, column_table)]


def _blocked(q, k, v, tables, queries, keys, step, scale, mask_padding, impl):
  """Computes attention of blocks as a batch, each to its window."""
  cut = queries.split(q), keys.split(k), keys.split(v)
  one, two, three = (x.reshape(-1, *x.shape[2:]) for x in cut)
  if tables is not None:
    one, two = _placed(one, two, [x / scale for x in tables], queries, keys, step)
  seen = None
  if mask_padding:
    seen = jnp.tile(keys.valid(), (q.shape[0], 1))[:, None, None]
  shape = (one.shape[0], one.shape[2], one.shape[1], two.shape[1])
  scores = Scores(masks.conjunction(shape, array=seen))
  out, _ = attention.attend(one, two, three, scores, scale=scale, impl=impl)
  return queries.join(out.reshape(q.shape[0], -1, *out.shape[1:]))


def _placed(q, k, tables, queries, keys, step):
  """Returns queries and keys whose products include the scores of the tables.

  To the queries it appends their products with the vectors of each row and column of
  the window, to the keys the one-hot vectors of their row and column: no array has an
  element for each query and key.
  """
  window, parts = keys.windows[0], []
  at = np.indices(queries.size).reshape(2, -1) * step
  for table, line in zip(tables, at):
    index = np.arange(window) - line[:, None] + window - 1
    parts.append(jnp.einsum("btnh,twh->btnw", q.astype(table.dtype), table[index]))
  q = jnp.concatenate([q, *(part.astype(q.dtype) for part in parts)], axis=-1)
  of = np.indices(keys.windows).reshape(2, -1)
  units = np.concatenate([np.eye(window)[line] for line in of], axis=-1)
  units = jnp.asarray(units, k.dtype)[:, None]
  units = jnp.broadcast_to(units, (*k.shape[:3], units.shape[-1]))
  return q, jnp.concatenate([k, units], axis=-1)


def _check(q, k, v, row_table, column_table, block, halo, stride):
  if block < 1 or halo < 0 or stride < 1 or block % stride:
    raise ValueError(
      f"block = {block}, halo = {halo}, stride = {stride}: block and stride must be"
      " positive, halo not negative, and stride must divide block"
    )
  if (row_table is None) != (column_table is None):
    raise ValueError("row_table and column_table: both or none")
  for name, table in (("row_table", row_table), ("column_table", column_table)):
    want = (2 * (block + 2 * halo) - 1, q.shape[-1])
    if table is not None and table.shape != want:
      raise ValueError(f"{name} {table.shape} must be {want}")
  if k.shape[:-1] != v.shape[:-1]:
    raise ValueError(f"k {k.shape} and v {v.shape} differ in more than their last axis")
  want = tuple(-(-n // stride) for n in k.shape[1:3])
  if q.shape[1:3] != want:
    raise ValueError(f"q {q.shape} must have {want} rows and columns for k {k.shape}")


def _shapes(q, k, N, K, H, V, window=0):
  shapes = {"q": (*q, N, H), "k": (*k, K, H), "v": (*k, K, V)}
  tables = {"row_table": (2 * window - 1, H), "column_table": (2 * window - 1, H)}
  return shapes | (tables if window else {})


CASES = (
  Case(
    "placed",
    _shapes((1, 4, 8), (1, 4, 8), 2, 2, 4, 4, window=6),
    {"block": 4, "halo": 1},
  ),
  Case(
    "one_token",
    _shapes((1, 1, 1), (1, 1, 1), 1, 1, 4, 3),
    {"block": 2, "halo": 1, "mask_padding": True},
  ),
  Case(
    "odd_masked",
    _shapes((1, 4, 5), (1, 4, 5), 3, 1, 3, 5, window=7),
    {"block": 3, "halo": 2, "mask_padding": True, "scale": 0.4},
  ),
  Case(
    "strided",
    _shapes((1, 2, 3), (1, 4, 5), 2, 1, 4, 4, window=6),
    {"block": 4, "halo": 1, "stride": 2, "scale_positions": True},
  ),
)
