"""What training a recipe would cost, told before any GPU is taken: operations, memory, traffic, time."""
