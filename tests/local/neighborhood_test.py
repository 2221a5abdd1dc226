import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from attnjax.core import softmax
from attnjax.core.masks import Causal, Dense
from attnjax.core.scores import Scores
from attnjax.variants.local import neighborhood

# The kernels are in `neighborhood_fused_test`.
_IMPLEMENTATIONS = ("reference", "xla")
_attend = jax.jit(
  neighborhood.attend,
  static_argnames=("window", "stride", "dilation", "causal", "impl", "return_lse"),
)


def _arrays(*grid, heads=2, size=4, seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return [jax.random.normal(key, (1, *grid, heads, size)) for key in keys]


def _naive(length, window, stride, dilation, causal):
  """The rule of one axis, a query and a key at a time."""
  seen = np.zeros((length, length), bool)
  for i, j in itertools.product(range(length), repeat=2):
    inner, group = divmod(i, dilation)
    size = len(range(group, length, dilation))
    first = inner - inner % stride  # of the stride group
    if causal:
      leader = min(first + stride - 1, size - 1)
      inside = max(leader - window + 1, 0) <= j // dilation <= inner
    else:
      leader = min(first + stride // 2, size - 1)
      start = min(max(leader - window // 2, 0), size - window)
      inside = start <= j // dilation < start + window
    seen[i, j] = inside and j % dilation == group
  return seen


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


class MaskTest(parameterized.TestCase):
  def test_one_axis_follows_the_rule(self):
    for length, dilation, causal in itertools.product((1, 7, 10), (1, 2, 3), (0, 1)):
      for window in {1, 2, 3, length // dilation}:
        if not 1 <= window <= length // dilation:
          continue
        for stride in {1, (window + 1) // 2, window}:
          form = (window, stride, dilation, bool(causal))
          options: dict[str, Any] = dict(
            zip(("window", "stride", "dilation", "causal"), form)
          )
          got = neighborhood.dense_mask((length,), **options)
          np.testing.assert_array_equal(got, _naive(length, *form), str((length, form)))

  def test_axes_multiply(self):
    forms = ((3, 3, 1, 1, True), (5, 4, 2, 1, False), (4, 2, 1, 2, False))
    options: dict[str, Any] = dict(
      zip(("window", "stride", "dilation", "causal"), list(zip(*forms))[1:])
    )
    got = neighborhood.dense_mask((3, 5, 4), **options)
    want = np.ones((1, 1), bool)
    for form in forms:
      want = np.kron(want, _naive(*form))
    np.testing.assert_array_equal(got, want)

  def test_every_row_has_a_whole_window_and_every_key_a_query(self):
    seen = neighborhood.dense_mask(
      (7, 9), window=(3, 4), stride=(2, 3), dilation=(2, 1)
    )
    np.testing.assert_array_equal(seen.sum(axis=1), 12)
    self.assertTrue(seen.any(axis=0).all())

  def test_a_causal_grid_with_whole_windows_is_not_dense(self):
    seen = neighborhood.dense_mask((2, 3), window=(2, 3), causal=(True, False))
    want = np.kron(np.tril(np.ones((2, 2), bool)), np.ones((3, 3), bool))
    np.testing.assert_array_equal(seen, want)


class SpecialCasesTest(parameterized.TestCase):
  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_whole_windows_are_dense_attention(self, impl):
    q, k, v = _arrays(3, 4)
    got = _attend(q, k, v, window=(3, 4), impl=impl)
    flat = [x.reshape(1, 12, 2, 4) for x in (q, k, v)]
    _close(got.reshape(1, 12, 2, 4), softmax.reference(*flat)[0])

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_whole_causal_window_is_causal_attention(self, impl):
    q, k, v = _arrays(9)
    got = _attend(q, k, v, window=9, causal=True, impl=impl)
    _close(got, softmax.reference(q, k, v, Scores(Causal()))[0])

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_stride_equal_to_window_is_attention_in_blocks(self, impl):
    q, k, v = _arrays(4, 6)
    got = _attend(q, k, v, window=(2, 3), stride=(2, 3), impl=impl)

    def blocks(x):
      return x.reshape(2, 2, 2, 3, 2, 4).swapaxes(1, 2).reshape(4, 6, 2, 4)

    want, _ = softmax.reference(*map(blocks, (q, k, v)))
    _close(blocks(got), want)

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_dilation_is_independent_strided_slices(self, impl):
    q, k, v = _arrays(17)
    options: dict[str, Any] = {"window": 5, "stride": 2, "impl": impl}
    got = _attend(q, k, v, dilation=3, **options)
    for group in range(3):
      part = [x[:, group::3] for x in (q, k, v)]
      _close(got[:, group::3], _attend(*part, **options))

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_permuting_the_axes_commutes(self, impl):
    q, k, v = _arrays(5, 8)
    got = _attend(q, k, v, window=(3, 4), stride=(2, 1), dilation=(1, 2), impl=impl)
    turned = [x.swapaxes(1, 2) for x in (q, k, v)]
    want = _attend(*turned, window=(4, 3), stride=(1, 2), dilation=(2, 1), impl=impl)
    _close(got.swapaxes(1, 2), want)

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_a_window_of_one_gives_the_values(self, impl):
    q, k, v = _arrays(6)
    _close(_attend(q, k, v, window=1, impl=impl), v)

  def test_no_gradient_from_later_tokens_of_a_causal_axis(self):
    q, k, v = _arrays(4, 5)

    def early(k, v):
      out = _attend(q, k, v, window=3, causal=(True, False))
      return jnp.sin(out[:, :2]).sum()

    for gradient in jax.jit(jax.grad(early, argnums=(0, 1)))(k, v):
      np.testing.assert_array_equal(gradient[:, 2:], 0)
      self.assertGreater(jnp.abs(gradient[:, :2]).max(), 1e-3)

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_extra_keys_beside_whole_windows_are_more_keys(self, impl):
    q, k, v = _arrays(7)
    more_k, more_v, _ = _arrays(3, seed=1)
    got = _attend(q, k, v, window=7, extra_k=more_k, extra_v=more_v, impl=impl)
    joined = [jnp.concatenate(x, axis=1) for x in ((k, more_k), (v, more_v))]
    _close(got, softmax.reference(q, *joined)[0])

  @parameterized.parameters(*_IMPLEMENTATIONS)
  def test_no_extra_keys_change_nothing(self, impl):
    q, k, v = _arrays(7)
    none = jnp.zeros((1, 0, 2, 4))
    got = _attend(q, k, v, window=3, extra_k=none, extra_v=none, impl=impl)
    np.testing.assert_array_equal(got, _attend(q, k, v, window=3, impl=impl))


class PackedTest(parameterized.TestCase):
  @parameterized.product(
    form=((4, 1, 1), (4, 3, 1), (3, 2, 2), (5, 5, 3)),
    causal=(False, True),
    impl=_IMPLEMENTATIONS,
  )
  def test_documents_are_as_if_alone(self, form, causal, impl):
    window, stride, dilation = form
    options: dict[str, Any] = dict(zip(("window", "stride", "dilation"), form))
    options |= {"causal": causal, "impl": impl}
    pieces = ((9, 16, 7), (0, 5, 2), (5, 6, 3), (16, 19, -1), (19, 40, 3), (6, 9, -4))
    ids = np.zeros((1, 40), np.int32)
    for start, stop, number in pieces:
      ids[0, start:stop] = number
    q, k, v = _arrays(40)
    got, lse = _attend(q, k, v, segment_ids=jnp.array(ids), return_lse=True, **options)
    seen = np.zeros((40, 40), bool)
    for start, stop, number in pieces:
      for group in range(dilation if number >= 0 else 0):
        at = np.arange(start + group, stop, dilation)
        whole = not causal and at.size <= window
        rule = True if whole else _naive(at.size, window, stride, 1, causal)
        seen[np.ix_(at, at)] = rule
    scores = Scores(Dense(jnp.array(seen)[None, None]))
    want, want_lse = softmax.reference(q, k, v, scores)
    _close(got, want)
    _close(lse, want_lse)
    np.testing.assert_array_equal(got[:, 16:19], 0)

  def test_one_document_is_the_whole_sequence(self):
    q, k, v = _arrays(20)
    options: dict[str, Any] = {"window": 6, "stride": 4, "dilation": 3}
    ids = jnp.full((1, 20), 5)
    got = _attend(q, k, v, segment_ids=ids, **options)
    _close(got, _attend(q, k, v, **options))

  def test_padding_sees_no_extra_keys(self):
    q, k, v = _arrays(6)
    extra, _, _ = _arrays(2, seed=1)
    ids = jnp.array([[-1, 0, 0, 0, 0, -1]])
    for impl in _IMPLEMENTATIONS:
      got = _attend(
        q, k, v, window=3, extra_k=extra, extra_v=extra, segment_ids=ids, impl=impl
      )
      np.testing.assert_array_equal(got[:, ::5], 0)
      self.assertGreater(jnp.abs(got[:, 1:5]).min(), 0)


class DerivativesTest(parameterized.TestCase):
  def test_second_derivatives(self):
    q, k, v = _arrays(10, heads=1, size=2)
    options: dict[str, Any] = {"window": 3, "stride": 2, "causal": True}
    direction = [jnp.cos(x) for x in (q, k, v)]

    def along(impl):
      def loss(*arrays):
        return jnp.sin(neighborhood.attend(*arrays, **options, impl=impl)).sum()

      gradient = jax.grad(loss, argnums=(0, 1, 2))
      return jax.jit(lambda: jax.jvp(gradient, (q, k, v), tuple(direction)))()[1]

    jax.tree.map(_close, along("xla"), along("reference"))

  def test_memory_does_not_grow_with_the_window(self):
    q, k, v = _arrays(8192, heads=1, size=16)

    def size(window):
      def loss(q, k, v):
        return jnp.sin(neighborhood.attend(q, k, v, window=window)).sum()

      lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v)
      memory: Any = lowered.compile().memory_analysis()
      return memory.temp_size_in_bytes

    # A gather of each query's keys would need 8192 x 512 x 16 x 4 bytes, 268 MB.
    self.assertLess(size(512), 3e7)


if __name__ == "__main__":
  absltest.main()
