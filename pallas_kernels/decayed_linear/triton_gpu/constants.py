"""The compile-time constants of a kernel."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Form:
  """Constants of a kernel.

  Attributes:
    N: query heads.
    K: key/value heads.
    H: size of a head of keys.
    E: size of a head of values.
    chunk: tokens of a chunk.
    chunks: of the sequence.
    span: chunks of a part; the last part in scan order may have fewer.
    tile_h: columns of a tile of queries and keys.
    tile_e: columns of a tile of values.
    scale: multiplies the output.
    precision: of products of float32.
    decay_b, decay_n: the strides of the decays' sums: example b and head n read the
      (high, low) pair b decay_b + n decay_n.
    reverse: whether chunks go from the last to the first, for the gradient by states.
  """

  N: int
  K: int
  H: int
  E: int
  chunk: int
  chunks: int
  span: int
  tile_h: int
  tile_e: int
  scale: float
  precision: str
  decay_b: int
  decay_n: int
  reverse: bool = False

  @property
  def parts(self) -> int:
    """Returns the parts of the sequence, whose states are computed in parallel."""
    return -(-self.chunks // self.span)

  @property
  def tiles_h(self) -> int:
    """Returns the number of tiles of the columns of queries and keys."""
    return -(-self.H // self.tile_h)

  @property
  def tiles_e(self) -> int:
    """Returns the number of tiles of the columns of values."""
    return -(-self.E // self.tile_e)

  @property
  def tokens(self) -> int:
    """Returns the number of tokens, the padding of the last chunk included."""
    return self.chunk * self.chunks

  @property
  def state(self) -> int:
    """Returns the number of elements of a state."""
    return self.H * self.E
