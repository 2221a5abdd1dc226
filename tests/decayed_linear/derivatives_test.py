"""What the contract promises around the kernels: derivatives, vmap, the choice."""

from tests import simulate  # first: it sets what Triton reads on import

# ruff: isort: split
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import triton
import triton.language as tl
from absl.testing import absltest, parameterized

from attnjax import backends
from attnjax.core.recurrence import linear
from pallas_kernels import calling, decayed_linear, prefix_softmax
from pallas_kernels.decayed_linear import triton_gpu
from pallas_kernels.decayed_linear.triton_gpu import head_tiles
from tests.decayed_linear.problems import Problem


@triton.jit
def _which_rows(array, first, out, SIZE: tl.constexpr):
  """The rows that pointers of rows are those of."""
  rows = head_tiles.rows(array, first, 1, SIZE, 16)
  distance = (rows.to(tl.int64) - array.to(tl.int64)) // (SIZE * 4)
  tl.store(out + tl.arange(0, 16)[:, None], distance.to(tl.int32))


_PROBLEM = Problem(1, 6, 2, 1, 4, 4, (1, 6, 2), (4, 2))


def _loss(function, **options):
  q, k, v, decay, state = _PROBLEM.arrays()

  def loss(k, decay):
    out, last = function(
      q,
      k,
      v,
      decay,
      initial_state=state,
      segment_ids=_PROBLEM.segment_ids(),
      **options,
    )
    return (out**2).sum() + jnp.sin(last).sum()

  return loss, (k, decay)


def _close(found, wanted, tolerance=1e-4):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance),
    found,
    wanted,
  )


def _patched(**own):
  """The GPU's kernel with other functions."""
  kernel = dataclasses.replace(triton_gpu.KERNEL, **own)
  return absltest.mock.patch.object(triton_gpu, "KERNEL", kernel)


