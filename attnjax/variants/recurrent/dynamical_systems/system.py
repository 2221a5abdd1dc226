"""The common form: its arrays, its definition, its scan and its matrix."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import backends
from attnjax.contract import check_known
from attnjax.core import definition, masks
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import diagonal, linear
from pallas_kernels.calling import BACKENDS

IMPLEMENTATIONS = backends.IMPLEMENTATIONS


def attend(
  v: Float[Array, "B T N E"],
  log_decay: Float[Array, "#B T #N #H #E"],
  write: Float[Array, "#B T #N #H #E"],
  read: Float[Array, "#B T #N #H #E"],
  skip: Float[Array, "#B #T #N #E"] | None = None,
  *,
  initial_state: Float[Array, "B N H E"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  return_state: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes the system's output, (B, T, N, E), and its state if `return_state`.

  Args:
    v: the values that drive the system.
    log_decay: log of Lambda.
    write: B.
    read: C.
    skip: D; None is 0.
    initial_state: the state before the first token; it belongs to its segment.
    segment_ids: a document is a run of equal ids; each one starts from a zero state.
    valid: True at the real tokens. A token that is padding, or has a negative
      segment id, has no effect; its output is 0.
    return_state: also return the state after the last real token, (B, N, H, E), float32
      (float64 for float64).
    impl: one of IMPLEMENTATIONS, or "auto": the fastest that supports the problem on
      this platform. The kernels need one decay a token and head, and neither `write`
      nor `read` of each channel: the kinds linear, normalised and ssd.

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
    NotImplementedError: if the named implementation does not support the problem.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  system = System(log_decay, write, read, skip)
  system.check(v)
  ids = masks.segments(segment_ids, valid, v.shape[:2])
  if impl == "reference":
    given = initial_state, segment_ids, valid, return_state
    return reference(v, log_decay, write, read, skip, *given)
  if ids is not None:
    ids, real = linear.spans(ids)
    system, v = system.without(~real), jnp.where(real[..., None, None], v, 0)
  options = {"initial_state": initial_state, "segment_ids": ids}
  out, state = _scan(impl, v, system, **options)
  out = out if system.skip is None else system.through(out, v)
  return (out, state) if return_state else out


def reference(
  v,
  log_decay,
  write,
  read,
  skip=None,
  initial_state=None,
  segment_ids=None,
  valid=None,
  return_state=False,
):
  """Computes the definition: the recurrence of the state, token by token."""
  (B, T, N, E), kind = v.shape, v.dtype
  document = definition.documents(segment_ids, valid, (B, T))
  real = document >= 0
  begins = real & (
    jnp.arange(T) == (document[:, :, None] == document[:, None]).argmax(2)
  )
  parts = [definition.wide(x) for x in (v, log_decay, write, read)]
  skip = jnp.zeros((1, T, 1, 1)) if skip is None else definition.wide(skip)
  parts.append(jnp.broadcast_to(skip, (skip.shape[0], T, *skip.shape[2:])))
  sizes = jnp.broadcast_shapes(*(x.shape[3:] for x in parts[1:4]), (1, E))
  state = jnp.zeros((B, N, *sizes)) if initial_state is None else initial_state

  def token(state, given):
    v, log_decay, write, read, skip, real, fresh = given
    old = jnp.where(fresh[:, None, None, None], 0, state)
    new = jnp.exp(log_decay) * old + write * v[:, :, None]
    out = (read * new).sum(axis=2) + skip * v
    real = real[:, None, None]
    state = jnp.where(real[..., None], new, state)
    return state, jnp.where(real, out, 0)

  rows = *parts, real, begins & (document > 0)
  rows = [x.swapaxes(0, 1) for x in rows]
  state, out = jax.lax.scan(token, definition.wide(state), rows)
  out = out.swapaxes(0, 1).astype(kind)
  return (out, state) if return_state else out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class System:
  """A time-varying linear system with a diagonal transition; v (B, T, N, E) drives it.

  Attributes:
    log_decay: log of Lambda, (B, T, N, H, E); all axes but T broadcast.
    write: B, (B, T, N, H, E); all axes but T broadcast.
    read: C, (B, T, N, H, E); all axes but T broadcast.
    skip: D, (B, T, N, E), or None for 0; all axes broadcast.
  """

  log_decay: Any
  write: Any
  read: Any
  skip: Any = None

  def recurrent(self, v: Float[Array, "B T N E"], **options) -> Any:
    """Computes the output token by token; `options` as in `attend`."""
    return attend(v, *self._arrays(), **options, impl="reference")

  def scan(self, v: Float[Array, "B T N E"], **options) -> Any:
    """Computes the output by a scan over chunks; `options` as in `attend`."""
    return attend(v, *self._arrays(), **options, impl="xla")

  def step(
    self,
    state: Float[Array, "B N H E"],
    v: Float[Array, "B N E"],
    t: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B N E"], Float[Array, "B N H E"]]:
    """Returns (out, next state) of token t alone."""
    log_decay, write, read = (
      jax.lax.dynamic_index_in_dim(x, t, axis=1, keepdims=False)
      for x in (self.log_decay, self.write, self.read)
    )
    out, state = diagonal.step(state, v, log_decay, write, read)
    if self.skip is None:
      return out, state
    place = t if self.skip.shape[1] > 1 else 0
    skip = jax.lax.dynamic_index_in_dim(self.skip, place, axis=1, keepdims=False)
    return self._plus(out, skip, v), state

  def matrix(
    self, segment_ids: Int[Array, "B T"] | None = None
  ) -> Float[Array, "B N T T #E"]:
    """Computes Phi: output t is the sum over s <= t of Phi[t, s] v[s].

    It takes O(T^2 H) memory.

    Args:
      segment_ids: as in `attend`.
    """
    dtype, system, same = accumulator_dtype(self.read), self, jnp.array(True)
    if segment_ids is not None:
      ids, real = linear.spans(segment_ids)
      documents = masks.documents(ids)
      same = (documents[:, :, None] == documents[:, None, :])[..., None, None, None]
      system = self.without(~real)
    total = jnp.cumsum(system.log_decay.astype(dtype), axis=1)
    T = total.shape[1]
    seen = jnp.tril(jnp.ones((T, T), bool))[None, ..., None, None, None] & same
    elapsed = total[:, :, None] - total[:, None]  # (B, t, s, N, H, E)
    power = jnp.exp(jnp.where(seen, elapsed, -jnp.inf))
    write, read = (x.astype(dtype) for x in (system.write, system.read))
    weight = (read[:, :, None] * power * write[:, None]).sum(axis=-2)
    if system.skip is not None:
      own = jnp.eye(T, dtype=dtype)[None, ..., None, None]
      weight = weight + own * system.skip.astype(dtype)[:, :, None]
    return jnp.moveaxis(weight, 3, 1)

  def state_size(self, size: int = 1) -> int:
    """Returns the elements of one sequence's state, for values of size `size`."""
    shapes = [x.shape[2:] for x in (self.log_decay, self.write, self.read)]
    heads, expansion, values = jnp.broadcast_shapes(*shapes)
    return math.prod((heads, expansion, max(values, size)))

  def without(self, absent: Bool[Array, "B T"]) -> "System":
    """Returns the system in which absent tokens leave the state as it is."""
    tokens = absent[..., None, None, None]
    log_decay, write, read = (
      jnp.where(tokens, 0, x) for x in (self.log_decay, self.write, self.read)
    )
    skip = self.skip
    if skip is not None:
      skip = jnp.where(tokens[..., 0], 0, skip)
    return System(log_decay, write, read, skip)

  def through(self, out, v):
    """Returns `out` plus the skip term D v."""
    return self._plus(out, self.skip, v)

  def check(self, v) -> None:
    """Raises ValueError, naming the array, if shapes do not fit `v`."""
    if v.ndim != 4:
      raise ValueError(f"v has the shape {v.shape}; it must be (B, T, N, E)")
    B, T, N, E = v.shape
    arrays = {"log_decay": self.log_decay, "write": self.write, "read": self.read}
    H = max((x.shape[3] for x in arrays.values() if x.ndim == 5), default=1)
    for name, x in arrays.items():
      _fits(name, x, (B, T, N, H, E), whole=1)
    if self.skip is not None:
      _fits("skip", self.skip, (B, T, N, E))

  def _arrays(self):
    return self.log_decay, self.write, self.read, self.skip

  @staticmethod
  def _plus(out, skip, v):
    dtype = accumulator_dtype(v)
    return (out.astype(dtype) + skip.astype(dtype) * v.astype(dtype)).astype(v.dtype)


