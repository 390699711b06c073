"""What importing the core loads."""

import subprocess
import sys

from tests.support.source import ROOT

PROGRAM = """
import sys
import qatfunc
unwanted = {"onnx", "onnxruntime", "onnxscript", "onnx_ir", "bridge"}
print(sorted(unwanted & {name.partition(".")[0] for name in sys.modules}))
"""


def test_the_core_loads_no_onnx_and_no_bridge():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