class DerivativesTest(parameterized.TestCase):
  def test_forward_and_second_derivatives(self):
    ours, at = _loss(decayed_linear.attend, impl="triton")
    wanted, _ = _loss(linear.recurrent)
    with simulate.accelerators():
      _close(jax.jvp(ours, at, at), jax.jvp(wanted, at, at))

      def twice(f):
        return jax.grad(lambda *x: jax.grad(f)(*x).sum(), (0, 1))

      _close(twice(ours)(*at), twice(wanted)(*at), 1e-3)

  def test_vmap_joins_batches(self):
    q, k, v, decay, state = _PROBLEM.arrays()
    two = jnp.stack([v, 2 * v])

    def run(function, **options):
      def loss(v, decay):
        out, last = function(q, k, v, decay, initial_state=state, **options)
        return (out**2).sum() + jnp.sin(last).sum()

      return jax.vmap(jax.grad(loss, (0, 1)), (0, None))(two, decay)

    with simulate.accelerators():
      found = run(decayed_linear.attend, impl="triton")
    _close(found, run(linear.chunked))

  def test_a_gradient_by_decays_is_made_if_it_is_asked_for(self):
    asked = []

    def backward(q, k, v, log_decay, state, *rest, decay, **how):
      asked.append(decay)
      zeros = (jnp.zeros_like(y) for y in (q, k, v))
      return *zeros, jnp.zeros_like(log_decay) if decay else None, None

    x = *[jnp.ones((1, 1, 1, 1))] * 3, jnp.zeros((1, 1, 1))

    def loss(*x):
      return decayed_linear.attend(*x, impl="triton")[0].sum()

    with _patched(backward=backward), simulate.accelerators(detect_races=False):
      jax.grad(loss, (0, 2))(*x)
      jax.grad(loss, 3)(*x)
    self.assertEqual(asked, [False, True])

  def test_what_is_saved_by_name_is_not_made_again(self):
    x = jax.ShapeDtypeStruct((1, 16, 1, 8), jnp.float32)

    def passes(policy):
      def loss(x):
        out, state = decayed_linear.attend(x, x, x, impl="pallas")
        return jnp.sin(out).sum() + state.sum()

      run = jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=policy)))
      return simulate.calls(run(x), "decayed_linear_forward")

    policies = jax.checkpoint_policies
    self.assertEqual(passes(policies.save_only_these_names(*decayed_linear.SAVED)), 1)
    self.assertEqual(passes(None), 2)

  @parameterized.parameters("decayed_linear", "prefix_softmax")
  def test_programs_lie_along_one_axis(self, name):
    launched = []

    def record(*arguments, grid, out_type, **options):
      del arguments, options
      launched.append(grid)
      return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out_type)

    def loss(x):
      if name == "decayed_linear":
        out, _ = decayed_linear.attend(x, x, x, x[..., 0], impl="triton")
      else:
        out, _, _ = prefix_softmax.prefix(x[..., 0], x, impl="triton")
      return out.sum()

    x = jax.ShapeDtypeStruct((70_000, 16, 1, 8), jnp.float32)
    with absltest.mock.patch.object(calling, "triton", record):
      jax.eval_shape(jax.grad(loss), x)
    self.assertEqual(len(launched), {"decayed_linear": 6, "prefix_softmax": 2}[name])
    for grid in launched:
      self.assertEqual((len(grid), grid[0] % 70_000), (1, 0))

  def test_rows_may_be_beyond_32_bits(self):
    with simulate.accelerators(detect_races=False):
      found = calling.triton(
        jnp.zeros(1),
        kernel=_which_rows,
        out_type=jax.ShapeDtypeStruct((16,), jnp.int32),
        grid=(1,),
        name="which_rows",
        warps=1,
        stages=1,
        first=1 << 20,
        SIZE=1 << 12,
      )
    np.testing.assert_array_equal(found, (1 << 20) + np.arange(16))

  def test_refusals_name_the_type_and_who_can(self):
    x = jnp.zeros((1, 3, 2, 4))
    for impl in calling.BACKENDS:
      with self.assertRaisesRegex(NotImplementedError, "q is int32.*float64"):
        decayed_linear.supports(x.astype("int32"), x, x, impl, 64)
      with self.assertRaisesRegex(NotImplementedError, "not of one type.*'xla'"):
        decayed_linear.attend(x.astype("bfloat16"), x, x, impl=impl)
      wide = jnp.zeros((1, 3, 2, 2048))
      with self.assertRaisesRegex(NotImplementedError, "heads of q have 2048.*'xla'"):
        decayed_linear.attend(wide, wide, wide, impl=impl)
    with self.assertRaisesRegex(ValueError, "impl 'cuda' is none of pallas, triton"):
      decayed_linear.attend(x, x, x, impl="cuda")
    with self.assertRaisesRegex(ValueError, "impl 'cuda'.*auto.*xla"):
      backends.linear_attention("cuda", x, x, x)

  @parameterized.parameters((0, 5), (2, 0))
  def test_of_nothing(self, B, T):
    x, state = jnp.zeros((B, T, 2, 4)), jnp.ones((B, 2, 4, 4))
    for impl in ("auto", *backends.IMPLEMENTATIONS[1:]):
      attend = backends.linear_attention(impl, x, x, x)
      out, last = attend(x, x, x, initial_state=state)
      self.assertEqual(out.shape, (B, T, 2, 4))
      np.testing.assert_array_equal(last, state)

  def test_auto_takes_what_the_platform_has(self):
    x = jnp.zeros((1, 3, 2, 4))

    def chosen():
      run = backends.linear_attention("auto", x, x, x)
      return "xla" if run is linear.chunked else run.args[0].impl

    for platform, wanted in (("cpu", "xla"), ("tpu", "pallas"), ("gpu", "triton")):
      with absltest.mock.patch.object(jax, "default_backend", lambda p=platform: p):
        self.assertEqual(chosen(), wanted)
    refuse = absltest.mock.Mock(side_effect=NotImplementedError("no such heads"))
    with (
      absltest.mock.patch.object(jax, "default_backend", lambda: "gpu"),
      _patched(supports=refuse),
      self.assertLogs(level="WARNING") as logs,
    ):
      self.assertEqual(chosen(), "xla")
    self.assertIn("takes 'xla' on gpu, not 'triton': no such heads", logs.output[0])


if __name__ == "__main__":
  absltest.main()