def _fits(name, x, shape, whole=None):
  """Raises ValueError unless x broadcasts to `shape`, on axis `whole` without it."""
  right = x.ndim == len(shape) and all(a in (1, b) for a, b in zip(x.shape, shape))
  if not right or (whole is not None and x.shape[whole] != shape[whole]):
    raise ValueError(f"{name} {x.shape} does not broadcast to {shape}")


def _scan(impl, v, system, **options):
  """Computes (out, state); by decayed linear attention if a head has a single decay."""
  log_decay, write, read = system.log_decay, system.write, system.read
  if not (log_decay.shape[3:] == (1, 1) and write.shape[4] == 1 == read.shape[4]):
    if impl in BACKENDS:
      raise NotImplementedError(
        f"impl {impl!r} has one decay a token and head; here log_decay"
        f" {log_decay.shape}, write {write.shape} or read {read.shape} differs between"
        " state elements or channels, which 'xla' can do"
      )
    return diagonal.chunked(v, log_decay, write, read, **options)
  B, T, N, _ = v.shape
  H = max(write.shape[3], read.shape[3])
  k, q = (jnp.broadcast_to(x[..., 0], (B, T, N, H)) for x in (write, read))
  run = backends.linear_attention(impl, q, k, v)
  return run(q, k, v, log_decay[..., 0, 0], **options)
