"""What ranks that train import, in seconds each: `run_ranks(..., preload="tests.preloaded")` does it once."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # before DeepSpeed is imported, as skyframe.train.strategy sets it

import deepspeed
import torch

import skyframe.train.run

assert torch and deepspeed and skyframe.train.run
