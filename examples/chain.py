"""The whole chain in Python, from training to the file for a device; about a minute on two cores.

Run it as it is (`python examples/chain.py`), or cell by cell in an editor that knows `# %%`.
Everything is written below the folder named on the command line, else runs/chain.
"""

# %% Where things go
import sys
from pathlib import Path

import numpy as np

import convnet_edge as ce

out_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/chain")

# %% Train: one epoch of the 10,000 images that come with the program
trained = ce.train(ce.TrainOptions(data="sample", epochs=1, out=out_dir / "convnet.safetensors"))
assert trained is not None
print(trained)

# %% Export: one file, proved equal to PyTorch before it gets its name
exported = ce.export(ce.ExportOptions(trained.checkpoint_path, out=out_dir / "convnet.onnx"))
print(exported)

# %% Verify: what any machine that gets the file can do
verified = ce.verify(ce.VerifyOptions(exported.model_path, out=out_dir / "convnet.verify.json"))
print(*(check.line() for check in verified.report.checks), sep="\n")

# %% Quantize: 8-bit integers, written only if they cost no more accuracy than allowed
quantized = ce.quantize(
    ce.QuantizeOptions(
        exported.model_path, data="sample", max_drop=2.0, out=out_dir / "convnet.int8.onnx"
    )
)
print(quantized.report.recommendation)

# %% Bench: both models, quickly; the verdict says whether to believe the numbers
models = (exported.model_path, quantized.model_path)
measured = ce.bench(ce.BenchOptions(models, quick=True, threads=1, out=out_dir / "bench"))
for one in measured:
    print(one.result)

# %% Report: a page that opens anywhere
results = tuple(one.result_path for one in measured)
reported = ce.report(ce.ReportOptions(results, out=out_dir / "report.html"))
print(reported)

# %% Bundle: one file for a device with Python, numpy and onnxruntime
bundled = ce.bundle(ce.BundleOptions(models, out=out_dir / "convnet.pyz"))
print(f"copy {bundled.path} to the device; there: python3 {bundled.path.name} selftest")

# %% Predict: arrays as in the data set, or the paths of pictures
classifier = ce.Classifier(exported.model_path, threads=1)
images = np.zeros((2, 28, 28), np.uint8)
images[:, 6:24, 10:18] = 200
print(classifier(images).top(3)[0])

# %% Every error says what was found, what was expected and what to do next
try:
    ce.BenchOptions(models, batch_sizes=(0,))
except ce.InputError as error:
    print(error)
