"""ONNX's 93 cases of Attention: all outputs, and gradients against float64.

Simulators are slow: some of the cases run in them here, and all of them by `python -m
tests.suites`.
"""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import attnjax
from tests import conformance, definition, precision
from tests.suites import onnx_attention, onnx_cases, onnx_outputs

CASES = {case.name: case for case in onnx_cases.cases("Attention")}


def values(case, impl) -> None:
  """Raises AssertionError if an output is not ONNX's."""
  with simulate.accelerators(detect_races=False):
    arrays, options = onnx_attention.arguments(case)
    run = jax.jit(lambda arrays: onnx_outputs.outputs(case, arrays, options, impl))
    found = run(arrays)
  onnx_cases.check(case, found)


def seen(case, T, S):
  """Which query sees which key, (B, 1, T, S), by ONNX's words."""
  given, have = case.inputs, case.attributes
  lengths = given.get("nonpad_kv_seqlen")
  if lengths is not None:
    offset = lengths.reshape(-1, 1, 1, 1) - T
  else:
    offset = given["past_key"].shape[2] if "past_key" in given else 0
  after = np.arange(S)[None, :] - np.arange(T)[:, None] - offset
  result = np.ones((1, 1, T, S), bool)
  if have.get("is_causal"):
    result = result & (after <= 0)
  for side, distance in (("left", -after), ("right", after)):
    width = have.get(f"{side}_window_size", -1)
    result = result & (distance <= width) if width >= 0 else result
  if lengths is not None:
    result = result & (np.arange(S) < lengths.reshape(-1, 1, 1, 1))
  mask = given.get("attn_mask")
  if mask is not None and mask.dtype == bool:
    missing = [(0, 0)] * (mask.ndim - 1) + [(0, S - mask.shape[-1])]
    result = result & np.pad(mask, missing)
  return result


def gradients(case, impl) -> dict[str, float]:
  """The errors of out, lse and gradients as parts of what they may be."""
  arrays, options = onnx_attention.arguments(case)
  (B, T, N, _), S = arrays["query"].shape, arrays["key"].shape[1]
  dtype = arrays["query"].dtype.name
  rng = np.random.default_rng(3)
  g = rng.normal(size=(B, T, N, arrays["value"].shape[3])).astype(dtype)
  g_lse = rng.normal(size=(B, T, N)).astype("float32")

  def loss(arrays):
    out, lse = attnjax.dot_product_attention(
      **arrays, **options, return_lse=True, impl=impl
    )
    total = jnp.sum(out.astype("float32") * g.astype("float32"))
    total += jnp.sum(jnp.where(jnp.isfinite(lse), lse, 0) * g_lse)
    return total, {"out": out, "lse": lse}

  with simulate.accelerators(detect_races=False):
    grads, got = jax.jit(jax.grad(loss, has_aux=True))(arrays)
  short = {"query": "q", "key": "k", "value": "v", "bias": "bias"}
  got |= {f"d{short[n]}": x for n, x in grads.items()}
  problem = {short[n]: np.asarray(x, np.float64) for n, x in arrays.items()}
  if "bias" in problem:
    shape = problem["bias"].shape
    problem["bias"] = problem["bias"].reshape((1,) * (4 - len(shape)) + shape)
  scale = case.attributes.get("scale", problem["q"].shape[-1] ** -0.5)
  problem |= {"g": g.astype("float64"), "g_lse": g_lse.astype("float64")}
  problem |= {"seen": seen(case, T, S), "scale": scale, "softcap": options["softcap"]}
  want = definition.exact(problem, dtype)
  if "bias" in problem:
    got["dbias"] = np.reshape(got["dbias"], want["dbias"].shape)
  return precision.excess(got, want, definition.plain(problem, dtype), dtype)


def some(steps: dict[str, int]):
  """(case, implementation): every n-th case of each implementation."""
  return [(name, impl) for impl, step in steps.items() for name in list(CASES)[::step]]


class AttentionTest(parameterized.TestCase):
  def test_all_cases_are_there(self):
    self.assertLen(CASES, 93)

  @parameterized.parameters("Attention", "Attention, gradients")
  def test_the_page_says_that_all_pass(self, suite):
    page = conformance.PAGE.read_text(encoding="utf-8")
    self.assertIn(f"\n| {suite} | 93 |{4 * ' 93 |'}\n", page)

  @parameterized.parameters(
    *some({"reference": 1, "xla": 1, "triton": 3, "pallas": 12})
  )
  def test_values(self, name, impl):
    values(CASES[name], impl)

  @parameterized.parameters(
    *some({"reference": 4, "xla": 1, "triton": 15, "pallas": 31})
  )
  def test_gradients(self, name, impl):
    for key, part in gradients(CASES[name], impl).items():
      self.assertLessEqual(part, 1.0, key)


if __name__ == "__main__":
  absltest.main()
