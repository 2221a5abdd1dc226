"""The recurrence and its gradients in float64 NumPy, and inputs that are hard."""

import jax
import jax.numpy as jnp
import numpy as np

RESETS = (-1e2, -1e4, -1e6, -1e8, float(np.finfo(np.float32).min), -np.inf)


def truth(q, k, v, g, d_out, d_state):
  """Results and gradients by q, k, v, g; q, k, v (B, T, N, H|E), g (B, T, N)."""
  q, k, v, g, d_out, R = (
    np.asarray(x, np.float64) for x in (q, k, v, g, d_out, d_state)
  )
  T, decay = q.shape[1], np.exp(g)[..., None, None]
  states = [np.zeros_like(R)]
  for t in range(T):
    states.append(decay[:, t] * states[t] + k[:, t, :, :, None] * v[:, t, :, None])
  out = [np.einsum("bnh,bnhe->bne", q[:, t], states[t + 1]) for t in range(T)]
  gradients = []
  for t in reversed(range(T)):
    R = R + q[:, t, :, :, None] * d_out[:, t, :, None]
    gradients.append(
      (
        np.einsum("bnhe,bne->bnh", states[t + 1], d_out[:, t]),
        np.einsum("bnhe,bne->bnh", R, v[:, t]),
        np.einsum("bnhe,bnh->bne", R, k[:, t]),
        (decay[:, t] * R * states[t]).sum(axis=(-2, -1)),
      )
    )
    R = decay[:, t] * R
  by_token = (np.stack(x, axis=1) for x in zip(*reversed(gradients)))
  return np.stack(out, axis=1), states[-1], *by_token


def check(function, arrays, cotangents, tolerance=2e-5):
  """Holds function(q, k, v, g) to `truth`, each number to the size of its own terms.

  An error as large as the rounding of terms that do not belong to a number is too
  large: neither what a reset, a document or the future hides may be felt.
  """

  @jax.jit
  def run(arrays, cotangents):
    found, pull = jax.vjp(function, *arrays)
    return *found, *pull(cotangents)

  found = run(arrays, cotangents)
  wanted = truth(*arrays, *cotangents)
  q, k, v, g = arrays
  sizes = truth(*map(np.abs, (q, k, v)), g, *map(np.abs, cotangents))
  names = "out", "state", "dq", "dk", "dv", "dg"
  for name, got, want, size in zip(names, found, wanted, sizes, strict=True):
    # What is next to nothing may be rounded to nothing.
    allowed = tolerance * size + 1e-30 * size.max()
    got = np.asarray(got, np.float64)
    wrong = ~(np.abs(got - want) <= allowed)
    if wrong.any():
      at = tuple(np.argwhere(wrong)[0])
      raise AssertionError(
        f"{name}{at} is {got[at]}, not {want[at]}, of terms of {size[at]}; and"
        f" {wrong.sum() - 1} more"
      )


def hard(T: int, N: int = 1, H: int = 8, E: int = 8):
  """(arrays, cotangents): in each row of the batch, tokens that other code lost."""
  r = np.random.default_rng(0)
  rows = len(RESETS) + 3
  q, k, d_out = (r.normal(size=(rows, T, N, s)) for s in (H, H, E))
  v, d_state = r.normal(size=(rows, T, N, E)), r.normal(size=(rows, N, H, E))
  g = r.uniform(-0.1, 0, size=(rows, T, N))
  for row, reset in enumerate(RESETS):
    g[row, 7::13] = reset
  # Beyond a reset: one token that outweighs all others.
  k[:2, 20], v[:2, 20], q[:2, 20] = 1e4 * k[:2, 20], 1e4 * v[:2, 20], 1e4 * q[:2, 20]
  steep, small, equal = range(len(RESETS), rows)
  g[steep, ::2] = -20
  q[small], v[small], g[small] = 1e8 * q[small], 1e-6 * v[small], 1e-6 * g[small]
  for x in (q, k, v):
    x[equal] = x[equal, :1]
  arrays = tuple(jnp.asarray(x, jnp.float32) for x in (q, k, v, g))
  return arrays, tuple(jnp.asarray(x, jnp.float32) for x in (d_out, d_state))
