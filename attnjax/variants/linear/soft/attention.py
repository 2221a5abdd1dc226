"""Attention by a Gaussian kernel, factorised through landmarks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.contract import Case, check_known
from attnjax.core import definition, devices
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.inverse import newton_inverse

IMPLEMENTATIONS = ("reference", "xla")
# The authors' number of steps: if M landmarks are similar, as in smooth images, their
# inverse is far off (its residual is 0.45 for M = 16 and 0.99 for M = 196).
PUBLISHED = {"iterations": 20, "jitter": 0.01}
# Long enough for efficient matrix products, so short that its kernel, M elements a
# token, stays small.
_CHUNK = 256


def attend(
  q: Float[Array, "B T N H"],
  v: Float[Array, "B T N V"],
  landmarks: Float[Array, "B M N H"],
  *,
  normalise: bool = False,
  iterations: int = 0,
  jitter: float = 0.01,
  gradient: str = "analytic",
  start: str = "matrix",
  valid: Bool[Array, "B T"] | None = None,
  landmark_valid: Bool[Array, "B M"] | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes P inverse(A) P^T V, without a causal mask.

  Args:
    q: queries, which are also the keys; already scaled by H^-1/4.
    v: values.
    landmarks: M points that stand for the queries.
    normalise: whether the inverse is multiplied by rowsum(A)^-1/2 on both sides
      (SOFT++).
    iterations: of `attnjax.core.inverse.newton_inverse`; 0 is as many as M and jitter
      need. PUBLISHED has the authors' 20, which are too few for similar landmarks.
    jitter: added to A's diagonal before it is inverted.
    gradient: of the inverse, "analytic" or "autodiff".
    start: of the inverse, "matrix", or "batch", which couples the batch's examples.
    valid: True at the real tokens; others are not seen and give 0.
    landmark_valid: True at the landmarks to be used.
    impl: one of IMPLEMENTATIONS, or "auto", which takes "xla".

  Raises:
    ValueError: if shapes do not fit or an option is unknown.
  """
  _check(q, v, landmarks, impl)
  inverse = normalise, iterations, jitter, gradient, start
  if impl == "reference":
    return reference(q, v, landmarks, *inverse, valid, landmark_valid)
  kind, dtype = v.dtype, accumulator_dtype(q)
  q, v, landmarks = (x.swapaxes(1, 2).astype(dtype) for x in (q, v, landmarks))
  if valid is not None:
    q, v = (jnp.where(valid[:, None, :, None], x, 0) for x in (q, v))
  used = None
  if landmark_valid is not None:
    used = landmark_valid[:, None, None, :]
  middle = _middle(landmarks, used, *inverse)
  out = _chunked(q, v, landmarks, middle, used).swapaxes(1, 2)
  if valid is not None:
    out = jnp.where(valid[:, :, None, None], out, 0)
  return out.astype(kind)


def reference(
  q,
  v,
  landmarks,
  normalise=False,
  iterations=0,
  jitter=0.01,
  gradient="analytic",
  start="matrix",
  valid=None,
  landmark_valid=None,
):
  """Computes the definition: all differences of tokens and landmarks at once."""
  kind = v.dtype
  q, v, points = (definition.wide(x) for x in (q, v, landmarks))
  if valid is not None:
    q, v = (jnp.where(valid[..., None, None], x, 0) for x in (q, v))

  def kernel(a, b):
    far = a[:, :, None] - b[:, None]  # (B, T, M, N, H)
    return jnp.exp(-(far * far).sum(axis=4) / 2).transpose(0, 3, 1, 2)

  outer, inner = kernel(q, points), kernel(points, points)
  one = jnp.eye(inner.shape[3])
  if landmark_valid is not None:
    used = landmark_valid[:, None, None]
    outer = jnp.where(used, outer, 0)
    inner = jnp.where(used & used.swapaxes(2, 3), inner, one)
  inverse = _iterated(inner, iterations, jitter, start)
  if not iterations:
    inverse = jnp.linalg.inv(inner + jitter * one)
  elif gradient == "analytic":  # the inverse's derivative, -Y dA Y, at what it is
    inverse = jax.lax.stop_gradient(inverse)
    change = inner - jax.lax.stop_gradient(inner)
    inverse = inverse - inverse @ change @ inverse
  if normalise:
    root = inner.sum(axis=3) ** -0.5
    inverse = root[..., None] * inverse * root[..., None, :]
  if valid is not None:
    outer = jnp.where(valid[:, None, :, None], outer, 0)
  out = jnp.einsum("bntm,bnml,bnsl,bsnv->btnv", outer, inverse, outer, v)
  return out.astype(kind)


