"""The benchmark of decoding: what it counts, how it fills caches, and a tiny run."""

import dataclasses
import json
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from attnjax import contract, policies
from experiments import decoding
from experiments.bench import decode, records


class DecodeTest(absltest.TestCase):
  def test_bytes_by_hand(self):
    # 2 x 64 numbers of 4 bytes, of a key and of a value.
    self.assertEqual(decode.counted(None, 1000, 4), 4 * 1000 * 2 * 2 * 64 * 4)
    policy = contract.load("kinetics").Policy(
      blocks=2, block=16, local=8, sink=4, dense_layers=(0,)
    )
    # 63 blocks before 988: one layer reads 1000 keys, three 4 + 32 + 964 - 63 x 16 + 8
    # and the keys of all blocks.
    count = (1000 - 8 - 4) // 16
    some = 1000 - (count - 2) * 16
    want = (1000 + 3 * some) * 2 + 3 * count
    self.assertEqual(decode.counted(policy, 1000, 4), want * 2 * 64 * 4)

  def test_every_kind_of_policy_once(self):
    texts = decode.every()
    self.assertEqual(texts[0], "full")
    self.assertContainsSubset({"delta", "kinetics"}, texts)
    kinds = [type(decoding.policy(text)) for text in texts]
    self.assertLen(set(kinds), len(texts))
    names = {type(decoding.policy(text)) for text in decoding.names()}
    self.assertEqual(set(kinds), names)

  def test_a_cache_is_filled_as_by_a_prompt(self):
    policy = contract.load("kinetics").Policy(blocks=1, block=4, local=4, sink=1)
    model = decode.model()
    ids = jnp.zeros((1, 24), jnp.int32)
    fill = jax.jit(lambda m, ids: decode.filled(m, ids, policy=policy, room=8))
    ((got, _),) = fill(model, ids)
    # The first layer's keys, appended to a cache of its own.
    alone = policies.under(policy, model.init_cache(1, 32))[0][0]
    one = jax.tree.map(lambda x: x[0], alone)
    k, v, ids = (
      got.keys[0, :, :24],
      got.values[0, :, :24],
      jnp.zeros((1, 24), jnp.int32),
    )
    want, _ = one.appended(k, k, v, ids)
    for name in ("keys", "values", "segment_ids", "length", "slots", "count", "own"):
      np.testing.assert_allclose(getattr(got, name)[0], getattr(want, name), rtol=1e-6)
    np.testing.assert_array_equal(got.prompt, 24)
    self.assertTrue((got.keys[1] != got.keys[0]).any())

  def test_a_tiny_run(self):
    root = Path(self.enterContext(tempfile.TemporaryDirectory()))
    kept: list[list[dict]] = []
    texts = ["full", "delta:full_layers=0,pages=2,page=4,recent_pages=1"]
    with mock.patch.object(decode, "PATIENCE", 0.0):
      rows, _ = decode.rows(texts, (96, 48), 0.2, kept.append)
    self.assertEqual([row["T"] for row in rows], [48, 96] * 2)
    self.assertEqual([row["policy"] for row in rows], [texts[0]] * 2 + [texts[1]] * 2)
    self.assertEqual(kept, [rows[:2], rows[2:]])
    for row in rows:
      self.assertGreater(min(row["seconds"], row["full_seconds"]), 0)
      self.assertEqual(row["full_bytes"], 4 * row["T"] * 1024)
      # Longer prompts are not run after a slow one.
      self.assertEqual(row["prompt"] is None, row["T"] == 96)
    self.assertEqual(rows[1]["share"], 1.0)
    # One layer of four sees all, the others at most a fifth.
    self.assertLess(rows[3]["share"], 0.25 + 0.75 * 0.2 + 1e-6)
    self.assertLess(rows[3]["choosing"], 0.2 + 1e-6)
    self.assertGreater(rows[3]["cache"], rows[1]["cache"])
    paths = records.written("decode", rows, root)
    self.assertEqual(paths[0].name, "full.json")
    saved = json.loads(paths[1].read_text(encoding="utf-8"))
    self.assertEqual((saved["policy"], len(saved["rows"])), (texts[1], 2))
    self.assertEqual(saved["rows"], rows[2:])

  def test_a_full_cache_forgets_the_steps_of_a_race(self):
    steps = decode.Steps(decode.model(), None, 16)
    first = dataclasses.replace(steps.cache[0][0])
    length = np.asarray(first.length)
    for _ in range(3):
      steps()
    np.testing.assert_array_equal(steps.cache[0][0].length, length + 3)
    np.testing.assert_array_equal(steps.again().cache[0][0].length, length)

  def test_unknown_policies_and_shares(self):
    with self.assertRaisesRegex(ValueError, "policy 'detla'"):
      decode.rows(["detla"], (32,))
    with self.assertRaisesRegex(ValueError, "fraction = 2"):
      decode.rows(["kinetics"], (32,), fraction=2.0)


if __name__ == "__main__":
  absltest.main()
