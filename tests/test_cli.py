"""The command line: instant help, and wrong input as one sentence with exit code 2."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "pytorch_lightning", "xarray", "zarr", "deepspeed", "matplotlib", "sklearn")


def run(*words: str, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "skyframe", *words], capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["simulate", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words):
    code = (
        "import sys; sys.argv=['skyframe', *%r]\n"
        "from skyframe.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(','.join(m for m in %r if m in sys.modules), file=sys.stderr)" % (words, HEAVY)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "" and done.stdout


def test_a_recipe_mistake_needs_no_torch():
    code = (
        "import sys; sys.argv=['skyframe','pretrain','skysense_demo','train.max_step=1']\n"
        "from skyframe.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False"
    assert done.stderr.count("\n") == 1 and "did you mean 'max_steps'?" in done.stderr
