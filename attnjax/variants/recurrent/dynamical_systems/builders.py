"""The builders, which express every class of model as a `System`.

The normaliser eta of an attention divides the output (Lambda = 1). With ratio=True it
is placed as in the paper: Lambda_t = eta_{t-1} / eta_t and B_t = k_t / eta_t. The two
are equal, but a ratio may overflow.
"""

import itertools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import check_known, unknown
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.recurrent.dynamical_systems.system import System

ETAS = ("exp", "softplus", "sigmoid")
EPSILON = 1e-6  # under the root of the RG-LRU's input scale, as in its code
SHARPNESS = 8.0  # of the RG-LRU's decay


def to_dsf(kind: str, /, **arrays) -> System:
  """Returns the system of a class of models; `arrays` as in its builder.

  Raises:
    ValueError: if `kind` is none of BUILDERS.
  """
  check_known("kind", kind, BUILDERS)
  return BUILDERS[kind](**arrays)


def softmax(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  *,
  scale: float | None = None,
  degree: int = 6,
  ratio: bool = False,
) -> System:
  """Returns the system of softmax attention, with exp(x) cut after x^degree.

  There are C(H + degree, degree) features.

  Args:
    q: queries.
    k: keys.
    scale: of the scores; H^-0.5 if None.
    degree: of the Taylor polynomial; infinite for the softmax itself.
    ratio: whether the normaliser is a ratio of decays, see the module's docstring.
  """
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  q, k = (taylor(x * scale**0.5, degree) for x in (q, k))
  return _attention(q, k, 1 / _sums(q, k), ratio)


def linear(
  q: Float[Array, "B T N H"], k: Float[Array, "B T N H"], *, ratio: bool = False
) -> System:
  """Returns the system of linear attention, with the features elu(x) + 1."""
  q, k = features(q), features(k)
  return _attention(q, k, 1 / _sums(q, k), ratio)


def normalised(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T N H"],
  x: Float[Array, "B T N"],
  *,
  eta: str = "exp",
  ratio: bool = False,
) -> System:
  """Returns the system of normalised attention: eta depends on x alone."""
  return _attention(q, k, inverse_eta(x, eta), ratio)


def s6(
  delta: Float[Array, "B T E"],
  a: Float[Array, "E H"],
  b: Float[Array, "B T H"],
  c: Float[Array, "B T H"],
  skip: Float[Array, "E"] | None = None,
) -> System:
  """Returns S6: Lambda = exp(delta a), B = delta b, C = c, D = skip; a < 0 < delta."""
  delta = delta[:, :, None, None]
  return System(
    delta * a.T,
    delta * b[:, :, None, :, None],
    c[:, :, None, :, None],
    None if skip is None else skip[None, None, None],
  )


def ssd(
  delta: Float[Array, "B T N"],
  a: Float[Array, "N"],
  b: Float[Array, "B T H"],
  c: Float[Array, "B T H"],
  skip: Float[Array, "N"] | None = None,
) -> System:
  """Returns SSD: S6 with one a for each head, and b and c shared by all heads."""
  delta, b, c = delta[..., None, None], b[:, :, None, :, None], c[:, :, None, :, None]
  return System(
    delta * a[:, None, None],
    delta * b,
    c,
    None if skip is None else skip[None, None, :, None],
  )


def rglru(
  forget: Float[Array, "B T E"], base: Float[Array, "E"], gate: Float[Array, "B T E"]
) -> System:
  """Returns the system of the RG-LRU.

  a = exp(-8 softplus(base) sigmoid(forget)), B = sqrt(1 - a^2) gate', C = 1.

  Args:
    forget: W_f u.
    base: the rate at which each channel forgets, before softplus.
    gate: W_b u; gate' is its sigmoid.
  """
  dtype = accumulator_dtype(forget)
  forget, base, gate = (x.astype(dtype) for x in (forget, base, gate))
  log_decay = -SHARPNESS * jax.nn.softplus(base) * jax.nn.sigmoid(forget)
  write = _conserving(log_decay) * jax.nn.sigmoid(gate)
  log_decay, write = log_decay[:, :, None, None], write[:, :, None, None]
  return System(log_decay, write, jnp.ones_like(log_decay[..., :1]))


