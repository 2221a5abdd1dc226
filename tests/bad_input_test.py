"""What a user can get wrong: one line, exit status 2, nothing lost."""

import contextlib
import errno
import io
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data, errors, evaluate, run, sample
from experiments.claims import __main__ as claims
from experiments.docs import __main__ as docs
from experiments.training.checkpoints import Checkpoints
from tests.run_test import losses, tiny

_ROOT = Path(__file__).parent.parent


def command(*arguments):
  """(exit status, stderr) of experiments.run in this process."""
  error = io.StringIO()
  line = mock.patch.object(sys, "argv", ["run", *arguments])
  with contextlib.redirect_stderr(error), line:
    status = errors.guard(run.main)
  return status, error.getvalue()


class CommandTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    for name in ("kjv", "mnist5k"):
      data.load(name)  # making them says so on stderr

  def setUp(self):
    super().setUp()
    self.workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"

  @parameterized.named_parameters(
    ("slug", "lm.py:lightening2", [], "lightening2.*did you mean lightning2"),
    ("option", "lm.py", ["--config.model.dpth=3"], "'dpth'.*did you mean depth"),
    ("layer", "lm.py", ["--config.attention.window=3"], "'window'.*kv_heads"),
    ("section", "lm.py", ["--config.modle.depth=3"], "'modle'.*did you mean model"),
    ("value", "lm.py", ["--config.steps=many"], "steps=many"),
    ("flag", "lm.py", ["--wrkdir=x"], "wrkdir"),
    ("file", "nothing.py", [], "nothing.py"),
    ("host", "vit.py:lightning2", [], "lightning2.*forms causal.*takes image"),
    ("kind", "lm.py", ["--config.data.name=mnist5k"], "mnist5k"),
    ("data", "lm.py", ["--config.data.name=kjb"], "'kjb'.*did you mean kjv"),
    ("heads", "lm.py", ["--config.attention.heads=3"], "dim = 128.*heads = 3"),
    ("kv_heads", "lm.py", ["--config.attention.kv_heads=3"], "4 .*kv_heads = 3"),
    ("batch", "lm.py", ["--config.optimizer.accumulate=3"], "16 .*accumulate = 3"),
    ("mesh", "lm.py", ["--config.mesh.model=3"], "mesh.model = 3.*1 devices"),
    ("depth", "lm.py:lightning2,dot_product", ["--config.model.depth=3"], "depth = 3"),
    ("dtype", "lm.py", ["--config.dtype=float61"], "float61.*bfloat16"),
    ("steps", "lm.py", ["--config.steps=0"], "steps = 0.*1 or more"),
    ("remat", "lm.py", ["--config.model.remat=some"], "'some'.*full"),
    ("host_name", "lm.py", ["--config.host=langage"], "langage"),
    ("seed", "lm.py", ["--config.seed=-1"], "seed = -1.*0 or more"),
    ("large_seed", "lm.py", [f"--config.seed={2**63}"], "seed = .*below"),
    ("eval_batches", "lm.py", ["--config.eval_batches=-1"], "eval_batches = -1"),
    ("rate", "lm.py", ["--config.optimizer.rate=nan"], "optimizer.rate = nan"),
    ("b2", "lm.py", ["--config.optimizer.b2=1.0"], "optimizer.b2 = 1.0.*below 1"),
    ("warmup", "lm.py", ["--config.optimizer.warmup=-2"], "warmup = -2"),
    ("warm", "lm.py", ["--config.sample.temperature=nan"], "temperature = nan"),
    ("prompt", "lm.py", ["--config.sample.prompt=a\udcff"], "not UTF-8 .*character 1"),
    (
      "no_dim",
      "lm.py",
      ["--config.model.dim=0"],
      "error: model.dim = 0; it must be an integer, 1 or more: ",
    ),
    (
      "no_heads",
      "lm.py",
      ["--config.attention.heads=-1"],
      "attention.heads = -1; it must be an integer, 1 or more: ",
    ),
    ("size", "backbone.py:maxvit", ["--config.model.size=tny"], "'tny'.*mean tiny"),
    (
      "network",
      "backbone.py:dot_product",
      [],
      "dot_product.*image;.*takes backbone",
    ),
    ("two", "backbone.py:maxvit,halo", [], "maxvit,halo.*takes one system"),
    ("stages", "backbone.py:halo", ["--config.model.depths=(1,)"], "one entry a stage"),
    ("pod", "lm.py", ["--distributed=a:1,x,2"], "ADDRESS:PORT,COUNT,INDEX"),
  )
  def test_is_one_line_and_status_2(self, config, changes, message):
    path = f"{_ROOT}/configs/{config}"
    status, error = command("--config", path, "--workdir", str(self.workdir), *changes)
    self.assertEqual(status, 2)
    self.assertRegex(error, message)
    self.assertLen(error.strip().splitlines(), 1)
    self.assertFalse(self.workdir.exists())

  def test_missing_flags(self):
    self.assertRegex(command()[1], "--config is missing")
    self.assertRegex(command("--config", f"{_ROOT}/configs/lm.py")[1], "--workdir")

  def test_a_folder_that_is_no_run(self):
    for program in (evaluate, sample):
      for folder in (self.workdir, Path(__file__), Path(__file__) / "a"):
        with self.assertRaisesRegex(errors.UserError, "holds no run"):
          program.main(["--workdir", str(folder)])

  @parameterized.parameters(
    ("--count", "0", "--count = 0; it must be 1 or more"),
    ("--count", "-1", "--count = -1"),
    ("--temperature", "nan", "temperature = nan; it must be 0 or more"),
    ("--temperature", "-1", "temperature = -1"),
    ("--length", "0", "length = 0"),
    ("--prompt", "a\udcff", "--prompt = 'a.udcff' is not UTF-8 from character 1 on"),
    ("--prompt", "", "prompt is empty"),
    ("--seed", str(2**63), "--seed = 9223372036854775808; it must have 64 bits"),
    ("--policy", "halo", "unknown policy 'halo'.*full"),
    ("--policy", "full:pages=2", "policy 'full' has no options"),
  )
  def test_what_cannot_be_sampled(self, flag, value, message):
    with self.assertRaisesRegex(errors.UserError, message):
      sample.main(["--workdir", str(self.workdir), flag, value])

  def test_a_number_of_batches_below_0(self):
    with self.assertRaisesRegex(errors.UserError, "--batches = -1; it must be 0"):
      evaluate.main(["--workdir", str(self.workdir), "--batches", "-1"])

  def test_claims_that_nothing_could_keep(self):
    path = self.workdir / "results" / "claims" / "halo.json"
    path.parent.mkdir(parents=True)
    for text, message in (
      ("[]", "halo.json holds no JSON object"),
      ("{", "halo.json cannot be read"),
    ):
      path.write_text(text)
      with self.assertRaisesRegex(errors.UserError, message):
        claims.main(["halo", "--root", str(self.workdir)])
    with self.assertRaisesRegex(errors.UserError, "did you mean halo"):
      claims.main(["hallo"])

  def test_pages_without_a_place(self):
    self.workdir.mkdir()
    path = self.workdir / "README.md"
    with self.assertRaisesRegex(errors.UserError, "there is no README.md"):
      docs.main(["--root", str(self.workdir)])
    for text, message in (
      ("<!-- systems -->\n", "has no <!-- end of systems -->"),
      ("<!-- systems -->\n<!-- end of systems --><!-- b -->\n", "unknown part 'b'"),
    ):
      path.write_text(text)
      with self.assertRaisesRegex(errors.UserError, message):
        docs.main(["--root", str(self.workdir)])
    path.write_text("# x")
    with self.assertRaisesRegex(errors.UserError, "has no place for the table"):
      docs.main(["--root", str(self.workdir)])
    path.write_text("<!-- systems -->\n<!-- end of systems -->")
    with self.assertRaisesRegex(errors.UserError, "did you mean halo"):
      docs.main(["hallo", "--root", str(self.workdir)])
    docs.main(["halo", "--root", str(self.workdir)])
    self.assertIn("| softmax |", path.read_text())


class RunTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "whole"
    run.run(tiny(), cls.whole)

  def setUp(self):
    super().setUp()
    self.workdir = Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"

  def test_a_workdir_of_another_config(self):
    run.run(tiny(steps=4), self.workdir)
    with self.assertRaisesRegex(errors.UserError, "steps: 4 -> 12.*--resume=force"):
      run.run(tiny(), self.workdir)
    run.run(tiny(), self.workdir, force=True)
    self.assertEqual(losses(self.workdir)[-1][1], 12)

  def test_the_newest_checkpoint_damaged(self):
    run.run(tiny(steps=8), self.workdir)
    folder = self.workdir / "checkpoints"
    big = max((folder / "8").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
    big.write_bytes(big.read_bytes()[: big.stat().st_size // 2])
    (folder / "12.orbax-checkpoint-tmp-1").mkdir()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      run.run(tiny(steps=8), self.workdir)
    self.assertRegex(said.getvalue(), "step 8 cannot be read .*falling back")
    self.assertRegex(said.getvalue(), "cut off while written")
    self.assertRegex(said.getvalue(), "from the checkpoint of step 4")
    self.assertTrue((self.workdir / "unreadable" / "8").exists())
    self.assertEqual(losses(self.workdir)[-1][1], 8)

  def test_no_space_while_saving_keeps_the_earlier_checkpoint(self):
    save = Checkpoints.save

    def full(self, step, *arguments):
      if step >= 8:
        self._manager.save_checkpointables = _no_space
      save(self, step, *arguments)

    Checkpoints.save = full
    try:
      with self.assertRaisesRegex(errors.UserError, "step 8 .*No space.* step 4"):
        run.run(tiny(), self.workdir)
    finally:
      Checkpoints.save = save
    run.run(tiny(), self.workdir)
    self.assertEqual(losses(self.workdir), losses(self.whole))

  def test_a_loss_that_is_not_finite_stops_the_run(self):
    config = tiny(optimizer__rate=1e30, optimizer__warmup=6, optimizer__clip=0.0)
    with self.assertRaisesRegex(errors.UserError, "step [0-9]+: .* is (nan|inf)"):
      run.run(config, self.workdir)
    (dump,) = self.workdir.glob("bad_batch_*.npz")
    with np.load(dump) as batch:
      self.assertEqual(batch["tokens"].shape, (4, 16))


def _no_space(*_, **__):
  raise OSError(errno.ENOSPC, "No space left on device")


if __name__ == "__main__":
  absltest.main()
