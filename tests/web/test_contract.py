"""The page's reader of contracts, run by Node: damage is its own error, wherever there is more."""

import json
import shutil
import subprocess

import faults
import pytest
import tiny
from emulated import REPOSITORY

from convnet_edge.runtime import contract
from convnet_edge.runtime.model_file import open_model

READ = """
import { readFileSync } from "node:fs";
import { InputError, readContract } from "./contract.js";
try {
  console.log((await readContract(readFileSync(process.argv[1]))).isUnaltered);
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  await new Promise((resume) => { setTimeout(resume, 20); }); // for what nobody waits for
  console.log(error.message);
}
"""


@pytest.fixture
def read(tmp_path):
    if not shutil.which("node"):
        pytest.skip("no Node.js here")

    def read(model):
        path = tmp_path / "model.onnx"
        path.write_bytes(model)
        done = subprocess.run(
            ["node", "--input-type=module", "-e", READ, "--", str(path)],
            cwd=REPOSITORY / "convnet_edge" / "web", capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return read


def test_whole_file_is_unaltered_and_one_changed_letter_is_seen(read):
    assert read(tiny.grey()) == "true"
    altered = bytearray(tiny.grey())
    altered[altered.index(tiny.LABELS[0].encode()) + 1] ^= 1
    assert read(bytes(altered)) == "false"


@pytest.mark.parametrize("both", [False, True])
def test_damaged_pictures_are_the_pages_own_error(read, both):
    document = json.loads(json.dumps(open_model(tiny.grey()).contract.document))
    for sample in document["preprocessing"]["samples"]:
        sample["pixels"] = "no base64!"
    if both:
        document["goldens"]["images"] = "nor this!"
    said = read(contract.seal(faults.unsealed(tiny.grey()), document))
    assert said.startswith("the contract in the file is damaged (")
    assert "; next: export the model again" in said