def selru(
  forget: Float[Array, "B T E"],
  base: Float[Array, "H E"],
  b: Float[Array, "B T H"],
  c: Float[Array, "B T H"],
) -> System:
  """Returns the state-expanded RG-LRU: one decay a state element, b and c of S6."""
  dtype = accumulator_dtype(forget)
  forget, base, b, c = (x.astype(dtype) for x in (forget, base, b, c))
  gate = jax.nn.sigmoid(forget)[:, :, None, None]
  log_decay = -SHARPNESS * jax.nn.softplus(base) * gate
  write = _conserving(log_decay) * b[:, :, None, :, None]
  return System(log_decay, write, c[:, :, None, :, None])


def qlstm(
  gate: Float[Array, "B T E"],
  out: Float[Array, "B T E"],
  forget: Float[Array, "B T E"] | None = None,
) -> System:
  """Returns the system of the quasi-LSTM.

  Lambda = sigmoid(forget), B = sigmoid(gate), C = sigmoid(out).

  Without `forget` it is coupled as S6 with A = -1: Lambda = exp(-softplus(gate)), which
  is 1 - sigmoid(gate).
  """
  dtype = accumulator_dtype(gate)
  forget = -gate if forget is None else forget
  log_decay = jax.nn.log_sigmoid(forget.astype(dtype))
  write, read = (jax.nn.sigmoid(x.astype(dtype)) for x in (gate, out))
  return System(*(x[:, :, None, None] for x in (log_decay, write, read)))


BUILDERS: Mapping[str, Callable[..., System]] = {
  "softmax": softmax,
  "linear": linear,
  "normalised": normalised,
  "s6": s6,
  "ssd": ssd,
  "rglru": rglru,
  "selru": selru,
  "qlstm": qlstm,
}


def features(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Computes psi(x) = elu(x) + 1, in float32 (float64 for float64)."""
  return jax.nn.elu(x.astype(accumulator_dtype(x))) + 1


def taylor(x: Float[Array, "*B H"], degree: int) -> Float[Array, "*B F"]:
  """Computes features phi: phi(q) . phi(k) = the Taylor polynomial of exp(q . k).

  The monomials of x of degree 0, 1, ..., each with the root of its coefficient:
  F = C(H + degree, degree).
  """
  x = x.astype(accumulator_dtype(x))
  parts = [jnp.ones_like(x[..., :1])]
  for power in range(1, degree + 1):
    chosen = list(itertools.combinations_with_replacement(range(x.shape[-1]), power))
    factor = [
      math.prod(math.factorial(c.count(i)) for i in set(c)) ** -0.5 for c in chosen
    ]
    parts.append(x[..., jnp.array(chosen)].prod(axis=-1) * jnp.array(factor, x.dtype))
  return jnp.concatenate(parts, axis=-1)


def inverse_eta(x: Float[Array, "..."], eta: str) -> Float[Array, "..."]:
  """Computes 1 / eta with eta = exp(x), softplus(x) or sigmoid(x).

  Raises:
    ValueError: if `eta` is none of ETAS.
  """
  x = x.astype(accumulator_dtype(x))
  match eta:
    case "exp":
      return jnp.exp(-x)
    case "softplus":
      return 1 / jax.nn.softplus(x)
    case "sigmoid":
      return 1 + jnp.exp(-x)
  raise ValueError(unknown("eta", eta, ETAS))


def _attention(q, k, factor, ratio) -> System:
  """Returns the system of queries, keys and factor = 1 / eta (B, T, N)."""
  q, k = (x.astype(accumulator_dtype(x))[..., None] for x in (q, k))
  factor = factor[..., None, None]
  if not ratio:
    return System(jnp.zeros_like(factor), k, q * factor)
  # The first one multiplies a state that is zero.
  before = jnp.concatenate([factor[:, :1], factor[:, :-1]], axis=1)
  return System(jnp.log(factor / before), k * factor, q)


def _sums(q, k):
  """Computes the normalisers (B, T, N), sums of q_t . k_s over s <= t."""
  return jnp.einsum("btnf,btnf->btn", q, jnp.cumsum(k, axis=1))


def _conserving(log_decay):
  """Computes sqrt(1 - a^2), the input scale that keeps the state's variance."""
  return jnp.sqrt(1 - jnp.exp(2 * log_decay) + EPSILON)