def _iterated(inner, iterations, jitter, start):
  """Computes Newton's steps Y <- 2 Y - Y A Y from Y = alpha A, A = inner + jitter I."""
  one = jnp.eye(inner.shape[3])
  shifted = inner + jitter * one
  alpha = 1.8 / inner.sum(axis=3).max(axis=2)[..., None, None] ** 2
  if start == "batch":
    tried = 2 / inner.sum(axis=3).max() ** 2 * 0.5 ** np.arange(11)
    error = abs(one - tried[:, None, None, None, None] * (shifted @ shifted))
    fits = error.sum(axis=3).max(axis=(1, 2, 3)) <= 1.01
    alpha = tried[jnp.where(fits.any(), fits.argmax(), 10)]

  def step(inverse, _):
    return 2 * inverse - inverse @ shifted @ inverse, None

  return jax.lax.scan(step, alpha * shifted, length=iterations)[0]


def gaussian(
  a: Float[Array, "*B T H"], b: Float[Array, "*B M H"]
) -> Float[Array, "*B T M"]:
  """Computes exp(-|a - b|^2 / 2) from the differences a - b."""
  return jnp.exp(-jnp.square(a[..., :, None, :] - b[..., None, :, :]).sum(-1) / 2)


def _middle(landmarks, used, normalise, iterations, jitter, gradient, start):
  """Computes the inverse of the landmarks' kernel matrix, normalised on request."""
  among = gaussian(landmarks, landmarks)
  if used is not None:
    # Unused landmarks count as points far from all others.
    eye = jnp.eye(among.shape[-1], dtype=among.dtype)
    among = jnp.where(used & used.mT, among, eye)
  middle = newton_inverse(
    among, iterations=iterations, jitter=jitter, gradient=gradient, start=start
  )
  if normalise:
    root = jax.lax.rsqrt(among.sum(-1))
    middle = root[..., :, None] * middle * root[..., None, :]
  return middle


def _chunked(q, v, landmarks, middle, used):
  """Computes the output chunk by chunk, so that no (T, M) kernel is kept.

  A chunk's kernel is computed twice: for the sums over tokens, and for the outputs.
  """
  B, N, T, _ = q.shape
  number = -(-T // _CHUNK)
  size = -(-T // number)

  def split(x):  # padded values are 0, and padded outputs are cut off
    x = jnp.pad(x, ((0, 0), (0, 0), (0, number * size - T), (0, 0)))
    return jnp.moveaxis(x.reshape(B, N, number, size, -1), 2, 0)

  def kernel(q):
    with jax.default_matmul_precision("highest"):
      product = jnp.einsum("bnth,bnmh->bntm", q, landmarks)
    square = jnp.square(q).sum(-1)[..., :, None]
    far = square + jnp.square(landmarks).sum(-1)[..., None, :] - 2 * product
    near = jnp.exp(-jnp.maximum(far, 0) / 2)
    return near if used is None else jnp.where(used, near, 0)

  def gather(total, part):
    q, v = part
    return total + kernel(q).mT @ v, None

  def spread(_, q):
    return None, kernel(q) @ mixed

  gather, spread = (jax.checkpoint(f, prevent_cse=False) for f in (gather, spread))
  begin = jnp.zeros((B, N, landmarks.shape[2], v.shape[-1]), v.dtype)
  begin = devices.vary_like(begin, q, v, landmarks, used)
  total, _ = jax.lax.scan(gather, begin, (split(q), split(v)))
  mixed = middle @ total
  _, out = jax.lax.scan(spread, None, split(q))
  return jnp.moveaxis(out, 0, 2).reshape(B, N, number * size, -1)[:, :, :T]


def _check(q, v, landmarks, impl):
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  B, T, N, H = q.shape
  if v.shape[:3] != (B, T, N):
    raise ValueError(f"v {v.shape} differs from q {q.shape} in B, T or heads")
  if (landmarks.shape[0], *landmarks.shape[2:]) != (B, N, H):
    raise ValueError(f"landmarks {landmarks.shape} differ from q {q.shape}")


def _shapes(B, T, M, N, H, V):
  return {"q": (B, T, N, H), "v": (B, T, N, V), "landmarks": (B, M, N, H)}


def _padded(key: jax.Array) -> Any:
  del key
  return jnp.array([[0], [9]]) <= jnp.arange(65) % 60  # the second on both sides


def _some(key: jax.Array) -> Any:
  del key
  return jnp.array([[True] * 4 + [False] * 2, [False] + [True] * 5])


CASES = (
  Case("whole", _shapes(2, 64, 9, 2, 16, 16)),
  Case("one_token", _shapes(1, 1, 1, 1, 4, 4), {"normalise": True}),
  Case("seven", _shapes(1, 7, 7, 3, 8, 5), {"iterations": 12}),
  Case(
    "coupled",
    _shapes(2, 63, 5, 1, 5, 7),
    {
      "normalise": True,
      "iterations": 20,
      "jitter": 0.0,
      "gradient": "autodiff",
      "start": "batch",
    },
  ),
  Case(
    "valid",
    _shapes(2, 65, 6, 2, 8, 8),
    {"normalise": True, "valid": _padded, "landmark_valid": _some},
  ),
  Case("chunks", _shapes(1, 300, 6, 1, 6, 4)),
)
